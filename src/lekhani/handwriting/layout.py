"""From the glyphs of a line to a row of ink: enlarged, spaced and joined by their head line."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from lekhani.data.spec import GlyphClass
from lekhani.inference.session import Floats

DETAIL = 3  # pixels of the drawing board for one of a glyph's
OPEN = frozenset("थधभश")  # their head line begins in the middle; with a closed one ध would be घ, and भ would be म
_LETTER = re.compile("[\u0915-\u0939\u0958-\u095f]")  # Devanagari's consonants, and conjuncts, which start with one


class Box(NamedTuple):
    """Where a glyph's ink is: from the left and upper edges of its first pixels to the far edges of its last ones."""

    text: str
    left: float
    top: float
    right: float
    bottom: float


class Row(NamedTuple):
    """A row of ink float32 [H,W] in [0,1], and the boxes of its glyphs in the pixels of it, from left to right.

    It stands upright; in the hand, what is higher by a pixel lies `slant` pixels further to the right.
    """

    ink: Floats
    boxes: list[Box]
    slant: float


@dataclass
class Head:
    """A head line within a glyph: first and last column, the row of its middle there, and its thickness.

    All in pixels of the drawing board.
    """

    start: int
    end: int
    rows: tuple[float, float]
    thickness: float

    @property
    def row(self) -> float:
        """The row of its middle."""
        return sum(self.rows) / 2


@dataclass
class Drawn:
    """A glyph for the drawing board: ink float32 [H,W] in [0,1] cropped at its sides, and its place there.

    Its first row lies `shift` below the top of the frame that a glyph of the model fills. `over_left` and `over_right`
    of its columns lie above or below its neighbours. A `tight` one follows the one before it directly.
    """

    ink: Floats
    head: Head | None  # letters have one, as far as it can be found
    left: int = 0
    top: int = 0
    shift: int = 0
    over_left: int = 0
    over_right: int = 0
    tight: bool = False

    @property
    def width(self) -> int:
        """Of its own columns."""
        return int(self.ink.shape[1]) - self.over_left - self.over_right

    def box(self, text: str) -> Box:
        """Where its ink is on the board."""
        rows = np.flatnonzero(self.ink.max(1) > 0.5)
        first, last = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, len(self.ink))
        return Box(text, self.left, self.top + first, self.left + self.ink.shape[1], self.top + last)


def draw_letters(glyphs: Sequence[tuple[Floats, GlyphClass]], rng: np.random.Generator) -> list[Drawn]:
    """Glyphs float32 [H,W] in [0,1] as the ink of one pen."""
    pen = rng.uniform(0.36, 0.5)
    return [_draw(*glyph, pen, rng) for glyph in glyphs]


