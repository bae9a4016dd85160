"""A number in one script's handwriting, read by its judge and written again in another's."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lekhani.data.spec import Bytes, GlyphClass
from lekhani.errors import UsageError
from lekhani.handwriting.compose import sample_hand, seeded_rng
from lekhani.handwriting.ink import ink_of, is_frame, split_glyphs
from lekhani.handwriting.recognise import (
    Reading,
    UnsureError,
    load_picture,
    read_frame,
    read_upright,
    readings,
    unsure,
)
from lekhani.inference.sampling import Steps, run_steps
from lekhani.inference.session import LoadedModel, Reader
from lekhani.pictures import save_png, to_uint8
from lekhani.text import printable

MIN_WRITTEN = 0.95  # confidence of the judge in a digit that was written
MAX_WIDTH = 4096  # a row of digits is long, and each should keep its strokes
VARIETY = 0.3  # of the digits of a number, as in `compose`


@dataclass(frozen=True)
class Translation:
    """The digits that were read, and the number written again: `images` uint8 [N,H,W], white on black, of `text`."""

    readings: tuple[Reading, ...]
    text: str
    images: Bytes

    @property
    def picture(self) -> Bytes:
        """The digits side by side, uint8 [H, N*W]."""
        return np.hstack(list(self.images))

    def save(self, path: str | Path, scale: int = 1) -> None:
        """Write the picture as PNG, each pixel `scale` pixels wide; replaces the file `path`."""
        save_png(self.picture, Path(path), scale)

    @property
    def read(self) -> str:
        """The digits as they stood in the picture."""
        return "".join(reading.best.glyph for reading in self.readings)

    def __str__(self) -> str:
        sure = ", ".join(f"{reading.best.confidence:.1%}" for reading in self.readings)
        return f"Read {self.read} ({sure} sure) and wrote {self.text}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON, without the pictures."""
        return {"read": self.read, "written": self.text, "digits": [r.as_dict() for r in self.readings]}


def translate_file(
    reader: Reader,
    image: Path,
    pen: LoadedModel,
    out: Path,
    seed: int = 0,
    min_confidence: float = MIN_WRITTEN,
    *,
    scale: int = 1,
    overwrite: bool = False,
    force: bool = False,
) -> Translation:
    """`translate` a file and write the number into the new PNG `out`, each pixel `scale` wide.

    Raises UsageError that names the file at fault.
    """
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: the number is written as a picture; choose a name that ends in .png.")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists already; choose another --out or pass --overwrite.")
    picture = load_picture(image, MAX_WIDTH)
    try:
        digits = read_digits(reader, picture, force=force)
    except UnsureError as error:
        raise UnsureError(f"{printable(image)}: {error}", error.readings, glyphs=error.glyphs) from None
    except UsageError as error:
        raise UsageError(f"{printable(image)}: {error}") from None
    done = run_steps(pen.generator, write_number(pen, digits, seed, min_confidence))
    save_png(done.picture, out, scale)
    return done


def translate(
    reader: Reader,
    picture: Bytes,
    pen: LoadedModel,
    seed: int = 0,
    min_confidence: float = MIN_WRITTEN,
    *,
    force: bool = False,
) -> Translation:
    """Read a row of digits from a grey picture uint8 [H,W] with `reader` and write them with `pen`, in one hand.

    If the pen has a judge, a digit is drawn again until that accepts it with at least `min_confidence` in [0,1]; 0
    keeps all. For `force` see `read_digits`. Raises UsageError for a blank picture, several rows, or a model without
    the digits, and LekhaniError when a digit does not come out readable.
    """
    digits = read_digits(reader, picture, force=force)
    return run_steps(pen.generator, write_number(pen, digits, seed, min_confidence))


def read_digits(reader: Reader, picture: Bytes, *, force: bool = False) -> list[Reading]:
    """The digits in a grey picture uint8 [H,W] of one row, left to right.

    Raises UnsureError, which says the place, for a glyph that the judge reads as a letter, or not for sure; with
    `force`, the likeliest digits are returned then.
    """
    digits = list(digit_values(reader.classes))
    if not digits:
        raise UsageError(f"The judge of {reader.dataset} reads no digits, so there is no number to translate.")
    if is_frame(picture, reader):
        read = read_frame(reader, picture)
    else:
        read = read_upright(reader, ink_of(picture), split_glyphs)
    shares = read.shares
    among = np.zeros_like(shares)
    among[:, digits] = shares[:, digits]
    likely = among.sum(1)
    found = readings(reader, among / likely[:, None])
    for place, (reading, share) in enumerate(zip(found, likely, strict=True)):
        if not force and (share < 0.5 or reading.best.confidence < read.needed):
            where = f"Glyph {place + 1} of {len(found)}" if len(found) > 1 else "The image"
            why = f"shows no digit for sure: {unsure(reading, read.needed)}"
            if share < 0.5:
                (whole,) = readings(reader, shares[place, None])
                why = f"looks like {whole.best}, which is no digit; cut it off, or use force to take the likeliest"
            raise UnsureError(f"{where} {why}.", found, glyphs=len(found))
    return found


def write_number(pen: LoadedModel, digits: Sequence[Reading], seed: int, min_confidence: float) -> Steps[Translation]:
    """Write the digits that were read with `pen`; see `translate`."""
    if not pen.generator.conditional:
        problem = f"{pen.origin} ({pen.generator.variant}) takes no labels, so it cannot write a given digit"
        raise UsageError(f"{problem}; use a conditional model.")
    label_of = {value: label for label, value in digit_values(pen.classes).items()}
    wanted = [unicodedata.digit(reading.best.glyph) for reading in digits]
    missing = sorted({value for value in wanted if value not in label_of})
    if missing:
        what = f"the digit{'s' if len(missing) > 1 else ''} {' '.join(map(str, missing))}"
        raise UsageError(f"{pen.origin} does not write {what}; use a model that does.")
    labels = np.array([label_of[value] for value in wanted], np.int64)
    reader = pen.reader if min_confidence else None
    rng = seeded_rng(pen.generator, seed)
    images = yield from sample_hand(pen.generator, labels, rng, VARIETY, reader, min_confidence)
    return Translation(tuple(digits), "".join(pen.classes[label].glyph for label in labels), to_uint8(images))


def digit_values(classes: Sequence[GlyphClass]) -> dict[int, int]:
    """The value of each class that is a digit, by label."""
    return {c.label: unicodedata.digit(c.glyph) for c in classes if len(c.glyph) == 1 and c.is_digit}
