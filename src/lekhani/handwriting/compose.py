"""Lines of text as one hand may have written them: glyphs of a generator on a common baseline, on paper, with a transcript.

All glyphs of a line come from one style, which is the noise that they share but for a little of their own.
"""

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from lekhani.data.spec import GlyphClass, Labels
from lekhani.errors import LekhaniError, UsageError
from lekhani.inference.confidence import confidences
from lekhani.inference.model import LoadedModel
from lekhani.inference.session import Floats, Generator, Reader
from lekhani.pictures import to_uint8

Strength = Literal["none", "light", "strong"]

EFFECTS = ("rotation", "ink", "paper", "blur", "noise")
STRENGTHS = {"none": 0.0, "light": 1.0, "strong": 2.5}
MAX_GLYPHS = 200
SPACE = -1
TRIES = 30  # redraws of a glyph that the judge reads as another
MARGIN = 0.14  # of the height, above and below the ink
DETAIL = 3  # pixels of the drawing board for one of a glyph's
_INKS = np.array(
    [[25, 25, 30], [22, 35, 90], [30, 50, 140], [70, 70, 75]], np.float32
)  # black, blue-black, blue, pencil; RGB
_OPEN = frozenset("थधभश")  # their head line begins in the middle; with a closed one ध would be घ, and भ would be म
_LETTER = re.compile("[\u0915-\u0939\u0958-\u095f]")  # Devanagari's consonants, and conjuncts, which start with one

_Rng = np.random.Generator


@dataclass(frozen=True)
class LineStyle:
    """How lines style.

    `height` of the picture in pixels, 16 to 512; `join` draws the head line from letter to letter; `variety` in [0,1] is how much the glyphs of a
    line differ beyond their letters; `augment` is the strength of all effects but those in `without`. Raises UsageError for others.
    """

    height: int = 64
    join: bool = True
    variety: float = 0.3
    augment: Strength = "light"
    without: Collection[str] = ()
    light_on_dark: bool = False

    def __post_init__(self) -> None:
        """Check the choices."""
        for name in self.without:
            if name not in EFFECTS:
                raise UsageError(f"There is no effect {name!r} to leave out; there are {', '.join(EFFECTS)}.")
        if self.augment not in STRENGTHS:
            raise UsageError(f"There is no strength {self.augment!r}; there are {', '.join(STRENGTHS)}.")
        if not 16 <= self.height <= 512 or not 0 <= self.variety <= 1:
            raise UsageError(
                f"A line is 16 to 512 pixels high, not {self.height}, and its variety lies from 0 to 1, not at {self.variety}."
            )


@dataclass(frozen=True)
class Script:
    """What a model can write."""

    classes: tuple[GlyphClass, ...]

    @cached_property
    def _label(self) -> dict[str, int]:
        return {unicodedata.normalize("NFC", c.glyph): c.label for c in self.classes}

    @cached_property
    def _pieces(self) -> re.Pattern[str]:
        longest_first = sorted(self._label, key=len, reverse=True)  # the class ज्ञ comes before ज
        return re.compile("|".join(map(re.escape, [*longest_first, " "])))

    @property
    def alphabet(self) -> str:
        """The glyphs with spaces between them, for people."""
        return " ".join(self._label)

    @property
    def glyphs(self) -> tuple[str, ...]:
        """What can be written but for the space."""
        return tuple(self._label)

    def labels(self, text: str) -> list[int]:
        """The labels of a `plain` text, with SPACE between words; raises UsageError that names what cannot be written."""
        found: list[int] = []
        unknown: dict[str, None] = {}
        place = 0
        while place < len(text):
            piece = self._pieces.match(text, place)
            if piece is None:
                unknown[text[place]] = None
                place += 1
            else:
                found.append(self._label.get(piece.group(), SPACE))
                place = piece.end()
        if unknown:
            named = ", ".join(map(_named, unknown))
            raise UsageError(
                f"The model cannot write {named} in {shortened(text)!r}; it writes {self.alphabet} and spaces."
            )
        if not found:
            raise UsageError("There is nothing to write: the text is empty.")
        if len(found) > MAX_GLYPHS:
            raise UsageError(
                f"The text {shortened(text)!r} has {len(found):,} glyphs, and a line holds at most {MAX_GLYPHS}; break it up."
            )
        return found


def plain(text: str) -> str:
    """`text` as transcripts have it: composed as Unicode wants it (NFC), without spaces at its ends, one space between words."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _named(character: str) -> str:
    if unicodedata.category(character).startswith("M"):
        return f"◌{character} (U+{ord(character):04X})"
    return character if character.isprintable() else f"U+{ord(character):04X}"


def shortened(text: str) -> str:
    """At most 60 characters of `text`, for people."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def rng_of(generator: Generator, seed: int, *numbers: int) -> _Rng:
    """Chance that depends on the model's bytes, the seed and these numbers alone."""
    return np.random.default_rng([int(generator.sha256[:16], 16), seed, *numbers])


