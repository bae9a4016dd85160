"""From a picture to ink, glyph by glyph, and into the frame that a judge reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from lekhani.data.spec import Bytes
from lekhani.errors import UsageError
from lekhani.handwriting.rules import without_rules
from lekhani.inference.session import Floats, Reader

FAINTEST = 12  # grey levels between ink and paper below which a picture counts as blank
# The share of the frame that ink takes in its longer direction: in MNIST by definition, elsewhere as in DHCD.
SHARES = {"mnist": 20 / 28}
SHARE = 28 / 32
MOST = 50  # glyphs in a row
BLANK = "The image shows nothing: ink and paper hardly differ."

Reason = Literal["none", "several", "rows", "unsure"]


class PictureError(UsageError):
    """A picture that cannot be read as it is, for a `reason`: it shows nothing, several glyphs, rows, or one in doubt.

    `glyphs` is about how many it shows, where that is known.
    """

    def __init__(self, message: str, reason: Reason, glyphs: int | None = None) -> None:
        super().__init__(message)
        self.reason, self.glyphs = reason, glyphs


def frame_picture(picture: Bytes, reader: Reader) -> Bytes:
    """A grey picture [H,W] of one glyph as in the judge's data: uint8 [S,S], white on black, in its size and place.

    A picture in the judge's own size is taken to be such a frame already, but for its polarity. Raises UsageError for a
    blank one.
    """
    if not is_frame(picture, reader):
        return frame_ink(ink_of(picture).ink, reader)
    _relative_ink(picture)
    return 255 - picture if _paper(picture) > 127 else picture


def is_frame(picture: Bytes, reader: Reader) -> bool:
    """Whether a picture has the size of the judge's images, which are taken as they are."""
    return picture.shape == (reader.image_size, reader.image_size)


@dataclass(frozen=True)
class Page:
    """How much ink lies on each pixel of a picture, float32 [H,W] from 0 to 1.

    `is_level` says that it stands upright for sure. `doubt`, if any, is the same without lines that may be rules or
    strokes.
    """

    ink: Floats
    is_level: bool = False
    doubt: "Page | None" = None


def ink_of(picture: Bytes) -> Page:
    """The ink of a grey picture [H,W], dark on light or light on dark.

    Ink is what differs from the paper around it, so that shadows and the paper's shade do not count, without specks and
    the rules of the paper. Rules tell how the paper is turned, and then it is turned upright. Raises UsageError for a
    picture without ink.
    """
    ink = _relative_ink(picture)
    cleaned, rise, doubtful = without_rules(ink)
    other = _page(*without_rules(ink, thick=True)[:2]) if doubtful else None
    page = _page(cleaned, rise, other) or other
    if page is None:
        raise PictureError(BLANK, "none")
    return page


def _page(ink: Floats, rise: float | None, doubt: Page | None = None) -> Page | None:
    """What `without_rules` returned, upright and without specks; None where no ink is left."""
    # Paper's own unevenness stays below a fifth of the ink; what is above four fifths is full ink.
    stretched = np.clip((ink - 0.2) / 0.6, 0, 1)
    if not (stretched > 0.5).any():
        return None
    return Page(turned(_without_specks(stretched), -(rise or 0)), rise is not None, doubt)


def turned(ink: Floats, degrees: float) -> Floats:
    """Ink turned anticlockwise, in a picture that is as large as that needs."""
    if abs(degrees) < 0.5:
        return ink
    image = Image.fromarray(ink).rotate(degrees, Image.Resampling.BILINEAR, expand=True)
    return np.asarray(image, np.float32)


def shrunk(ink: Floats, side: int) -> Floats:
    """Ink so small that its strokes are at most `side` pixels high."""
    high = int(np.ptp(np.flatnonzero(ink.max(1) > 0.5))) + 1
    if high <= side:
        return ink
    size = [max(round(length * side / high), 1) for length in ink.shape[::-1]]
    return np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.BOX), np.float32)