def lay_out(
    drawn: Sequence[Drawn | None], texts: Sequence[str], side: int, slant: float, rng: np.random.Generator, join: bool
) -> Row:
    """What was drawn, None for a space, side by side and cropped.

    `texts` are what it says, one for all that is not `tight`. The glyphs of the model are `side` pixels high. With
    `join` the head line is drawn from letter to letter.
    """
    heads = [one.head.row + one.shift for one in drawn if one and one.head]
    line = float(np.median(heads)) if heads else 0.0
    room = side // 8  # above and below
    above = max(-one.shift if one else 0 for one in drawn)
    below = max(len(one.ink) + one.shift - side if one else 0 for one in drawn)
    width = sum(one.ink.shape[1] + side // 3 if one else side for one in drawn) + side
    board = np.zeros((side + 2 * room + max(above, 0) + max(below, 0), width), np.float32)
    x, previous = float(side // 3), None
    spacing = rng.uniform(0.09, 0.14)
    for one in drawn:
        if one is None:
            x, previous = x + side * rng.uniform(0.38, 0.55), None
            continue
        joined = join and previous is not None and previous.head and one.head
        if previous is not None:
            x += side * _gap(one, bool(joined), spacing, rng)
        lift = line - one.head.row - one.shift if one.head else 0.0
        wobble = side * rng.normal(0, 0.004 if join and one.head else 0.012)
        one.left = max(round(x) - one.over_left, 0)
        one.top = max(above, 0) + int(np.clip(room + round(lift + wobble), 0, 2 * room)) + one.shift
        place = board[one.top : one.top + len(one.ink), one.left : one.left + one.ink.shape[1]]
        np.maximum(place, one.ink, out=place)
        if joined and previous is not None:
            _join(board, previous, one)
        previous, x = one, one.left + one.over_left + one.width
    return _cropped(board, side, _boxes([one for one in drawn if one], texts), slant)


def _gap(one: Drawn, joined: bool, spacing: float, rng: np.random.Generator) -> float:
    if one.tight:
        return rng.uniform(0, 0.02)
    return rng.uniform(0.02, 0.05) if joined else max(rng.normal(spacing, 0.025), 0.04)


def _boxes(drawn: Sequence[Drawn], texts: Sequence[str]) -> list[Box]:
    """Of each text, around all its parts."""
    boxes: list[Box] = []
    for one in drawn:
        if not one.tight:
            boxes.append(one.box(texts[len(boxes)]))
            continue
        (text, left, top, right, bottom), box = boxes[-1], one.box("")
        boxes[-1] = Box(text, min(left, box.left), min(top, box.top), max(right, box.right), max(bottom, box.bottom))
    return boxes


def _draw(image: Floats, known: GlyphClass, pen: float, rng: np.random.Generator) -> Drawn:
    """A glyph [H,W] enlarged for the drawing board, with strokes as wide as the pen's."""
    side = len(image) * DETAIL
    height, width = (round(side * factor) for factor in np.exp(rng.normal(0, 0.025, 2)))
    enlarged = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    big = np.asarray(enlarged.crop((left, top, left + side, top + side)))
    ink = np.clip((big - np.float32(pen)) * np.float32(2.5) + np.float32(0.5), 0, 1)
    columns = np.flatnonzero(ink.max(0) > 0.5)
    if len(columns):
        ink = ink[:, columns[0] : columns[-1] + 1]
    head = _head(ink, known.glyph in OPEN) if _LETTER.match(known.glyph) else None
    return Drawn(ink, head)


def _head(ink: Floats, is_open: bool) -> Head | None:
    """The head line in a letter's ink [H,W], None where it is too short.

    It is the longest stretch of ink along a row of the upper third; of the right part, where the letter's head is open.
    """
    inked = np.flatnonzero(ink.max(1) > 0.5)
    if not len(inked):
        return None
    height, width = (2 * inked[0] + inked[-1]) // 3 + 1, ink.shape[1]
    left = 2 * width // 5 if is_open else 0
    filled = ndimage.maximum_filter1d(ink[:height, left:], DETAIL, axis=0) > 0.5
    lengths, ends = longest_runs(filled)
    mass = ndimage.uniform_filter1d(ink[:height].sum(1), DETAIL)  # decides between rows with equal stretches
    row = int(np.argmax(lengths + mass / ink.size))
    start, end = left + int(ends[row] - lengths[row]) + 1, left + int(ends[row])
    if end - start < 0.4 * (width - left):
        return None
    band = slice(max(row - 2 * DETAIL, 0), row + 2 * DETAIL + 1)

    def middle(columns: slice) -> float:
        weights = ink[band, columns].sum(1)
        return float(band.start + (weights @ np.arange(len(weights))) / max(float(weights.sum()), 1e-6))

    reach = 2 * DETAIL
    thickness = float(np.median(ink[band, start : end + 1].sum(0)))
    rows = (middle(slice(start, start + reach)), middle(slice(max(end - reach, 0), end + 1)))
    return Head(start, end, rows, thickness)


def longest_runs(filled: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The length of the longest run of True in each row of [H,W], and where it ends (the place of its last)."""
    columns = np.arange(filled.shape[1])
    gaps = np.maximum.accumulate(np.where(filled, -1, columns), axis=1)  # the last False so far
    runs = columns - gaps
    ends = runs.argmax(1)
    return runs[np.arange(len(runs)), ends], ends


def _join(board: Floats, left: Drawn, right: Drawn) -> None:
    """Draw the head line on from one letter to the next.

    Nothing is drawn into a letter whose head is open, or out of one whose head ends early.
    """
    if left.head is None or right.head is None:
        return
    if right.head.start - right.over_left > 0.2 * right.width or left.head.end - left.over_left < 0.8 * left.width:
        return
    start, end = left.left + left.head.end - DETAIL, right.left + right.head.start + DETAIL
    columns = np.arange(start, end + 1)
    share = (columns - start) / max(end - start, 1)
    rows = (1 - share) * (left.top + left.head.rows[1]) + share * (right.top + right.head.rows[0])
    half = ((1 - share) * left.head.thickness + share * right.head.thickness) / 2
    stroke = np.clip(half + 0.5 - np.abs(np.arange(len(board))[:, None] - rows), 0, 1)
    place = board[:, start : end + 1]
    np.maximum(place, stroke.astype(np.float32)[:, : place.shape[1]], out=place)


def _cropped(board: Floats, side: int, boxes: Sequence[Box], slant: float) -> Row:
    """The board without the empty columns and rows around the ink.

    It keeps two thirds of a glyph's height, or else a single dash would fill the page.
    """
    rows, columns = (np.flatnonzero(board.max(axis) > 0.5) for axis in (1, 0))
    if not len(rows):
        return Row(board[:side, :side], list(boxes), slant)
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    short = max(2 * side // 3 - (bottom - top), 0)
    top = max(top - (short + 1) // 2, 0)
    bottom = max(bottom, min(top + 2 * side // 3, len(board)))
    left = int(columns[0])
    placed = [Box(one.text, one.left - left, one.top - top, one.right - left, one.bottom - top) for one in boxes]
    return Row(board[top:bottom, left : int(columns[-1]) + 1], placed, slant)