def compose(
    model: LoadedModel,
    text: str,
    seed: int = 0,
    style: LineStyle | None = None,
    *,
    number: int = 0,
    min_confidence: float = 0.5,
) -> Image.Image:
    """Line `number` of `seed` as a picture of mode L where `style.augment` is none and RGB otherwise, dark on light.

    A glyph that the model's judge, if it has one, does not read as asked with at least `min_confidence` in [0,1] is drawn again; 0 keeps all.
    Raises UsageError when `text` holds what the model cannot write, and for a generator that takes no labels; LekhaniError when a glyph
    does not come out readable.
    """
    style = style or LineStyle()
    generator = model.generator
    if not generator.conditional:
        raise UsageError(
            f"{model.origin} ({generator.variant}) takes no labels, so it cannot keep one hand for a line; use a conditional model."
        )
    labels = Script(generator.classes).labels(plain(text))
    rng = rng_of(generator, seed, number, 0)
    written: Labels = np.array([label for label in labels if label != SPACE], np.int64)
    glyphs = iter(
        draw(generator, written, rng, style.variety, model.reader if min_confidence else None, min_confidence)
    )
    ink = _row([None if label == SPACE else (next(glyphs), generator.classes[label]) for label in labels], rng, style)
    return _on_paper(ink, style, [rng_of(generator, seed, number, 1 + i) for i in range(len(EFFECTS))])


def draw(
    generator: Generator,
    labels: Labels,
    rng: _Rng,
    variety: float,
    reader: Reader | None = None,
    min_confidence: float = 0.5,
) -> Floats:
    """Glyphs of one hand, float32 [N,H,W] in [0,1], light on dark.

    Their noise is sqrt(1 - v^2) of the hand's and `variety` v of their own, so that it stays normally distributed. What `reader` does not
    read as its label is drawn again, each time less bound to the hand; raises LekhaniError when that does not help in 30 tries.
    """
    hand = rng.standard_normal(generator.noise_dim, dtype=np.float32)
    images = np.zeros((len(labels), generator.image_size, generator.image_size), np.float32)
    missing = np.arange(len(labels))
    for attempt in range(TRIES):
        own = min(variety + attempt / TRIES, 1.0)
        noise = np.float32(np.sqrt(1 - own**2)) * hand + np.float32(own) * rng.standard_normal(
            (len(missing), len(hand)), dtype=np.float32
        )
        images[missing] = generator.run(noise, labels[missing])[:, 0]
        if reader is None:
            return images
        missing = missing[~agrees(reader, images[missing], labels[missing], min_confidence)]
        if not len(missing):
            return images
    names = " ".join(dict.fromkeys(generator.classes[label].glyph for label in labels[missing]))
    raise LekhaniError(
        f"{generator.path} wrote no {names} that the judge reads as such with confidence {min_confidence:g} in {TRIES} tries; "
        "lower --min-confidence or use a better model."
    )


def agrees(reader: Reader, images: Floats, labels: Labels, min_confidence: float) -> npt.NDArray[np.bool_]:
    """Which images float32 [N,H,W] in [0,1] `reader` reads as their label with at least that confidence; bool [N]."""
    read, sure = confidences(reader.read(to_uint8(images))[1])
    chosen: npt.NDArray[np.bool_] = (read == labels) & (sure >= min_confidence)
    return chosen


# --- from glyphs to a row of ink ---


@dataclass
class _Placed:
    """A glyph on the drawing board: ink float32 [H,W] in [0,1] cropped at its sides, and where its head line runs."""

    ink: Floats
    head: "_Head | None"  # letters have one, as far as it can be found


@dataclass
class _Head:
    """A head line within a glyph: first and last column, the row of its middle there, and its thickness; pixels of the drawing board."""

    start: int
    end: int
    rows: tuple[float, float]
    thickness: float


