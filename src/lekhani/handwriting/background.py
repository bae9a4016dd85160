"""Pictures to write on: a file, or a folder of them, from which each line takes a part at random."""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lekhani.data.images import decode_colour
from lekhani.errors import UsageError, reason
from lekhani.files import read_input
from lekhani.inference.session import Floats
from lekhani.text import printable

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff")
MAX_PICTURES = 10_000
MAX_BYTES = 50 << 20  # of one file
SIDE = 1600  # pixels; larger pictures are shrunk
KEPT = 16  # pictures in memory
LEAST_MEAN = 150  # a darker part is made as light as this, or dark ink would not show on it


class Background:
    """The pictures of one place."""

    def __init__(self, place: str | Path) -> None:
        """Raise UsageError where `place` is no picture, a folder without pictures or one of too many."""
        self.place = Path(place)
        self.files = [self.place] if self.place.is_file() else self._listed()
        self._picture = lru_cache(KEPT)(_picture)

    def _listed(self) -> list[Path]:
        shown = f"The background {printable(self.place)}"
        if not self.place.is_dir():
            raise UsageError(f"{shown} is neither a picture nor a folder of pictures; name one that is.")
        found: list[Path] = []
        for path in self.place.iterdir():
            if path.suffix.lower() in ENDINGS and path.is_file():
                found.append(path)
            if len(found) > MAX_PICTURES:
                raise UsageError(f"{shown} holds more than {MAX_PICTURES:,} pictures; name a folder of fewer.")
        if not found:
            raise UsageError(f"{shown} is a folder without pictures ({', '.join(ENDINGS)}); name another one.")
        return sorted(found)

    def facts(self) -> dict[str, Any]:
        """How many pictures there are, and the SHA-256 over their names and contents."""
        total = hashlib.sha256()
        for path in self.files:
            total.update(path.name.encode(errors="surrogateescape") + b"\0" + _content(path))
        return {"pictures": len(self.files), "sha256": total.hexdigest()}

    def cropped(self, size: tuple[int, int], rng: np.random.Generator) -> Floats:
        """A part of a picture, float32 [3,H,W] for (W, H), light enough for dark ink.

        The picture and the place in it are random, as is its scale: as it is, or somewhat smaller where it is much
        larger; only a picture that is too small is enlarged. Raises UsageError naming one that cannot be read.
        """
        picture = self._picture(self.files[rng.integers(len(self.files))])
        fit = min(picture.width / size[0], picture.height / size[1])
        scale = fit ** rng.uniform(0, 0.5) if fit > 1 else fit
        # Rounding may give a hair more than there is.
        width, height = (min(scale * one, most) for one, most in zip(size, picture.size, strict=True))
        left, top = rng.uniform(0, picture.width - width), rng.uniform(0, picture.height - height)
        box = (left, top, min(left + width, picture.width), min(top + height, picture.height))
        part = picture.resize(size, Image.Resampling.BILINEAR, box)
        values = np.stack([np.asarray(plane, np.float32) for plane in part.split()])
        if (mean := float(values.mean())) < LEAST_MEAN:
            values = 255 - (255 - values) * np.float32((255 - LEAST_MEAN) / (255 - mean))
        return values


def _picture(path: Path) -> Image.Image:
    return decode_colour(str(path.parent), path.name, _content(path), SIDE)


def _content(path: Path) -> bytes:
    try:
        return read_input(path, MAX_BYTES)
    except OSError as error:
        raise UsageError(f"The background {printable(path)} cannot be read: {reason(error)}.") from None
