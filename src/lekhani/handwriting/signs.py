"""What no model has learned, drawn from a typeface in the stroke, slant and size of the letters around it.

The typeface is so thin that it is little more than the middle line of its strokes; whatever lies within half the
hand's stroke of that line becomes ink.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np
from PIL import Image
from scipy import ndimage

from lekhani.handwriting.layout import OPEN, Drawn, Head, longest_runs
from lekhani.handwriting.syllables import HALANT, PROXY, RA, Part, Sign, stem
from lekhani.inference.session import Floats
from lekhani.typefaces import SANS, Ints, Outline, contours, fill, open_font, outline, shape

# Of the typeface, in its units: the middle of the head line, the stem of PROXY from its left edge, where it ends.
HEAD, STEM, ADVANCE, THIN = 609.0, 394.0, 509.0, 26.0
ROUND_RA = "ट" + HALANT + RA  # र below a letter without a stem
BEARERS = {PROXY: STEM, "ट": 280.0}  # where the letters that signs are shaped with have them, from the left
HOOK = -507.0  # where the stem of ि is, from the end of its hook
BESIDE_RA = {"रु": 200.0, "रू": 200.0}  # signs that र has at its side, from where on
STROKE_OF_RAKAR = (0 + 165j, -290 - 100j)  # from the stem to the lower left
WIDE = 1.15  # the letters of the data are wider than the typeface's
TOP, BOTTOM, DOT = 0.72, 0.56, 0.45  # where signs stand on a letter without a stem, as a share of its width
FINE, FINER = 0.13, 0.09  # the widest strokes of what is crowded, as a share of a letter's height
CROWDED = "ँ"  # is more so
NARROW = 0.85  # of a letter's width, that half letters have
SCRAP = 0.12  # of a half letter's ink; what is smaller and apart is a remainder of the stem
BEND = 0.02  # largest shift of a stroke, as a share of a letter's height


@dataclass(frozen=True)
class Hand:
    """The measures of a line's letters in pixels of the drawing board.

    `stroke` is the width of the pen, `head` and `base` are the rows of the head line's middle and of the lowest
    stroke's, and `lean` is how far a stem moves to the right for each row downwards.
    """

    stroke: float
    head: float
    base: float
    lean: float

    @property
    def unit(self) -> float:
        """Pixels of a unit of the typeface."""
        return (self.base - self.head) / HEAD

    def at_most(self, stroke: float) -> "Hand":
        """With a pen no wider than this share of a letter's height, for what is crowded."""
        return replace(self, stroke=min(self.stroke, stroke * (self.base - self.head)))


@dataclass(frozen=True)
class _Ink:
    """Ink float32 [H,W] in [0,1] and where it lies."""

    ink: Floats
    left: int
    top: int


@dataclass(frozen=True)
class _Stem:
    """The middle of a letter's vertical stroke in the rows `top` and `bottom` of its ink, and its lean."""

    top: float
    bottom: float
    lean: float


def measure(letters: Sequence[Drawn], parts: Sequence[Part], strokes: Sequence[float], side: int) -> Hand:
    """The hand of a line, from the letters that the model wrote of it; a usual one where there are none."""
    stroke, head, base, lean = 0.085 * side, 0.13 * side, 0.9 * side, 0.0
    if letters:
        stroke = float(np.median(strokes))
        base = float(np.median([_inked_rows(one.ink)[1] for one in letters])) - stroke / 2
        heads = [one.head.row for one in letters if one.head]
        tops = heads or [_inked_rows(one.ink)[0] + stroke / 2 for one in letters]
        head = float(np.median(tops))
        stems = [_stem(one, stroke) for one, part in zip(letters, parts, strict=True) if stem(part.shape) == "right"]
        lean = float(np.median([one.lean for one in stems])) if stems else lean
    return Hand(stroke, head, max(base, head + side / 3), lean)


