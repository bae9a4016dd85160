"""Read glyphs from pictures: photos of paper, scans, drawings, dark on light or light on dark, of any size.

What is no glyph of the judge's, or several, is refused with an UnsureError.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from lekhani.data.images import decode_one
from lekhani.data.names import one_line
from lekhani.data.spec import Bytes
from lekhani.errors import UsageError
from lekhani.files import read_input
from lekhani.handwriting.ink import (
    Page,
    PictureError,
    Reason,
    count_joined,
    frame_ink,
    frame_picture,
    ink_of,
    is_frame,
    shrunk,
    split_glyphs,
    turned,
    width,
)
from lekhani.inference.confidence import softmax
from lekhani.inference.session import Floats, Reader
from lekhani.text import printable

SIDE = 1024  # larger pictures are shrunk to this
MAX_BYTES = 64 << 20
MIN_CONFIDENCE = 0.9
"""Below this a reading is refused; judges are calibrated, so it means the same for each. See docs/lines.md."""
ANGLES = (0, -10, 10, -20, 20, -30, 30)  # degrees by which ink is turned; judges are trained on what lies between
TURNING = 0.05  # what a degree costs, in logits
REMOVING = 1.0  # what it costs to take out a line that may be a stroke
TURNED_SIDE = 128  # pixels of a glyph that is turned, which suffice and are quick
WIDE = 1.6  # in parts of the height: wider ink is more than one glyph, where it comes apart

Shares = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Guess:
    """A class and the judge's confidence in it, from 0 to 1."""

    glyph: str
    name: str
    label: int
    confidence: float

    def __str__(self) -> str:
        return f"{self.glyph} {self.confidence:.1%}"


@dataclass(frozen=True)
class Reading:
    """What a glyph was read as, and what else it may be, likeliest first."""

    best: Guess
    alternatives: tuple[Guess, ...]

    def __str__(self) -> str:
        return f"{self.best}{', or ' if self.alternatives else ''}{', '.join(map(str, self.alternatives))}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**vars(self.best), "alternatives": [vars(guess) for guess in self.alternatives]}


class UnsureError(PictureError):
    """A picture that shows no glyph for sure, or another number of them.

    `readings` is what `force` would return, and `parts` what each of several glyphs is read as where they come apart.
    """

    def __init__(
        self,
        message: str,
        readings: Sequence[Reading],
        reason: Reason = "unsure",
        glyphs: int | None = 1,
        parts: Sequence[Reading] = (),
    ) -> None:
        super().__init__(message, reason, glyphs)
        self.readings, self.parts = tuple(readings), tuple(parts)


def load_picture(path: Path, side: int = SIDE) -> Bytes:
    """A picture as grey uint8 [H,W], at most `side` pixels high and wide.

    Raises UsageError naming the file when it cannot be read.
    """
    try:
        content = read_input(path, MAX_BYTES)
    except OSError as error:
        why = error.strerror or error
        sentence = f"The image {path} cannot be read ({why}); give a PNG, JPEG, BMP, GIF or TIFF file."
        raise UsageError(one_line(sentence)) from None
    return decode_one(str(path.parent), path.name, content, side)


def read_files(
    reader: Reader, paths: Sequence[Path], top: int = 3, *, force: bool = False
) -> list[Reading | UsageError]:
    """What each file shows, or why that cannot be said, in a sentence that names the file."""
    found: list[Reading | UsageError] = []
    for path in paths:
        try:
            found += recognise(reader, [load_picture(path)], top, force=force)
        except UnsureError as error:
            found.append(
                UnsureError(one_line(f"{path}: {error}"), error.readings, error.reason, error.glyphs, error.parts)
            )
        except UsageError as error:
            found.append(error if str(path.name) in str(error) else UsageError(one_line(f"{path}: {error}")))
    return found


def recognise(reader: Reader, pictures: Sequence[Bytes], top: int = 3, *, force: bool = False) -> list[Reading]:
    """Read one glyph from each grey picture uint8 [H,W], with `top` guesses in all.

    Raises UsageError for a picture that shows nothing, and UnsureError where it shows several glyphs, or the judge's
    confidence is below MIN_CONFIDENCE; with `force`, the likeliest class is returned then.
    """
    return [_read_picture(reader, picture, top, force) for picture in pictures]


def _read_picture(reader: Reader, picture: Bytes, top: int, force: bool) -> Reading:
    if is_frame(picture, reader):
        count, read = 1, read_frame(reader, picture)
    else:
        page = ink_of(picture)
        read = read_upright(reader, page, lambda one: [one])
        count = 1 if force else count_glyphs(reader, page.ink, read.parts[0], float(read.shares.max()))
    (reading,) = readings(reader, read.shares, top)
    if count > 1 and not force:
        cut = "cut them apart, use translate for a row of digits, or use force to read them as one"
        several = split_glyphs(read.parts[0])
        parts = readings(reader, softmax(read_parts(reader, several)), top) if len(several) == count else []
        raise UnsureError(f"The image shows about {count} glyphs, not one; {cut}.", [reading], "several", count, parts)
    if reading.best.confidence < read.needed and not force:
        problem = f"The image shows no glyph of {reader.dataset} for sure: {unsure(reading, read.needed)}"
        raise UnsureError(f"{problem}.", [reading])
    return reading


