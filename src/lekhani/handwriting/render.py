"""From a row of ink to a picture: paper, ink, rotation, perspective, blur and noise, as a LineStyle says."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from lekhani.errors import UsageError
from lekhani.handwriting.background import Background
from lekhani.handwriting.layout import Row
from lekhani.inference.session import Floats

Strength = Literal["none", "light", "strong"]
Paper = Literal["plain", "ruled", "squared"]
Ink = Literal["any", "black", "blue", "pencil"]
Effect = Literal["rotation", "ink", "paper", "blur", "noise", "perspective"]
EFFECTS: tuple[str, ...] = get_args(Effect)
STREAMS = (*EFFECTS, "rules", "background")  # each has random numbers of its own, so that none changes the others
STRENGTHS = {"none": 0.0, "light": 1.0, "strong": 2.5}
MARGIN = 0.14  # of the height, above and below the ink
_INKS = {"black": [[25, 25, 30]], "blue": [[22, 35, 90], [30, 50, 140]], "pencil": [[70, 70, 75]]}  # RGB
_RULES = np.array([[120, 160, 215], [150, 150, 160], [215, 150, 150], [130, 185, 175]], np.float32)
_Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LineStyle:
    """How lines of handwriting look.

    `height` of the picture in pixels, 16 to 512; `join` draws the head line from letter to letter; `variety` in [0,1]
    is how much the glyphs of a line differ beyond their letters; `augment` is the strength of all effects but those in
    `without`; `paper` is plain, ruled or squared, and `background` is there instead of white or tinted paper; `ink` is
    black, blue or pencil, or any of them. With `learned_only`, texts with signs that the model has not learned are
    refused. Raises UsageError for others.
    """

    height: int = 64
    join: bool = True
    variety: float = 0.3
    augment: Strength = "light"
    without: Collection[str] = ()
    light_on_dark: bool = False
    paper: Paper = "plain"
    background: Background | None = None
    learned_only: bool = False
    ink: Ink = "any"

    def __post_init__(self) -> None:
        for name in self.without:
            if name not in EFFECTS:
                raise UsageError(f"There is no effect {name!r} to leave out; there are {', '.join(EFFECTS)}.")
        if self.augment not in STRENGTHS:
            raise UsageError(f"There is no strength {self.augment!r}; there are {', '.join(STRENGTHS)}.")
        for name, choices in (("paper", get_args(Paper)), ("ink", get_args(Ink))):
            if (chosen := getattr(self, name)) not in choices:
                raise UsageError(f"There is no {name} {chosen!r}; there are {', '.join(choices)}.")
        is_number = isinstance(self.height, Integral) and isinstance(self.variety, Real)
        if not is_number or not 16 <= self.height <= 512 or not 0 <= self.variety <= 1:
            problem = f"A line is 16 to 512 pixels high, not {self.height},"
            raise UsageError(f"{problem} and its variety is from 0 to 1, not {self.variety}.")

    @property
    def is_grey(self) -> bool:
        """Whether pictures are of mode L, and not RGB."""
        return (self.augment, self.paper, self.ink, self.background) == ("none", "plain", "any", None)


class GlyphBox(NamedTuple):
    """Where a glyph is in a picture.

    `corners` float64 [4,2] are x and y in pixels from the upper left, clockwise from the glyph's own upper left.
    """

    text: str
    corners: npt.NDArray[np.float64]

    @property
    def upright(self) -> tuple[int, int, int, int]:
        """Left, top, width and height of the smallest upright box of whole pixels around it."""
        left, top = np.floor(self.corners.min(0)).astype(int).tolist()
        right, bottom = np.ceil(self.corners.max(0)).astype(int).tolist()
        return left, top, right - left, bottom - top


class Line(NamedTuple):
    """A picture of a line, and where its glyphs are, from left to right."""

    image: Image.Image
    boxes: list[GlyphBox]


def render(row: Row, style: LineStyle, rngs: Mapping[str, np.random.Generator]) -> Line:
    """A row of ink as a picture `style.height` pixels high; `rngs` has a random generator for each of STREAMS."""
    strength = {name: 0.0 if name in style.without else STRENGTHS[style.augment] for name in EFFECTS}
    matrix, size = _placed(row, style.height, strength, rngs)
    mask, unit = _drawn(row.ink, matrix, size), style.height / 64  # effects are as large as they are at 64 pixels
    if strength["blur"]:
        mask = mask.filter(ImageFilter.GaussianBlur(rngs["blur"].uniform(0.1, 0.4) * strength["blur"] * unit))
    alpha = np.asarray(mask, np.float32) / np.float32(255)
    upright = matrix @ np.array([[1, row.slant, 0], [0, 1, 0], [0, 0, 1]])  # paper is not slanted as a hand is
    planes = 255 * (1 - alpha)[None] if style.is_grey else _page(alpha, upright, style, strength, rngs)
    values = np.clip(planes + np.float32(0.5), 0, 255).astype(np.uint8)
    layers = [Image.fromarray(255 - plane if style.light_on_dark else plane) for plane in values]
    return Line(Image.merge("L" if style.is_grey else "RGB", layers), _boxes(row, matrix, size))


def _page(
    alpha: Floats,
    matrix: _Matrix,
    style: LineStyle,
    strength: Mapping[str, float],
    rngs: Mapping[str, np.random.Generator],
) -> Floats:
    """Ink of so much `alpha` [H,W] on paper, float32 [3,H,W]."""
    unit, inks = style.height / 64, _inks(style.ink)
    colour = np.zeros(3, np.float32) if style.ink == "any" else inks[0]
    page = _sheet(alpha.shape, style, unit, strength["paper"], rngs)
    if style.paper != "plain":
        rng = rngs["rules"]
        _cover(page, _RULES[rng.integers(len(_RULES))], _rules(alpha.shape, matrix, style.paper, rng))
    if strength["ink"]:
        rng = rngs["ink"]
        colour = inks[rng.integers(len(inks))] + np.float32(rng.uniform(0, 20))
        colour = colour + rng.uniform(0, 6, 3).astype(np.float32)
        flow = _field(alpha.shape, 6 * unit, rng)
        alpha = alpha * np.clip(np.float32(rng.uniform(0.86, 1)) + np.float32(0.05 * strength["ink"]) * flow, 0, 1)
    _cover(page, colour, alpha)
    if strength["noise"]:
        page += np.float32(2 * strength["noise"]) * rngs["noise"].standard_normal(alpha.shape, dtype=np.float32)
    return page


def _inks(ink: Ink) -> Floats:
    """The colours of an ink, or of all, float32 [N,3]."""
    return np.array(
        [colour for name, colours in _INKS.items() if ink in {"any", name} for colour in colours], np.float32
    )


def _cover(page: Floats, colour: Floats, alpha: Floats) -> None:
    """Lay a colour, where it is darker, over so much of each pixel of a page [3,H,W]."""
    page += (np.minimum(colour[:, None, None], page) - page) * alpha


# --- where the ink is ---


def _placed(
    row: Row, height: int, strength: Mapping[str, float], rngs: Mapping[str, np.random.Generator]
) -> tuple[_Matrix, tuple[int, int]]:
    """Where the ink comes to lie, as a matrix [3,3] from its places to the picture's, and that one's (width, height).

    Places are (x, y, 1) from the upper left edges, and the matrix a perspective with 1 as its last entry.
    """
    shape = row.ink.shape
    across = np.array([[0, 0], [shape[1], 0], [shape[1], shape[0]], [0, shape[0]]], np.float64)
    slanted = across - np.array([row.slant, 0]) * across[:, 1:]
    most = 0.35 * shape[0] / shape[1] + 0.002  # a long line turns less, or its ends would leave the picture
    angle = np.clip(np.radians(rngs["rotation"].normal(0, 0.5) * strength["rotation"]), -most, most)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    moved = slanted @ turn + rngs["perspective"].normal(0, 0.025 * shape[0], (4, 2)) * strength["perspective"]
    extent, margin = np.ptp(moved, axis=0), round(MARGIN * height)
    inner = height - 2 * margin
    width = max(round(extent[0] * inner / extent[1]), 1)
    target = (moved - moved.min(0)) * np.array([width, inner]) / extent + np.array([2 * margin, margin])
    return _perspective(across, target), (width + 4 * margin, height)


def _perspective(source: _Matrix, target: _Matrix) -> _Matrix:
    """The perspective that takes four places [4,2] to four others."""
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    return np.append(np.linalg.solve(np.array(rows), target.ravel()), 1).reshape(3, 3)


def _moved(matrix: _Matrix, places: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Places float64 [...,2] as the matrix takes them elsewhere."""
    x, y, w = np.moveaxis(places @ matrix[:, :2].T + matrix[:, 2], -1, 0)
    return np.stack([x / w, y / w], -1)