def complete(
    parts: Sequence[Part | None], letters: Sequence[Drawn], side: int, rng: np.random.Generator
) -> list[Drawn | None]:
    """All parts of a line as ink, None for a space; `letters` are those that the model wrote, in order."""
    known = [part for part in parts if part and part.label is not None]
    written = iter(letters)
    if not any(part and (part.drawn or part.kind == "half") for part in parts):
        return [None if part is None else next(written) for part in parts]
    strokes = [_stroke_width(one.ink) for one in letters]
    hand = measure(letters, known, strokes, side)
    pens = iter([replace(hand, stroke=(hand.stroke + one) / 2) for one in (hand.stroke, *strokes)])
    pen = next(pens)
    done: list[Drawn | None] = []
    for part in parts:
        if part is None or part.kind == "before":  # which needs to know the letter
            done.append(None)
        elif part.label is None:
            done.append(_from_typeface(part, pen, rng))
        else:
            pen, one = next(pens), next(written)
            one = _halved(part.shape, one, pen) if part.kind == "half" else one
            done.append(replace(_with_signs(part, one, pen, rng), tight=part.tight))
    for i, part in enumerate(parts):
        if part and part.kind == "before":
            done[i] = _before(part, _reach(parts[i + 1 :], done[i + 1 :], hand), hand, rng)
    return done


# --- the typeface ---


@cache
def _font() -> object:
    return open_font(SANS, 100, 100)


@lru_cache(maxsize=512)
def glyph(text: str) -> Outline:
    """The outline of `text`, without the letter that signs are shaped with; x counts from that letter's stem."""
    if text == HALANT + RA:
        start, end = STROKE_OF_RAKAR
        across = (end - start) / abs(end - start) * 1j * THIN / 2
        return outline([np.array([start + across, end + across, end - across, start - across])])
    font = _font()
    shaped = shape(font, text)
    bearer = "ट" if text == ROUND_RA else PROXY if PROXY in text else None
    if text in BESIDE_RA:
        curves = [one for one in contours(font, shaped[0][0]) if one.real.min() > BESIDE_RA[text]]
        return outline([one - BESIDE_RA[text] for one in curves])
    number = shape(font, bearer)[0][0] if bearer else -1
    origin = next((place + BEARERS[bearer] for one, place in shaped if one == number), 0j) if bearer else 0j
    return outline([curve + place - origin for one, place in shaped if one != number for curve in contours(font, one)])


def _ink(xy: Floats, after: Ints, hand: Hand) -> _Ink:
    """The ink of a pen that follows an outline [P,2], in pixels of the board with y down."""
    reach = hand.stroke / 2 - THIN * hand.unit / 2
    pad = int(max(reach, 0)) + 3
    left, top = np.floor(xy.min(0)).astype(int) - pad
    width, height = np.ceil(xy.max(0)).astype(int) + pad - (left, top)
    away = ndimage.distance_transform_edt(fill(xy - (left, top), after, height, width) == 0)
    ink = np.clip((max(reach, 0.3) - away) / 2 + 0.75, 0, 1).astype(np.float32)
    return _Ink(ink, int(left), int(top))


def _draw(
    text: str, origin: tuple[float, float], hand: Hand, rng: np.random.Generator, base: float = 0.0, hook: float = 0.0
) -> _Ink:
    """What the typeface draws of `text`, its point (0, base) at `origin`, x and y in pixels of the board.

    `hook` is the width of a hook in pixels, 0 for the typeface's.
    """
    drawn, hand = glyph(text), hand.at_most(FINER) if CROWDED in text else hand
    right, down = (drawn.xy * (1, -1) + (0, base)).T * hand.unit
    right = right * WIDE
    if hook:
        start = HOOK * WIDE * hand.unit
        right = np.where(right > start, right * -hook / start, right - start - hook)
    height = hand.base - hand.head
    phase, bend = rng.uniform(0, 2 * np.pi, 2), BEND * height * rng.uniform(0.3, 1, 2)
    turn, grow = rng.normal(0, 0.02), np.exp(rng.normal(0, 0.03, 2))
    right, down = right * grow[0], down * grow[1]
    across = right + (hand.lean - turn) * down + bend[0] * (np.sin(down * 4 / height + phase[0]) - np.sin(phase[0]))
    down = down + turn * right + bend[1] * (np.sin(right * 4 / height + phase[1]) - np.sin(phase[1]))
    return _ink(np.stack([across + origin[0], down + origin[1]], 1), drawn.after, hand)


# --- columns of their own ---


def _from_typeface(part: Part, hand: Hand, rng: np.random.Generator) -> Drawn:
    """A vowel, a conjunct, a sign after a letter or a mark of punctuation."""
    after = part.kind == "after"
    hand = hand if after else hand.at_most(FINE)
    ink = _draw(part.shape, (0.0, hand.head), hand, rng, HEAD)
    if part.kind == "mark":
        return Drawn(ink.ink, None, shift=ink.top, tight=part.tight)
    start = round((ADVANCE - STEM) * WIDE * hand.unit) if after else ink.left
    return _column(ink, max(start - ink.left, 0), 0, hand, part.tight)


