"""Datasets that need no download: handwriting-like Devanagari drawn from font packages, and scikit-learn's digit scans.

A drawn image starts as the outline of a light font, is bent like a hand would bend it, fitted to the frame, and only
then thickened to the width of a pen, so that the pen stays round however much the letter is stretched.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from lekhani.data.raw import RawImages
from lekhani.data.spec import DEVANAGARI, MNIST, Bytes
from lekhani.errors import LekhaniError
from lekhani.typefaces import SANS, SERIF, Family, Floats, Ints, contours, fill, open_font, outline, shape

Range = tuple[float, float]


FAMILIES = (SANS, SERIF)  # two designs, so that a class is more than one shape
WEIGHTS = (100, 200, 300)  # light only: the pen adds the rest, and heavy outlines close up under it
WIDTHS = (75, 100)  # changes the proportions inside a letter, which stretching the whole cannot

# Ranges of variation. Lengths are in pixels of a 32x32 image and scale with `size`.
FRAME = 32.0
EXTENT: Range = (26.0, 28.5)  # DHCD crops to the ink and leaves two pixels all round
SQUARENESS: Range = (0.7, 1.0)  # how far a narrow or flat letter is stretched to the square that DHCD fills; 1: fully
MARGIN = 1.5  # no ink nearer to the edge, so that blur never crops the top line
ROTATION: Range = (-0.15, 0.15)  # radians; about 9 degrees, as the slant of a top line written by hand
SHEAR: Range = (-0.25, 0.35)  # hands lean forward more than back
BEND: Range = (0.12, 0.38)  # largest shift of a knot of the bending field, where the letter spans -1 to 1
PEN: Range = (2.0, 4.0)  # stroke width
INK = 0.36  # largest share of the letter's box that strokes may fill, so that crowded letters keep their counters
PRESSURE = 0.4  # how much the pen's width varies along a letter, at a knot of its field
BLUR: Range = (0.38, 0.56)  # deviation of the scanner's spot
GAIN: Range = (0.95, 1.4)  # below 1 strokes stay grey, above 1 their edges harden

# Of the bending field on each axis; two thirds apart they bend whole strokes and roughen none.
KNOTS = np.linspace(-5 / 3, 5 / 3, 6)
SUPERSAMPLE = 4
BLUR_LEVELS = 8  # blur comes in so many steps, because each is a matrix kept for reuse


@dataclass(frozen=True)
class _Glyph:
    """An outline of P points, fit to be bent.

    `xy` [P,2] in -1..1 with y down, `after` [P] the next point of the same contour, `before` [P] the previous,
    `basis` [P,36] the spline weights of the bending field, `aspect` width over height.
    """

    xy: Floats
    after: Ints
    before: Ints
    basis: Floats
    aspect: float


@cache
def _glyph(family: Family, weight: int, width: int, text: str) -> _Glyph:
    font = open_font(family, weight, width)
    shaped = shape(font, text)
    if len(shaped) != 1 or shaped[0][0] == 0:  # a visible halant, a dotted circle, or no such letter at all
        problem = f"The font {family.file} has no single glyph for {text}"
        raise LekhaniError(f"{problem}; run `pip install --upgrade {family.package}`.")
    drawn = outline(contours(font, shaped[0][0]))
    xy = drawn.xy * (1, -1)
    low, high = xy.min(axis=0), xy.max(axis=0)
    xy = (xy - (low + high) / 2) / ((high - low) / 2)
    along_x, along_y = (_spline(xy[:, axis, None] - KNOTS) for axis in (0, 1))
    basis = (along_x[:, :, None] * along_y[:, None, :]).reshape(len(xy), -1)
    return _Glyph(xy, drawn.after, drawn.before, basis, float((high - low)[0] / (high - low)[1]))


def _spline(distance: Floats) -> Floats:
    """Weight of a knot of the uniform cubic B-spline at this distance from it."""
    t = np.abs(distance) / (KNOTS[1] - KNOTS[0])
    outer, inner = np.clip(2 - t, 0, None), np.clip(1 - t, 0, None)
    weight: Floats = (outer**3 - 4 * inner**3) / 6
    return weight


def _between(bounds: Range, u: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * u


def _draw(random: np.random.Generator, text: str, size: int) -> Bytes:
    """One image [size,size], white on black. Takes the same count of random numbers whatever it draws."""
    u = random.random(14).tolist()
    knots = 2 * random.random((len(KNOTS) ** 2, 3)) - 1
    family, weight, width = (options[int(u[i] * len(options))] for i, options in enumerate((FAMILIES, WEIGHTS, WIDTHS)))
    glyph = _glyph(family, weight, width, text)

    # Bend, slant, turn: still in the letter's own frame, which spans -1 to 1.
    field = glyph.basis @ knots
    bent = glyph.xy + _between(BEND, u[3]) * field[:, :2]
    turn, shear = _between(ROTATION, u[4]), _between(SHEAR, u[5])
    cos, sin = math.cos(turn), math.sin(turn)
    xy = bent @ np.array([[cos, sin], [-sin - shear * cos, cos - shear * sin]])

    # Fit to the frame, leaving room for the pen.
    pen = _between(PEN, u[6])
    extent = np.array([_between(EXTENT, u[7]), _between(EXTENT, u[8])])
    narrowing = glyph.aspect ** (1 - _between(SQUARENESS, u[9]))
    extent *= (min(1.0, narrowing), min(1.0, 1 / narrowing))
    low, high = xy.min(axis=0), xy.max(axis=0)
    place = MARGIN + (FRAME - 2 * MARGIN - extent) * u[10:12] + pen / 2
    xy = place + (xy - low) * ((extent - pen) / (high - low))

    # Thicken: what the outline lacks of the pen's width is added along its normals.
    edge = xy[glyph.after] - xy
    length = np.hypot(edge[:, 0], edge[:, 1])
    stroke_length = length.sum() / 2
    area = abs((xy[:, 0] * edge[:, 1] - xy[:, 1] * edge[:, 0]).sum()) / 2
    pen = min(pen, INK * extent.prod() / stroke_length)
    offset = max(0.0, pen - area / stroke_length) / 2 * (1 + PRESSURE * field[:, 2])
    tangent = xy[glyph.after] - xy[glyph.before]
    tangent /= np.maximum(np.hypot(tangent[:, 0], tangent[:, 1]), 1e-9)[:, None]
    # TrueType outlines run clockwise, so the outside lies to the left of the direction of travel.
    xy = xy + offset[:, None] * np.stack([tangent[:, 1], -tangent[:, 0]], axis=1)

    cells = size * SUPERSAMPLE
    filled = fill(np.clip(xy * (cells / FRAME), 0, cells), glyph.after, cells, cells)
    # Weights and cells are small whole numbers, so these products are exact in whatever order a BLAS adds them up.
    soften = _soften(size, int(u[12] * BLUR_LEVELS))
    grey = (soften @ filled @ soften.T).astype(np.float64) * (_between(GAIN, u[13]) * 255 / 2**16)
    image: Bytes = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return image


@cache
def _soften(size: int, level: int) -> npt.NDArray[np.float32]:
    """Blur and downsampling along one axis as a matrix [size, size * SUPERSAMPLE].

    It holds whole numbers, and a full row sums to about 256.
    """
    deviation = _between(BLUR, level / (BLUR_LEVELS - 1)) * size / FRAME
    centre = (np.arange(size * SUPERSAMPLE) + 0.5) / SUPERSAMPLE
    distance = centre - (np.arange(size)[:, None] + 0.5)
    weight = np.exp(-0.5 * (distance / deviation) ** 2)
    return np.rint(256 / SUPERSAMPLE / (deviation * math.sqrt(2 * math.pi)) * weight).astype(np.float32)


def devanagari(seed: int, per_class_train: int, per_class_test: int, size: int = 32) -> RawImages:
    """Draw all 46 classes of DHCD: N images uint8 [size,size], white strokes on black, train images first, then test.

    An image depends on (seed, split, label, index) alone, so asking for more images changes none of the first ones.
    Raises LekhaniError when a font package is missing.
    """
    images: list[Bytes] = []
    labels: list[int] = []
    members: list[str] = []
    splits: list[Literal["train", "test", ""]] = []
    parts: tuple[tuple[Literal["train", "test"], int], ...] = (("train", per_class_train), ("test", per_class_test))
    for stream, (split, per_class) in enumerate(parts):
        for glyph_class in DEVANAGARI:
            for index in range(per_class):
                sequence = np.random.SeedSequence(seed, spawn_key=(stream, glyph_class.label, index))
                images.append(_draw(np.random.default_rng(sequence), glyph_class.glyph, size))
                labels.append(glyph_class.label)
                members.append(f"{split}/{glyph_class.name}/{index:06d}")
                splits.append(split)
    return RawImages(images, np.array(labels, np.int64), DEVANAGARI, members, splits)


def mnist() -> RawImages:
    """The 1,797 digit scans that come with scikit-learn: uint8 [8,8], 0 to 255, white on black, without a split."""
    from sklearn.datasets import load_digits  # here, because it takes a second to import

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # scans count inked dots, 0 to 16
    members = [f"digits/{index:06d}" for index in range(len(images))]
    return RawImages(list(images), digits.target.astype(np.int64), MNIST, members, [""] * len(images))
