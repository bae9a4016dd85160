"""EMNIST's files hold their images with rows and columns exchanged, which shows when they are looked at."""

from collections.abc import Iterable

import numpy as np

from lekhani.data.raw import Images
from lekhani.data.spec import Bytes

_SAMPLE = 2000  # images that are measured
_CLEARLY = 1.05  # times as tall as wide, or as wide as tall


def upright(
    images: Images, files: Iterable[str], original: bool, transposed: bool | None, name: str
) -> tuple[Images, tuple[str, ...]]:
    """White-on-black `images` with rows and columns exchanged where the source has exchanged them; and a note.

    `transposed` says whether it has. With None, files called EMNIST are looked at, since letters and digits are taller
    than wide: in EMNIST's `original` formats they are turned unless they clearly stand upright, in others only where
    they clearly lie.
    """
    if transposed is not None:
        return (_turned(images), ("Rows and columns of all images were exchanged.",)) if transposed else (images, ())
    if not any("emnist" in file.lower() for file in files):
        return images, ()
    if _height_by_width(images) > (_CLEARLY if original else 1 / _CLEARLY):
        note = "The files are called EMNIST and their images stand upright, so that they were not turned"
        return images, (f"{note}; data.{name}.transposed: true would turn them.",)
    note = "The images were turned, since EMNIST stores them with rows and columns exchanged"
    return _turned(images), (f"{note}; data.{name}.transposed: false would leave them as they are.",)


def _turned(images: Images) -> Images:
    if isinstance(images, np.ndarray):
        return np.ascontiguousarray(images.transpose(0, 2, 1))
    return [np.ascontiguousarray(image.T) for image in images]


def _height_by_width(images: Images) -> float:
    """How far ink spreads from its centre upwards and downwards, compared with left and right."""
    chosen = images[:: max(1, len(images) // _SAMPLE)]
    height, width = (sum(_spread(image, axis) for image in chosen) for axis in (1, 0))
    return height / width if height and width else 1.0


def _spread(image: Bytes, axis: int) -> float:
    """The standard deviation of where ink lies, with `axis` summed up, in pixels."""
    ink = image.sum(axis=axis, dtype=np.float64)
    if not ink.any():
        return 0.0
    places = np.arange(len(ink))
    return float(np.sqrt(np.average((places - np.average(places, weights=ink)) ** 2, weights=ink)))
