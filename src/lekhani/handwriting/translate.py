"""A number in one script's handwriting, read by its judge and written again in another's."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from lekhani.data.spec import Bytes, GlyphClass
from lekhani.errors import UsageError
from lekhani.handwriting.compose import sample_hand, seeded_rng
from lekhani.handwriting.recognise import Reading, frame_ink, frame_picture, ink_of, load_picture, read_frames
from lekhani.inference.sampling import Steps, run_steps
from lekhani.inference.session import Floats, LoadedModel, Reader
from lekhani.pictures import save_png, to_uint8
from lekhani.text import printable

MIN_CONFIDENCE = 0.95  # of the judge in a digit that was written
MAX_DIGITS = 50
MAX_WIDTH = 4096  # a row of digits is long, and each should keep its strokes
VARIETY = 0.3  # of the digits of a number, as in `compose`


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
    min_confidence: float = MIN_CONFIDENCE,
    *,
    scale: int = 1,
    overwrite: bool = False,
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
        readings = read_digits(reader, picture)
    except UsageError as error:
        raise UsageError(f"{printable(image)}: {error}") from None
    done = run_steps(pen.generator, write_number(pen, readings, seed, min_confidence))
    save_png(done.picture, out, scale)
    return done


def translate(
    reader: Reader, picture: Bytes, pen: LoadedModel, seed: int = 0, min_confidence: float = MIN_CONFIDENCE
) -> Translation:
    """Read a row of digits from a grey picture uint8 [H,W] with `reader` and write them with `pen`, in one hand.

    If the pen has a judge, a digit is drawn again until that accepts it with at least `min_confidence` in [0,1]; 0
    keeps all. Raises UsageError for a blank picture, several rows, or a model without the digits, and LekhaniError when
    a digit does not come out readable.
    """
    return run_steps(pen.generator, write_number(pen, read_digits(reader, picture), seed, min_confidence))


def read_digits(reader: Reader, picture: Bytes) -> list[Reading]:
    """The digits in a grey picture uint8 [H,W] of one row, left to right; the judge's other classes are ignored."""
    known = set(digit_values(reader.classes))
    if not known:
        raise UsageError(f"The judge of {reader.dataset} reads no digits, so there is no number to translate.")
    size = reader.image_size
    if picture.shape == (size, size):  # an image of the dataset
        return read_frames(reader, frame_picture(picture, reader)[None], only=known)
    glyphs = split_glyphs(ink_of(picture))
    return read_frames(reader, np.stack([frame_ink(glyph, reader) for glyph in glyphs]), only=known)


def write_number(pen: LoadedModel, readings: Sequence[Reading], seed: int, min_confidence: float) -> Steps[Translation]:
    """Write the digits that were read with `pen`; see `translate`."""
    if not pen.generator.conditional:
        problem = f"{pen.origin} ({pen.generator.variant}) takes no labels, so it cannot write a given digit"
        raise UsageError(f"{problem}; use a conditional model.")
    label_of = {value: label for label, value in digit_values(pen.classes).items()}
    wanted = [unicodedata.digit(reading.best.glyph) for reading in readings]
    missing = sorted({value for value in wanted if value not in label_of})
    if missing:
        what = f"the digit{'s' if len(missing) > 1 else ''} {' '.join(map(str, missing))}"
        raise UsageError(f"{pen.origin} does not write {what}; use a model that does.")
    labels = np.array([label_of[value] for value in wanted], np.int64)
    reader = pen.reader if min_confidence else None
    rng = seeded_rng(pen.generator, seed)
    images = yield from sample_hand(pen.generator, labels, rng, VARIETY, reader, min_confidence)
    return Translation(tuple(readings), "".join(pen.classes[label].glyph for label in labels), to_uint8(images))


def digit_values(classes: Sequence[GlyphClass]) -> dict[int, int]:
    """The value of each class that is a digit, by label."""
    return {c.label: unicodedata.digit(c.glyph) for c in classes if len(c.glyph) == 1 and c.is_digit}


def split_glyphs(ink: Floats) -> list[Floats]:
    """The glyphs of one row, from left to right, each as ink [H,W] of the whole picture's size without the others'.

    Strokes that do not touch belong together when one lies above the other, or when one is small and close by. Raises
    UsageError for several rows, and for more than 50 glyphs.
    """
    spots, count = ndimage.label(ink > 0.5, np.ones((3, 3)))
    boxes = ndimage.find_objects(spots)
    mass = ndimage.sum_labels(ink, spots, np.arange(1, count + 1))
    tall = max(box[0].stop - box[0].start for box in boxes)
    rows = _rows([(box[0].start, box[0].stop) for box in boxes if box[0].stop - box[0].start > 0.5 * tall])
    if rows > 1:
        raise UsageError(f"The image shows {rows} rows of glyphs; cut it to one.")
    large = mass >= 0.01 * mass.max()  # without dust
    strokes = [_Glyph(x.start, x.stop, y.start, y.stop, [i + 1]) for i, (y, x) in enumerate(boxes) if large[i]]
    glyphs: list[_Glyph] = []
    for stroke in sorted(strokes, key=lambda one: (one.left, one.right)):
        if glyphs and _same_glyph(glyphs[-1], stroke, tall):
            glyphs[-1].add(stroke)
        else:
            glyphs.append(stroke)
    if len(glyphs) > MAX_DIGITS:
        problem = f"The image shows {len(glyphs):,} glyphs, and {MAX_DIGITS} is the most"
        raise UsageError(f"{problem}; cut it, or take it on plainer paper.")
    reach = ndimage.grey_dilation(spots, size=3)  # the soft edges of strokes
    return [np.where(np.isin(reach, glyph.spots), ink, 0).astype(np.float32) for glyph in glyphs]


def _same_glyph(left: _Glyph, right: _Glyph, tall: int) -> bool:
    lower = min(left.bottom - left.top, right.bottom - right.top) / tall
    overlap = min(left.right, right.right) - right.left
    if overlap > 0.5 * min(left.right - left.left, right.right - right.left):
        return lower < 0.75  # two tall strokes that lean over one another are two digits
    return lower < 0.4 and overlap > -0.08 * tall


def _rows(spans: Sequence[tuple[int, int]]) -> int:
    """How many rows strokes with these first and last rows of pixels stand in."""
    rows, end = 0, -1
    for start, stop in sorted(spans):
        rows += start >= end
        end = max(end, stop)
    return rows