def _drawn(ink: Floats, matrix: _Matrix, size: tuple[int, int]) -> Image.Image:
    """Ink [H,W] in [0,1] as a picture of mode L and this size."""
    height, width = ink.shape
    # Shrinking needs a filter that turning has not, so it comes first.
    right, below = (_moved(matrix, np.array(place)) for place in ([[0.0, 0], [width, 0]], [[0.0, 0], [0, height]]))
    small = [max(round(float(np.hypot(*np.diff(edge, axis=0)[0]))), 1) for edge in (right, below)]
    picture = Image.fromarray((255 * ink + 0.5).astype(np.uint8)).resize(small, Image.Resampling.LANCZOS)
    back = np.diag([small[0] / width, small[1] / height, 1]) @ np.linalg.inv(matrix)
    coefficients = tuple((back / back[2, 2]).ravel()[:8].tolist())
    return picture.transform(size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC)


def _boxes(row: Row, matrix: _Matrix, size: tuple[int, int]) -> list[GlyphBox]:
    places = np.array([[[b.left, b.top], [b.right, b.top], [b.right, b.bottom], [b.left, b.bottom]] for b in row.boxes])
    corners = np.clip(_moved(matrix, places.astype(np.float64)), 0, np.array(size, np.float64))
    return [GlyphBox(box.text, place) for box, place in zip(row.boxes, corners, strict=True)]