def _row(glyphs: "Sequence[tuple[Floats, GlyphClass] | None]", rng: _Rng, style: LineStyle) -> Floats:
    """Glyphs [H,W], None for a space, side by side on the drawing board: ink float32 [H', W'] in [0,1], cropped above and below."""
    side = DETAIL * next(len(glyph[0]) for glyph in glyphs if glyph)
    slant, pen = rng.normal(0, 0.06), rng.uniform(0.36, 0.5)
    placed = [glyph and _lettered(*glyph, slant, pen, rng) for glyph in glyphs]
    heads = [sum(one.head.rows) / 2 for one in placed if one and one.head]
    line = float(np.median(heads)) if heads else 0.0
    room = side // 8
    board = np.zeros(
        (side + 2 * room, sum(one.ink.shape[1] + side // 3 if one else side for one in placed) + side), np.float32
    )
    x, previous = float(side // 3), None
    spacing = rng.uniform(0.09, 0.14)
    for one in placed:
        if one is None:
            x, previous = x + side * rng.uniform(0.38, 0.55), None
            continue
        joined = style.join and previous is not None and previous[0].head and one.head
        if previous is not None:
            x += side * (rng.uniform(0.02, 0.05) if joined else max(rng.normal(spacing, 0.025), 0.04))
        lift = line - sum(one.head.rows) / 2 if one.head else 0.0
        wobble = side * rng.normal(0, 0.004 if style.join and one.head else 0.012)
        y = int(np.clip(room + round(lift + wobble), 0, 2 * room))
        left = round(x)
        place = board[y : y + side, left : left + one.ink.shape[1]]
        np.maximum(place, one.ink, out=place)
        if joined and previous is not None:
            _join(board, previous, (one, left, y))
        previous, x = (one, left, y), left + one.ink.shape[1]
    return _cropped(board, side)


def _lettered(image: Floats, known: GlyphClass, slant: float, pen: float, rng: _Rng) -> _Placed:
    """One glyph [H,W] enlarged for the drawing board, a little turned and slanted, with strokes as wide as the pen's."""
    turn, grow = rng.normal(0, 0.015), np.exp(rng.normal(0, [0.025, 0.025]))
    # From the board's pixels to the glyph's: y first.
    back = np.array([[1, -turn], [slant + turn, 1]]) / (DETAIL * grow[:, None])
    side = len(image) * DETAIL
    middle = np.array([(side - 1) / 2] * 2)
    big = ndimage.affine_transform(
        image, back, (len(image) - 1) / 2 - back @ middle, (side, side), order=3, prefilter=True
    )
    ink = np.clip((big - pen) * 2.5 + 0.5, 0, 1).astype(np.float32)
    columns = np.flatnonzero(ink.max(0) > 0.5)
    if len(columns):
        ink = ink[:, columns[0] : columns[-1] + 1]
    return _Placed(ink, _head(ink, known.glyph in _OPEN) if _LETTER.match(known.glyph) else None)


def _head(ink: Floats, is_open: bool) -> _Head | None:
    """The head line in a letter's ink [H,W]: the longest stretch of ink along a row of its upper half, and of its right part where it is open.

    None where that is short.
    """
    rows = np.flatnonzero(ink.max(1) > 0.5)
    if not len(rows):
        return None
    height, width = (rows[0] + rows[-1]) // 2 + 1, ink.shape[1]
    left = 2 * width // 5 if is_open else 0
    filled = ndimage.maximum_filter1d(ink[:height, left:], DETAIL, axis=0) > 0.5
    stretches = [_longest(line) for line in filled]
    mass = ndimage.uniform_filter1d(
        ink[:height].sum(1), DETAIL
    )  # of rows with equal stretches, the one in the middle of the line
    row = int(np.argmax([stop - start + mass[i] / ink.size for i, (start, stop) in enumerate(stretches)]))
    start, end = left + stretches[row][0], left + stretches[row][1] - 1
    if end - start < 0.4 * (width - left):
        return None
    band = slice(max(row - 2 * DETAIL, 0), row + 2 * DETAIL + 1)

    def middle(columns: slice) -> float:
        weights = ink[band, columns].sum(1)
        return float(band.start + (weights @ np.arange(len(weights))) / max(float(weights.sum()), 1e-6))

    reach = 2 * DETAIL
    thickness = float(np.median(ink[band, start : end + 1].sum(0)))
    return _Head(
        start, end, (middle(slice(start, start + reach)), middle(slice(max(end - reach, 0), end + 1))), thickness
    )


def _longest(filled: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Where the longest run of True begins and ends (the place after its last)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], filled, [0]])))
    if not len(edges):
        return 0, 0
    i = int(np.argmax(edges[1::2] - edges[::2]))
    return int(edges[2 * i]), int(edges[2 * i + 1])


def _join(board: Floats, left: tuple[_Placed, int, int], right: tuple[_Placed, int, int]) -> None:
    """Draw the head line on from one letter to the next.

    Nothing is drawn into a letter whose head is open, or out of one whose head ends early.
    """
    (one, x0, y0), (other, x1, y1) = left, right
    if (
        one.head is None
        or other.head is None
        or other.head.start > 0.2 * other.ink.shape[1]
        or one.head.end < 0.8 * one.ink.shape[1]
    ):
        return
    start, end = x0 + one.head.end - DETAIL, x1 + other.head.start + DETAIL
    columns = np.arange(start, end + 1)
    share = (columns - start) / max(end - start, 1)
    rows = (1 - share) * (y0 + one.head.rows[1]) + share * (y1 + other.head.rows[0])
    half = ((1 - share) * one.head.thickness + share * other.head.thickness) / 2
    stroke = np.clip(half + 0.5 - np.abs(np.arange(len(board))[:, None] - rows), 0, 1)
    place = board[:, start : end + 1]
    np.maximum(place, stroke.astype(np.float32)[:, : place.shape[1]], out=place)