def _relative_ink(picture: Bytes) -> Floats:
    """Ink [H,W] in parts of what the strokes have; raises UsageError when nothing differs from the paper."""
    grey = picture.astype(np.float32)
    if max(grey.shape) >= 64:
        grey = ndimage.gaussian_filter(grey, max(grey.shape) / 400)  # the grain of paper and camera
    low, high = np.percentile(grey, [0.5, 99.5])
    paper = _paper(picture)
    if high - paper > paper - low:
        grey, paper = 255 - grey, 255 - paper
    # Wider than any stroke, so that closing leaves the paper alone: its shade at each place.
    reach = max(min(grey.shape) // 3, 3) | 1
    small = max(reach // 15, 1)
    coarse = grey[::small, ::small]
    shade = ndimage.grey_closing(coarse, max(reach // small, 3), mode="nearest")
    shade = np.asarray(Image.fromarray(shade).resize(grey.shape[::-1], Image.Resampling.BILINEAR))
    ink = np.clip(shade - grey, 0, None)
    top = float(np.percentile(ink[ink > 0.25 * ink.max()], 75)) if ink.max() > 0 else 0.0
    if top < FAINTEST:
        raise PictureError(BLANK, "none")
    relative: Floats = ink / top
    return relative


def _paper(picture: Bytes) -> float:
    """The shade of the paper, which is what most of the outermost pixels show."""
    edge = max(min(picture.shape) // 40, 1)  # wider than a rule that lies along the border
    parts = picture[:edge], picture[-edge:], picture[:, :edge], picture[:, -edge:]
    return float(np.median(np.concatenate([part.ravel() for part in parts])))


def _without_specks(ink: Floats) -> Floats:
    """Ink [H,W] without spots of less than a hundredth of the largest stroke's ink."""
    spots, count = ndimage.label(ink > 0.5, np.ones((3, 3)))
    if count < 2:
        return ink
    mass = ndimage.sum_labels(ink, spots, np.arange(count + 1))
    dust = np.flatnonzero(mass < 0.01 * mass[1:].max())
    return np.where(ndimage.binary_dilation(np.isin(spots, dust[dust > 0]), iterations=2), 0, ink).astype(np.float32)


def frame_ink(ink: Floats, reader: Reader) -> Bytes:
    """Ink [H,W] in [0,1] cropped and fitted into the judge's frame, uint8 [S,S].

    MNIST's digits are centred by mass, others by their box.
    """
    size = reader.image_size
    rows, columns = (np.flatnonzero(ink.max(axis) > 0.5) for axis in (1, 0))
    cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = SHARES.get(reader.dataset, SHARE) * size / max(cut.shape)
    height, width = (max(round(side * scale), 1) for side in cut.shape)
    resampling = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    small = np.asarray(Image.fromarray(cut).resize((width, height), resampling))
    small = np.clip(small / max(float(np.percentile(small, 98)), 0.3), 0, 1)  # thin strokes fade when they shrink
    top, left = (size - height) / 2, (size - width) / 2
    if reader.dataset == "mnist":
        down, across = ndimage.center_of_mass(small)
        top, left = (size - 1) / 2 - down, (size - 1) / 2 - across
    y, x = (int(np.clip(round(place), 0, size - side)) for place, side in ((top, height), (left, width)))
    placed: npt.NDArray[np.float32] = np.zeros((size, size), np.float32)
    placed[y : y + height, x : x + width] = small
    return np.rint(255 * placed).astype(np.uint8)


@dataclass
class _Glyph:
    """Strokes of one glyph: the first column and row, those after the last, and the numbers of its spots."""

    left: int
    right: int
    top: int
    bottom: int
    spots: list[int]

    def add(self, other: "_Glyph") -> None:
        self.right = max(self.right, other.right)
        self.top, self.bottom = min(self.top, other.top), max(self.bottom, other.bottom)
        self.spots += other.spots


def split_glyphs(ink: Floats) -> list[Floats]:
    """The glyphs of one row, from left to right, each as ink [H,W] of the whole picture's size without the others'.

    Strokes that do not touch belong together when one lies above the other, or when one is small and close by. Raises
    PictureError for several rows, and for more than 50 glyphs.
    """
    spots, count = ndimage.label(ink > 0.5, np.ones((3, 3)))
    boxes = ndimage.find_objects(spots)
    mass = ndimage.sum_labels(ink, spots, np.arange(1, count + 1))
    tall = max(box[0].stop - box[0].start for box in boxes)
    rows = _rows([box for box in boxes if box[0].stop - box[0].start > 0.5 * tall])
    if rows > 1:
        raise PictureError(f"The image shows {rows} rows of glyphs; cut it to one.", "rows")
    large = mass >= 0.01 * mass.max()  # without dust
    strokes = [_Glyph(x.start, x.stop, y.start, y.stop, [i + 1]) for i, (y, x) in enumerate(boxes) if large[i]]
    glyphs: list[_Glyph] = []
    for stroke in sorted(strokes, key=lambda one: (one.left, one.right)):
        if glyphs and _same_glyph(glyphs[-1], stroke, tall):
            glyphs[-1].add(stroke)
        else:
            glyphs.append(stroke)
    if len(glyphs) > MOST:
        problem = f"The image shows {len(glyphs):,} glyphs, and {MOST} is the most"
        raise PictureError(f"{problem}; cut it, or take it on plainer paper.", "several", len(glyphs))
    reach = ndimage.grey_dilation(spots, size=3)  # the soft edges of strokes
    return [np.where(np.isin(reach, glyph.spots), ink, 0).astype(np.float32) for glyph in glyphs]


def _same_glyph(left: _Glyph, right: _Glyph, tall: int) -> bool:
    lower = min(left.bottom - left.top, right.bottom - right.top) / tall
    overlap = min(left.right, right.right) - right.left
    if overlap > 0.5 * min(left.right - left.left, right.right - right.left):
        return lower < 0.75  # two tall strokes that lean over one another are two digits
    return lower < 0.4 and overlap > -0.08 * tall


def _rows(boxes: Sequence[tuple[slice, slice]]) -> int:
    """How many rows strokes in these boxes stand in."""
    rows, end = 0, -1
    for high, _ in sorted(boxes, key=lambda box: box[0].start):
        rows += high.start >= end
        end = max(end, high.stop)
    if rows == 1 and any(_is_above(one, other) for one in boxes for other in boxes):
        return 2  # in a picture that is turned
    return rows


def _is_above(one: tuple[slice, slice], other: tuple[slice, slice]) -> bool:
    """Whether a stroke lies over another one."""
    overlap = min(one[1].stop, other[1].stop) - max(one[1].start, other[1].start)
    narrow = min(box[1].stop - box[1].start for box in (one, other))
    return bool(one[0].stop <= other[0].start and overlap > 0.3 * narrow)


def width(ink: Floats) -> float:
    """The width of what is written, in parts of its height."""
    high, wide = (int(np.ptp(np.flatnonzero(ink.max(axis) > 0.5))) + 1 for axis in (1, 0))
    return wide / high


def count_joined(ink: Floats) -> int:
    """How many glyphs hang from one head line in ink [H,W]: what comes apart below it and is not small."""
    rows = np.flatnonzero(ink.max(1) > 0.5)
    cut = ink[rows[0] : rows[-1] + 1]
    upper = (cut[: len(cut) // 2] > 0.5).sum(1)
    if upper.max() < 0.6 * (cut.max(0) > 0.5).sum():
        return 1
    below = np.flatnonzero(upper > 0.5 * upper.max())[-1] + 1
    return sum(len(np.flatnonzero(part.max(1) > 0.5)) > 0.4 * len(cut) for part in split_glyphs(cut[below:]))
