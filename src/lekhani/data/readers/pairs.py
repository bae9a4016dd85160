"""Images in one file and their labels in another of a like name: IDX, and NumPy's arrays that stand alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from lekhani.data.archives import Source
from lekhani.data.names import ROLES, natural_key, words_of
from lekhani.errors import UsageError

_Array = npt.NDArray[Any]
_LEAST_PIXELS = 16  # columns of a table of numbers that may be an image


@dataclass(frozen=True)
class Pair:
    """Two files that belong together, with what they hold: N images of any shape, and labels."""

    image_file: str
    label_file: str
    images: _Array
    labels: _Array


def join(arrays: Iterable[tuple[str, _Array]], source: Source, name: str) -> tuple[list[Pair], list[str]]:
    """Pair the files that hold `arrays` by their names, or as the only two; and a note about each that is there twice.

    Raises UsageError for a file without its partner, and for two of one name that differ.
    """
    found: dict[str, dict[str, tuple[str, _Array]]] = {}
    notes = []
    for file, array in arrays:
        first, same = found.setdefault(_pair_name(file), {}).setdefault(_role(file, array), (file, array))
        if first != file:
            if not np.array_equal(same, array):
                remedy = f"name the files to read in data.{name}.files."
                raise UsageError(f"data.{name}: {first} and {file} in {source.path} differ; {remedy}")
            notes.append(f"{file} repeats {first} and was left out.")
    sides = list(found.values())
    if len(sides) == 2 and sorted(role for side in sides for role in side) == ["images", "labels"]:
        sides = [sides[0] | sides[1]]  # such as glyphs.npy and classes.npy
    pairs = [_pair(side, source, name) for side in sides]
    return sorted(pairs, key=lambda pair: natural_key(pair.image_file)), notes


def _pair(side: dict[str, tuple[str, _Array]], source: Source, name: str) -> Pair:
    if len(side) < 2:
        ((role, (file, _)),) = side.items()
        missing = "images" if role == "labels" else "labels"
        problem = f"lacks the file with its {missing}; bring both, named alike but for that word"
        raise UsageError(f"data.{name}: {file} in {source.path} {problem}.")
    (image_file, images), (label_file, labels) = side["images"], side["labels"]
    problem = ""
    if not len(images):
        problem = "holds no images; bring one that does."
    elif len(images) != len(labels):
        problem = (
            f"holds {len(images):,} images and {label_file} {len(labels):,} labels; bring files that belong together."
        )
    if problem:
        raise UsageError(f"data.{name}: {image_file} in {source.path} {problem}")
    return Pair(image_file, label_file, images, labels)


def _pair_name(file: str) -> str:
    """What the names of an image file and of its label file have in common."""
    return "-".join(word for word in words_of(PurePosixPath(file).name) if word not in ROLES)


def _role(file: str, array: _Array) -> str:
    """What an array holds, images or labels, by its shape or else by the words of its file's name."""
    if array.ndim >= 3 or array.ndim <= 1:
        return "images" if array.ndim >= 3 else "labels"
    roles = {ROLES[word] for word in words_of(PurePosixPath(file).name) if word in ROLES}
    if len(roles) == 1:
        return roles.pop()
    return "images" if array.shape[1] >= _LEAST_PIXELS else "labels"


def notes(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """A note about each pair."""
    return tuple(f"Read {len(pair.images):,} images of {pair.image_file}." for pair in pairs)