def _column(ink: _Ink, over_left: int, over_right: int, hand: Hand, tight: bool) -> Drawn:
    """With the head line where the hand has it."""
    row = round(hand.head) - ink.top
    (length,), (end,) = longest_runs(ink.ink[max(row - 1, 0) : row + 2].max(0, keepdims=True) > 0.5)
    is_line = length > hand.stroke
    head = Head(int(end - length) + 1, int(end), (float(row), float(row)), hand.stroke) if is_line else None
    return Drawn(ink.ink, head, shift=ink.top, over_left=over_left, over_right=over_right, tight=tight)


def _before(part: Part, reach: float, hand: Hand, rng: np.random.Generator) -> Drawn:
    """The sign that stands before its letter, and whose hook ends `reach` pixels further on, at that letter's stem."""
    own = (-HOOK - STEM) * WIDE * hand.unit  # from its stem to the end of its column
    ink = _draw(part.shape, (0.0, hand.head), hand, rng, HEAD, own + reach)
    return _column(ink, 0, max(ink.left + ink.ink.shape[1] + round(reach), 0), hand, part.tight)


def _reach(parts: Sequence[Part | None], drawn: Sequence[Drawn | None], hand: Hand) -> float:
    """How far it is to the stem of the letter that a sign stands before, over its half letters."""
    reach = 0.0
    for part, one in zip(parts, drawn, strict=True):
        if part is None or one is None:
            break
        if part.kind == "letter":
            return reach + _anchors(part.shape, one, hand).top - one.over_left
        reach += one.width
    return reach


# --- letters of the model ---


def _halved(glyph: str, letter: Drawn, hand: Hand) -> Drawn:
    """A letter without its stem, or what is right of it, and a little narrower; its head line ends at its right."""
    line, columns = _stem(letter, hand.stroke), np.arange(letter.ink.shape[1])
    rows = np.arange(len(letter.ink))[:, None]
    ink = letter.ink * (columns < line.bottom + line.lean * (rows - _inked_rows(letter.ink)[1]) - 0.6 * hand.stroke)
    inked = np.flatnonzero(_without_scraps(ink).max(0) > 0.5)
    if len(inked) < 2 * hand.stroke:  # there is next to nothing left of the stem: it was no stem
        return letter
    width = round(NARROW * (inked[-1] + 1))
    ink = np.asarray(Image.fromarray(ink[:, : inked[-1] + 1]).resize((width, len(ink)), Image.Resampling.BILINEAR))
    row = letter.head.row if letter.head else hand.head
    start = width // 2 if glyph in OPEN else round(NARROW * inked[0])
    ink = np.maximum(ink, _bar(ink.shape, row, start, hand.stroke))
    return replace(letter, ink=_without_scraps(ink), head=Head(start, width - 1, (row, row), hand.stroke))


def _bar(shape: tuple[int, ...], row: float, start: int, stroke: float) -> Floats:
    """A head line from `start` to the right edge."""
    down = np.clip(stroke / 2 + 0.5 - np.abs(np.arange(shape[0])[:, None] - row), 0, 1)
    bar: Floats = (down * (np.arange(shape[1]) >= start)).astype(np.float32)
    return bar


def _without_scraps(ink: Floats) -> Floats:
    """Without what is cut off from the rest and small."""
    pieces, count = ndimage.label(ink > 0.3)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    kept: Floats = ink * ((sizes > SCRAP * sizes[1:].sum()) | (np.arange(len(sizes)) == 0))[pieces]
    return kept


