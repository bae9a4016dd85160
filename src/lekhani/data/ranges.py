"""The range in which a source holds its pixels, recognised over all its images together, and their way to 0..255."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lekhani.data.raw import Images, Values
from lekhani.data.spec import Bytes
from lekhani.errors import UsageError

_SIGNED = ((-1.0, 1.0), (-0.5, 0.5), (-128.0, 127.0))
# White is one of these where the brightest pixel is exactly that: fractions and bits, scans of few shades, percent.
_EXACT = (1, 3, 7, 15, 16, 31, 63, 64, 100, 127)
# Else it is the highest number of so many bits, where the brightest pixel is more than half of it.
_HIGHEST = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 15, 16))
_TOLERANCE = 1e-3  # of fractions that were rounded
_APART = 4  # times as bright as another file
_MOST_FILES = 100
_ROW = re.compile(r"(:\d+|\[\d+\])$")  # what a member of a table or an array ends in
_ROWS = 4096  # images that are scaled together


def to_bytes(
    values: Values, chosen: tuple[float, float] | None, name: str, members: Sequence[str]
) -> tuple[Images, tuple[str, ...]]:
    """Images of any numbers [H,W] as uint8 from 0 to 255, and a note that says what they were.

    All images of one kind of numbers (bytes, deeper integers, fractions) share one range: `chosen`, the values of black
    and white, or else the one that their lowest and highest value tell. Raises UsageError, asking for
    data.D.value_range, where these tell nothing, and for values that are no number or lie outside `chosen`.
    """
    if isinstance(values, np.ndarray):
        if not chosen:
            _check_files(values, name, members)
        scaled, note = _scaled(values, chosen, name, members)
        return scaled, (note,)
    kinds = np.array([_kind(image) for image in values])
    result: list[Bytes] = [np.empty((0, 0), np.uint8)] * len(values)
    notes = []
    for kind in sorted(set(kinds.tolist())):
        rows = np.flatnonzero(kinds == kind).tolist()
        images, note = _scaled([values[row] for row in rows], chosen, name, [members[row] for row in rows])
        notes.append(note if len(rows) == len(values) else f"Of {len(rows):,} images with {kind}: {note}")
        for row, image in zip(rows, images, strict=True):
            result[row] = image
    return result, tuple(notes)


def _check_files(values: npt.NDArray[Any], name: str, members: Sequence[str]) -> None:
    """Raise UsageError where one table or array holds a range far below another's, as fractions beside bytes."""
    rows: dict[str, list[int]] = {}
    for row, member in enumerate(members):
        if match := _ROW.search(member):
            rows.setdefault(member[: match.start()], []).append(row)
    if not 2 <= len(rows) <= _MOST_FILES:
        return
    of_image = values.max(axis=(1, 2))
    highest = {file: float(of_image[inside].max()) for file, inside in rows.items()}
    low, high = min(highest, key=highest.__getitem__), max(highest, key=highest.__getitem__)
    if len(rows[low]) > 1 and 0 < highest[low] < highest[high] / _APART:
        problem = f"the pixels of {low} reach {highest[low]:g} and those of {high} {highest[high]:g}"
        remedy = f"save both in one range, or say with data.{name}.value_range that they are"
        raise UsageError(f"data.{name}: {problem}; {remedy}.")


def _kind(image: npt.NDArray[Any]) -> str:
    if image.dtype.kind == "f":
        return "fractions"
    return "one byte per pixel" if image.dtype.itemsize == 1 else "more than one byte per pixel"


def _scaled(
    values: Values, chosen: tuple[float, float] | None, name: str, members: Sequence[str]
) -> tuple[Images, str]:
    lows, highs = _extremes(values)
    lowest, highest = int(lows.argmin()), int(highs.argmax())
    low, high = float(lows[lowest]), float(highs[highest])
    if not np.isfinite([low, high]).all():
        odd = members[int(np.argmin(np.isfinite(lows) & np.isfinite(highs)))]
        raise UsageError(f"data.{name}: {odd} holds a pixel that is no finite number; correct it or leave it out.")
    found = f"{low:g} (in {members[lowest]}) to {high:g} (in {members[highest]})"
    if chosen and not (np.float32(chosen[0]) <= low and high <= np.float32(chosen[1])):  # tables are read as float32
        problem = (
            f"the pixels run from {found}, beyond {chosen[0]:g} to {chosen[1]:g}; give the values of black and white"
        )
        raise UsageError(f"data.{name}.value_range: {problem}.")
    black, white = chosen or recognised(low, high) or (0.0, 0.0)
    if black == white:
        remedy = f"set data.{name}.value_range to the values of black and white, such as [0, 255]"
        raise UsageError(f"data.{name}: the pixels run from {found}, which is no range that we know; {remedy}.")
    seen = f"Pixel values lie between {low:g} and {high:g}"
    arrays = [values] if isinstance(values, np.ndarray) else values
    if (black, white) == (0, 255) and all(array.dtype == np.uint8 for array in arrays):
        return values, f"{seen}."
    note = f"{seen}." if (black, white) == (0, 255) else f"{seen}; {black:g}..{white:g} was scaled to 0..255."
    return _stretched(values, black, white), note


def _extremes(values: Values) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The lowest and the highest value of each image."""
    if isinstance(values, np.ndarray):
        return values.min(axis=(1, 2)), values.max(axis=(1, 2))
    return np.array([image.min() for image in values]), np.array([image.max() for image in values])


def recognised(low: float, high: float) -> tuple[float, float] | None:
    """The values of black and white that the lowest and the highest value of a dataset tell; None where they do not."""
    if low < 0:
        near = (pair for pair in _SIGNED if abs(low - pair[0]) + abs(high - pair[1]) <= _TOLERANCE * pair[1] * 2)
        return next(near, None)
    if high == 0:  # blank, which is not a matter of range
        return 0.0, 255.0
    if 0.5 < high <= 1 + _TOLERANCE:
        return 0.0, max(1.0, high)
    white = next((white for white in _EXACT if abs(high - white) <= _TOLERANCE), None)
    white = white or next((white for white in _HIGHEST if white / 2 < high <= white), None)
    return (0.0, float(white)) if white else None


def _stretched(values: Values, black: float, white: float) -> Images:
    factor = np.float32(255 / (white - black))

    def scale(block: npt.NDArray[Any]) -> Bytes:
        scaled = (block.astype(np.float32) - np.float32(black)) * factor
        rounded: Bytes = np.rint(scaled, out=scaled).clip(0, 255).astype(np.uint8)
        return rounded

    if not isinstance(values, np.ndarray):
        return [scale(image) for image in values]
    images = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _ROWS):
        images[start : start + _ROWS] = scale(values[start : start + _ROWS])
    return images