# --- paper ---


def _sheet(
    shape: tuple[int, ...],
    style: LineStyle,
    unit: float,
    strength: float,
    rngs: Mapping[str, np.random.Generator],
) -> Floats:
    """Paper without rules and ink, float32 [3,H,W]: a background, or white paper with what `_paper` does to it."""
    if style.background is not None:
        return style.background.cropped((shape[1], shape[0]), rngs["background"])
    if not strength:
        return np.full((3, *shape), 255, np.float32)
    return _paper(shape, unit, strength, rngs["paper"])


def _paper(shape: tuple[int, ...], unit: float, strength: float, rng: np.random.Generator) -> Floats:
    """A sheet float32 [3,H,W]: a tint, clouds, grain, and light from one side."""
    tint = rng.uniform(232, 252) - np.array([0, rng.uniform(0, 4), rng.uniform(0, 7) * strength])
    shade = np.float32(2.5) * _field(shape, 12 * unit, rng) + np.float32(1.5) * _field(shape, 0.7 * unit, rng)
    shade += np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None] * np.float32(rng.normal(0, 3))
    shade += np.linspace(-1, 1, shape[1], dtype=np.float32) * np.float32(rng.normal(0, 4))
    return np.asarray(tint.astype(np.float32)[:, None, None] + np.float32(strength) * shade)


def _field(shape: tuple[int, ...], grain: float, rng: np.random.Generator) -> Floats:
    """A smooth random field float32 [H,W] of about mean 0 and deviation 1, with spots of about `grain` pixels."""
    height, width = shape
    coarse = rng.standard_normal([int(side / (2 * grain)) + 2 for side in shape], dtype=np.float32)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth) * np.float32(1.25)  # between the coarse values it is weaker


def _rules(shape: tuple[int, ...], matrix: _Matrix, paper: Paper, rng: np.random.Generator) -> Floats:
    """How much of each pixel the rules of the paper cover, float32 [H,W]; they turn with the line."""
    height, width = shape
    back = np.linalg.inv(matrix)
    y, x = np.mgrid[0.5:height, 0.5:width]
    across, down = np.moveaxis(_moved(back / back[2, 2], np.stack([x, y], -1)), -1, 0)
    scale = height / float(down[-1].mean() - down[0].mean())  # pixels of the picture for one of the ink
    thick = height / 64 * rng.uniform(0.8, 1.8)
    gap = height * (rng.uniform(0.6, 1.1) if paper == "ruled" else rng.uniform(0.25, 0.5))
    cover = np.zeros(shape)
    for places in (down,) if paper == "ruled" else (down, across):
        distance = np.abs((places * scale + rng.uniform(0, gap)) % gap - gap / 2)
        cover = np.maximum(cover, np.clip(thick / 2 + 0.5 - distance, 0, 1))
    return (cover * rng.uniform(0.4, 0.9)).astype(np.float32)