def _with_signs(part: Part, letter: Drawn, hand: Hand, rng: np.random.Generator) -> Drawn:
    """A letter with all signs above, below and at it."""
    if not part.signs:
        return letter
    anchors = _anchors(part.shape, letter, hand)
    pieces = [_Ink(letter.ink, 0, 0)]
    pieces += [_sign(sign, part.shape, letter, anchors, hand, rng) for sign in part.signs]
    left, top = min(one.left for one in pieces), min(one.top for one in pieces)
    right = max(one.left + one.ink.shape[1] for one in pieces)
    bottom = max(one.top + len(one.ink) for one in pieces)
    board = np.zeros((bottom - top, right - left), np.float32)
    for one in pieces:
        place = board[one.top - top :, one.left - left :][: len(one.ink), : one.ink.shape[1]]
        np.maximum(place, one.ink, out=place)
    moved = letter.head and Head(
        letter.head.start - left,
        letter.head.end - left,
        (letter.head.rows[0] - top, letter.head.rows[1] - top),
        letter.head.thickness,
    )
    over_right = 0 if part.signs[0].place == "side" else right - letter.ink.shape[1]
    return replace(letter, ink=board, head=moved, shift=top, over_left=-left, over_right=over_right)


def _sign(sign: Sign, letter: str, drawn: Drawn, anchors: _Stem, hand: Hand, rng: np.random.Generator) -> _Ink:
    """One sign on its letter."""
    width = drawn.ink.shape[1]
    head = drawn.head.row if drawn.head else _inked_rows(drawn.ink)[0] + hand.stroke / 2
    low = _lowest(drawn.ink, anchors.bottom, hand.stroke)
    if sign.place == "above":
        return _draw(sign.shape, (anchors.top, head), hand, rng, HEAD)
    if sign.place == "nukta":
        return _draw(sign.shape, (DOT * width, _inked_rows(drawn.ink)[1]), hand, rng)
    if sign.place == "side":
        return _draw(sign.shape, (0.55 * width, head), hand, rng, HEAD)
    if sign.place == "rakar" and stem(letter) == "none":
        return _draw(ROUND_RA, (anchors.bottom, low), hand, rng)
    return _draw(sign.shape, (anchors.bottom, low), hand, rng)


def _anchors(letter: str, drawn: Drawn, hand: Hand) -> _Stem:
    """Where the signs of a letter stand: at its stem, or else where the typeface has them."""
    kind, width = stem(letter), drawn.width
    if kind == "right":
        return _stem(drawn, hand.stroke)
    if kind == "middle":
        columns = drawn.ink[:, drawn.over_left :][:, int(0.3 * width) : int(0.75 * width)].sum(0)
        most = float(np.argmax(ndimage.uniform_filter1d(columns, max(int(hand.stroke), 1))))
        middle = drawn.over_left + 0.3 * width + most
        return _Stem(middle, middle, 0.0)
    return _Stem(drawn.over_left + TOP * width, drawn.over_left + BOTTOM * width, 0.0)


def _stem(letter: Drawn, stroke: float) -> _Stem:
    """The stem at the right of a letter: a straight line through the right edges of its rows below the head line."""
    first, last = _inked_rows(letter.ink)
    if letter.head:
        first = max(first, int(letter.head.row))
    rows = np.arange(int(first + 1.2 * stroke), int(last - 0.3 * stroke))
    inked = letter.ink[rows] > 0.5
    rows, inked = rows[inked.any(1)], inked[inked.any(1)]
    edges = inked.shape[1] - 1 - np.argmax(inked[:, ::-1], axis=1)
    width = letter.ink.shape[1]
    keep = np.abs(edges - np.median(edges)) < 0.12 * width if len(edges) else np.zeros(0, bool)
    if keep.sum() < 8:
        return _Stem(0.85 * width, 0.85 * width, 0.0)
    lean, start = np.polyfit(rows[keep], edges[keep], 1)
    lean = float(np.clip(lean, -0.5, 0.5))
    start = float(np.median(edges[keep] - lean * rows[keep])) - stroke / 2
    return _Stem(start + lean * first, start + lean * last, lean)


def _stroke_width(ink: Floats) -> float:
    """A stroke has an edge at either side, so that its width is twice its area over the length of its edges."""
    edges = float(np.hypot(*np.gradient(ink)).sum())
    return 2 * float(ink.sum()) / max(edges, 1.0)


def _inked_rows(ink: Floats) -> tuple[int, int]:
    """The first and the last row with ink."""
    rows = np.flatnonzero(ink.max(1) > 0.5)
    return (int(rows[0]), int(rows[-1])) if len(rows) else (0, len(ink) - 1)


def _lowest(ink: Floats, column: float, stroke: float) -> float:
    """The middle of the lowest stroke around a column."""
    around = ink[:, max(int(column - stroke), 0) : int(column + stroke) + 1]
    return _inked_rows(around if around.size and around.max() > 0.5 else ink)[1] - stroke / 2
