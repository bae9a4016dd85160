"""Arrays of images and labels in the shapes that people save them in, to the one shape that we work with."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lekhani.data.archives import Source
from lekhani.data.names import natural_key
from lekhani.data.raw import Values
from lekhani.data.readers import ReadResult
from lekhani.data.readers.pairs import Pair
from lekhani.errors import UsageError

_Array = npt.NDArray[Any]
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow makes colours grey
_MOST_CLASSES = 1000  # of labels that are saved as one column per class
# Names of images and labels that belong together, and the split that they say.
NAMES = [("images", "labels", ""), ("x", "y", ""), ("X", "y", ""), ("X", "Y", ""), ("data", "labels", "")] + [
    (images.format(part), labels.format(part), split)
    for part, split in (("train", "train"), ("val", "val"), ("valid", "val"), ("test", "test"))
    for images, labels in (
        ("x_{}", "y_{}"),
        ("X_{}", "y_{}"),
        ("X_{}", "Y_{}"),
        ("{}_images", "{}_labels"),
        ("{}_x", "{}_y"),
        ("images_{}", "labels_{}"),
    )
]


@dataclass(frozen=True)
class Part:
    """A set of N images [N,H,W] in one file, with labels [N] (int64 or text), a member and a split per image."""

    file: str
    images: _Array
    labels: _Array
    members: Sequence[str]
    splits: Sequence[str]
    texts: dict[str, list[str]] = field(default_factory=dict)  # class_names and glyphs, where there are any


def named_pairs(inside: Iterable[str]) -> list[tuple[str, str, str]]:
    """Names of images and of their labels, and the split: the first without one, or else all."""
    names = set(inside)
    pairs = [pair for pair in NAMES if pair[0] in names and pair[1] in names]
    return pairs[:1] if pairs and not pairs[0][2] else pairs


def as_images(images: _Array, what: str, count: int | None = None) -> _Array:
    """Grey images [N,H,W] of real numbers; raises UsageError, naming `what`, for any other shape.

    A last axis of `count` entries, where the first has another number, is MATLAB's axis of images.
    """
    shape = list(images.shape)
    if count and images.ndim in {3, 4} and shape[-1] == count != shape[0]:
        images = np.moveaxis(images, -1, 0)
    if images.ndim == 4 and 1 in {images.shape[1], images.shape[3]}:
        images = images[:, 0] if images.shape[1] == 1 else images[..., 0]
    elif images.ndim == 4 and images.shape[3] == 3 and images.dtype.kind in "uif":
        grey = images @ _LUMA
        images = np.rint(grey).astype(images.dtype) if images.dtype.kind in "ui" else grey
    elif images.ndim == 2 and math.isqrt(images.shape[1]) ** 2 == images.shape[1]:
        images = images.reshape(-1, *[math.isqrt(images.shape[1])] * 2)
    if images.ndim != 3 or images.dtype.kind not in "uifb" or 0 in images.shape[1:]:
        raise UsageError(f"{what} is {images.dtype} {shape}; save grey images as uint8 [N,H,W].")
    return images.astype(np.uint8) if images.dtype.kind == "b" else images


def as_labels(labels: _Array, what: str) -> _Array:
    """Labels [N] as int64 or text; raises UsageError, naming `what`, for anything else.

    Whole numbers saved as fractions, one column, and one column per class (one-hot) are taken too.
    """
    shape = list(labels.shape)
    if labels.ndim == 2 and 1 in shape:
        labels = labels.reshape(-1)
    elif labels.ndim == 2 and labels.dtype.kind in "uifb" and shape[1] <= _MOST_CLASSES:
        if not ((labels == 0) | (labels == 1)).all() or not (labels.sum(axis=1) == 1).all():
            raise UsageError(f"{what} is {labels.dtype} {shape}; save one whole number per image.")
        labels = labels.argmax(axis=1)
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.rint(labels)).all():
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iuU":
        raise UsageError(f"{what} is {labels.dtype}; save whole numbers.")
    return labels if labels.dtype.kind == "U" else labels.astype(np.int64)


def part_of_pair(pair: Pair, path: Path, split: str) -> Part:
    """The images and labels of two files in one folder or archive, `path`."""
    labels = as_labels(pair.labels, str(path / pair.label_file))
    images = as_images(pair.images, str(path / pair.image_file), len(labels))
    members = [f"{pair.image_file}[{i}]" for i in range(len(images))]
    return Part(pair.image_file, images, labels, members, [split] * len(images))


def joined(parts: Sequence[Part], source: Source, name: str, notes: tuple[str, ...]) -> ReadResult:
    """All parts in one, with the classes that they name or else one per label.

    Raises UsageError for parts that do not agree on the names of classes, and for no images at all.
    """
    first = parts[0]
    for part in parts:
        for key in ("class_names", "glyphs"):
            if part.texts.get(key) != first.texts.get(key):
                problem = f"do not agree on `{key}`; give both the same, in the same order."
                raise UsageError(f"data.{name}: {first.file} and {part.file} {problem}")
    same = len({part.images.shape[1:] for part in parts}) == 1
    images: Values
    images = np.concatenate([p.images for p in parts]) if same else [image for p in parts for image in p.images]
    if not len(images):
        raise UsageError(f"data.{name}: {first.file} holds no images; give a file with at least one.")
    labels = np.concatenate([part.labels for part in parts])
    members, splits = ([one for part in parts for one in getattr(part, key)] for key in ("members", "splits"))
    if "class_names" in first.texts:
        words, glyphs = _classes(first, labels, source, name)
        return ReadResult(images, words, labels.astype(np.int64), members, splits, notes, glyphs=glyphs)
    words = sorted(set(map(str, labels.tolist())), key=natural_key)
    number = {word: i for i, word in enumerate(words)}
    which = np.array([number[str(label)] for label in labels.tolist()], np.int64)
    return ReadResult(images, words, which, members, splits, notes, numbered=labels.dtype.kind in "iu")


def _classes(part: Part, labels: Any, source: Source, name: str) -> tuple[list[str], list[str]]:
    """The names and glyphs of the classes, of which every label must be one."""
    words = part.texts["class_names"]
    glyphs = part.texts.get("glyphs", words)
    if len(glyphs) != len(words) or len(set(words)) != len(words):
        problem = "repeat one another or are not as many as `glyphs`; save one of each per class."
        raise UsageError(f"data.{name}: `class_names` in {source.path} {problem}")
    wrong = labels[(labels < 0) | (labels >= len(words))] if labels.dtype.kind in "iu" else labels
    if len(wrong):
        outside = f"outside 0..{len(words) - 1}: {len(wrong):,}, such as {wrong[0]}; correct them."
        raise UsageError(f"data.{name}: labels in {source.path} {outside}")
    return words, glyphs