def unsure(reading: Reading, needed: float) -> str:
    """Why a reading is refused, and what to do."""
    remedy = "write it larger on plain paper, or use force to take the likeliest"
    return f"{reading}, and below {needed:.1%} that is a guess; {remedy}"


def count_glyphs(reader: Reader, page: Floats, upright: Floats, confidence: float) -> int:
    """About how many glyphs a picture shows, as ink [H,W] as it is and upright.

    Several where they are far apart, or wide and joined at most by a head line; and where each is read more surely than
    the whole with its `confidence`, since some letters are of parts that do not touch. Raises UsageError for several
    rows.
    """
    counts = []
    for ink in (page,) if upright is page else (page, upright):
        parts, wide = split_glyphs(ink), width(ink) > WIDE
        if len(parts) == 1:
            counts.append(count_joined(ink) if wide else 1)
        elif wide or softmax(read_parts(reader, parts)).max(1).min() > confidence:
            counts.append(len(parts))
    return max(counts, default=1)


class Upright(NamedTuple):
    """Glyphs as ink [H,W], the judge's confidence in each class [N,K] of each, and the least that is to be trusted."""

    parts: list[Floats]
    shares: Shares
    needed: float


def read_upright(reader: Reader, page: Page, split: Callable[[Floats], list[Floats]]) -> Upright:
    """Read a page's glyphs, as `split` parts its ink [H,W].

    The ink is turned, by 10 degrees at most where rules showed what is upright, and lines in doubt stay or go, to where
    the judge's logits are highest, by their log-sum-exp: that tells glyphs from what is none (Liu et al. 2020). What is
    no glyph often resembles one at some angle, so the doubt that may remain halves with each 10 degrees. Raises what
    `split` does when it always does so.
    """
    ways: list[tuple[list[Floats], int, float]] = []  # with the angle, and what removing costs
    refused: UsageError | None = None
    for one, cost in ((page, 0.0), (page.doubt, REMOVING)):
        for angle in ANGLES if one else ():
            try:
                if one and abs(angle) <= (10 if one.is_level else 30):
                    ways.append((split(_turned(one.ink, angle)), angle, cost))
            except UsageError as error:
                refused = refused or error
    if refused and not ways:
        raise refused
    logits = read_parts(reader, [part for parts, _, _ in ways for part in parts])
    read = np.split(logits, np.cumsum([len(parts) for parts, _, _ in ways])[:-1])
    scores = [logsumexp(one, 1).mean() - TURNING * abs(way[1]) - way[2] for one, way in zip(read, ways, strict=True)]
    best = int(np.argmax(scores))
    parts, angle, _ = ways[best]
    return Upright(parts, softmax(read[best]), 1 - (1 - MIN_CONFIDENCE) * 0.5 ** (abs(angle) / 10))


def _turned(ink: Floats, angle: int) -> Floats:
    return turned(shrunk(ink, TURNED_SIDE), angle) if angle else ink


def read_frame(reader: Reader, picture: Bytes) -> Upright:
    """Read a picture in the judge's own size."""
    frame = frame_picture(picture, reader)[None]
    return Upright([], softmax(reader.read(frame)[1].astype(np.float64)), MIN_CONFIDENCE)


def read_parts(reader: Reader, parts: Sequence[Floats]) -> Shares:
    """The judge's logits [N,K] of glyphs as ink [H,W]."""
    return reader.read(np.stack([frame_ink(part, reader) for part in parts]))[1].astype(np.float64)


def readings(reader: Reader, shares: Shares, top: int = 3) -> list[Reading]:
    """The `top` likeliest classes of each glyph, of those that are possible at all."""
    found = []
    for row in shares:
        likeliest = [(reader.classes[label], row[label]) for label in (-row).argsort(kind="stable")[:top]]
        first, *others = (Guess(c.glyph, c.name, c.label, round(float(s), 4)) for c, s in likeliest if s > 0)
        found.append(Reading(first, tuple(others)))
    return found


def as_row(path: Path, found: Reading | UsageError) -> dict[str, Any]:
    """What was found in a file, or why nothing was, as plain values, ready for JSON."""
    if isinstance(found, Reading):
        return {"file": str(path), **found.as_dict()}
    guesses = {"readings": [one.as_dict() for one in found.readings]} if isinstance(found, UnsureError) else {}
    return {"file": str(path), "error": str(found), **guesses}


def table(rows: Sequence[tuple[Path, Reading]]) -> str:
    """A line for each file: its name, the glyph, its confidence, and the other guesses."""
    width = max((len(printable(path)) for path, _ in rows), default=0)
    lines = []
    for path, reading in rows:
        best, others = reading.best, ", ".join(map(str, reading.alternatives))
        line = f"{printable(path):{width}}  {best.glyph}  {best.confidence:6.1%}  {others and f'or {others}'}"
        lines.append(f"{line.rstrip()}\n")
    return "".join(lines)