def _cropped(board: Floats, side: int) -> Floats:
    """The board without empty columns and rows around the ink, but not lower than two thirds of a glyph, lest a lone dash fill the page."""
    rows, columns = (np.flatnonzero(board.max(axis) > 0.5) for axis in (1, 0))
    if not len(rows):
        return board[:side, :side]
    top, bottom = rows[0], rows[-1] + 1
    short = max(2 * side // 3 - (bottom - top), 0)
    top = max(top - (short + 1) // 2, 0)
    bottom = max(bottom, min(top + 2 * side // 3, len(board)))
    return board[top:bottom, columns[0] : columns[-1] + 1]


# --- from ink to paper ---


def _on_paper(ink: Floats, style: LineStyle, rngs: Sequence[_Rng]) -> Image.Image:
    """Ink float32 [H,W] in [0,1] as a picture `style.height` pixels high; every effect has chance of its own, so that one can be left out."""
    strength = {name: 0.0 if name in style.without else STRENGTHS[style.augment] for name in EFFECTS}
    rng = dict(zip(EFFECTS, rngs, strict=True))
    angle = rng["rotation"].normal(0, 0.5) * strength["rotation"]
    # A long line turns less, or its ends would leave the picture.
    ink = _turned(ink, np.clip(angle, *np.array([-1, 1]) * np.degrees(0.35 * len(ink) / ink.shape[1] + 0.002)))
    margin = round(MARGIN / (1 - 2 * MARGIN) * len(ink))
    ink = np.pad(ink, ((margin, margin), (2 * margin, 2 * margin)))
    size = (max(round(style.height * ink.shape[1] / len(ink)), 1), style.height)
    alpha = np.clip(np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.LANCZOS)), 0, 1)
    unit = style.height / 64  # effects are as large as they are at 64 pixels
    if strength["blur"]:
        alpha = ndimage.gaussian_filter(alpha, rng["blur"].uniform(0.1, 0.4) * strength["blur"] * unit)
    if style.augment == "none":
        return _picture(255 * (1 - alpha), style)
    paper, colour = np.full((*alpha.shape, 3), 255, np.float32), np.zeros(3, np.float32)
    if strength["ink"]:
        colour = (
            _INKS[rng["ink"].integers(len(_INKS))]
            + rng["ink"].uniform(0, 20)
            + rng["ink"].uniform(0, 6, 3).astype(np.float32)
        )
        flow = _field(alpha.shape, 6 * unit, rng["ink"])
        alpha = alpha * np.clip(rng["ink"].uniform(0.86, 1) + 0.05 * strength["ink"] * flow, 0, 1)
    if strength["paper"]:
        paper = _paper(alpha.shape, unit, strength["paper"], rng["paper"])
    page = paper + (np.minimum(colour, paper) - paper) * alpha[..., None]
    if strength["noise"]:
        page = page + rng["noise"].normal(0, 2 * strength["noise"], page.shape)
    return _picture(page, style)


def _turned(ink: Floats, degrees: float) -> Floats:
    if not degrees:
        return ink
    turned: Floats = np.clip(ndimage.rotate(ink, degrees, order=1), 0, 1)
    return turned


def _paper(shape: tuple[int, ...], unit: float, strength: float, rng: _Rng) -> Floats:
    """A sheet float32 [H,W,3]: a tint, clouds, grain, and light from one side."""
    tint = rng.uniform(232, 252) - np.array([0, rng.uniform(0, 4), rng.uniform(0, 7) * strength])
    clouds = 2.5 * _field(shape, 12 * unit, rng) + 1.5 * _field(shape, 0.7 * unit, rng)
    down, across = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    light = rng.normal(0, 3) * down + rng.normal(0, 4) * across
    sheet: Floats = (tint + strength * (clouds + light)[..., None]).astype(np.float32)
    return sheet


def _field(shape: tuple[int, ...], grain: float, rng: _Rng) -> npt.NDArray[np.float64]:
    """A smooth random field [H,W] of mean 0 and deviation 1, with spots of about `grain` pixels."""
    field: npt.NDArray[np.float64] = ndimage.gaussian_filter(rng.standard_normal(shape), grain, mode="wrap")
    field -= field.mean()
    field /= max(float(field.std()), 1e-9)
    return field


def _picture(page: npt.NDArray[Any], style: LineStyle) -> Image.Image:
    values = np.rint(np.clip(page, 0, 255)).astype(np.uint8)
    return Image.fromarray(255 - values if style.light_on_dark else values)
