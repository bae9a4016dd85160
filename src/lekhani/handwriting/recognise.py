"""Read glyphs from pictures: photos of paper, scans, drawings, dark on light or light on dark, of any size."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from lekhani.data.images import decode_one
from lekhani.data.names import one_line
from lekhani.data.spec import Bytes
from lekhani.errors import UsageError
from lekhani.files import read_input
from lekhani.inference.confidence import softmax
from lekhani.inference.session import Floats, Reader
from lekhani.text import printable

SIDE = 1024  # larger pictures are shrunk to this
MAX_BYTES = 64 << 20
FAINTEST = 12  # grey levels between ink and paper below which a picture counts as blank
# The share of the frame that ink takes in its longer direction: in MNIST by definition, elsewhere as in DHCD.
SHARES = {"mnist": 20 / 28}
SHARE = 28 / 32


@dataclass(frozen=True)
class Guess:
    """A class and the judge's confidence in it, from 0 to 1."""

    glyph: str
    name: str
    label: int
    confidence: float


@dataclass(frozen=True)
class Reading:
    """What a glyph was read as, and what else it may be, likeliest first."""

    best: Guess
    alternatives: tuple[Guess, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**vars(self.best), "alternatives": [vars(guess) for guess in self.alternatives]}


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


def read_files(reader: Reader, paths: Sequence[Path], top: int = 3) -> list[Reading | UsageError]:
    """What each file shows, or why that cannot be said, in a sentence that names the file."""
    found: list[Reading | UsageError] = []
    for path in paths:
        try:
            found += recognise(reader, [load_picture(path)], top)
        except UsageError as error:
            found.append(error if str(path.name) in str(error) else UsageError(one_line(f"{path}: {error}")))
    return found


def recognise(
    reader: Reader, pictures: Sequence[Bytes], top: int = 3, only: Collection[int] | None = None
) -> list[Reading]:
    """Read one glyph from each grey picture uint8 [H,W], with `top` guesses in all, among the labels `only` if given.

    Raises UsageError for a picture that shows nothing.
    """
    if not len(pictures):
        return []
    return read_frames(reader, np.stack([frame_picture(picture, reader) for picture in pictures]), top, only)


def read_frames(reader: Reader, frames: Bytes, top: int = 3, only: Collection[int] | None = None) -> list[Reading]:
    """Read glyphs uint8 [N,S,S], white on black, in the judge's own size."""
    logits = reader.read(frames)[1].astype(np.float64)
    if only is not None:
        logits[:, [known.label not in only for known in reader.classes]] = -np.inf
    count = min(top, int(np.isfinite(logits[0]).sum()))
    readings = []
    for shares in softmax(logits):
        likeliest = [(reader.classes[label], shares[label]) for label in (-shares).argsort(kind="stable")[:count]]
        first, *others = (Guess(c.glyph, c.name, c.label, round(float(share), 4)) for c, share in likeliest)
        readings.append(Reading(first, tuple(others)))
    return readings


def table(rows: Sequence[tuple[Path, Reading]]) -> str:
    """A line for each file: its name, the glyph, its confidence, and the other guesses."""
    width = max((len(printable(path)) for path, _ in rows), default=0)
    lines = []
    for path, reading in rows:
        best, others = reading.best, ", ".join(f"{one.glyph} {one.confidence:.1%}" for one in reading.alternatives)
        line = f"{printable(path):{width}}  {best.glyph}  {best.confidence:6.1%}  {others and f'or {others}'}"
        lines.append(f"{line.rstrip()}\n")
    return "".join(lines)


# --- from a picture to the judge's frame ---


def frame_picture(picture: Bytes, reader: Reader) -> Bytes:
    """A grey picture [H,W] of one glyph as in the judge's data: uint8 [S,S], white on black, in its size and place.

    A picture in the judge's own size is taken to be such a frame already, but for its polarity. Raises UsageError for a
    blank one.
    """
    size = reader.image_size
    if picture.shape == (size, size):
        ink_of(picture)
        return 255 - picture if _paper(picture) > 127 else picture
    return frame_ink(_without_specks(ink_of(picture)), reader)


def ink_of(picture: Bytes) -> Floats:
    """How much ink lies on each pixel, float32 [H,W] from 0 to 1, of a grey picture, dark on light or light on dark.

    Ink is what differs from the paper around it, so that shadows and the paper's shade do not count; raises UsageError
    when nothing does.
    """
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
        raise UsageError("The image shows nothing: ink and paper hardly differ.")
    # Paper's own unevenness stays below a fifth of the ink; what is above four fifths is full ink.
    stretched: Floats = np.clip((ink / top - 0.2) / 0.6, 0, 1)
    return stretched


def _paper(picture: Bytes) -> float:
    """The shade of the paper, which is what most of the outermost pixels show."""
    return float(np.median(np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])))


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
