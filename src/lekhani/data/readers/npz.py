"""NumPy's .npz archives: `images` and `labels` as Lekhani's own, or Keras' `x_train`, `y_train` and their like."""

import io
import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lekhani.data import archives
from lekhani.data.archives import Source
from lekhani.data.names import natural_key, reason, split_of_path
from lekhani.data.readers import ReadResult
from lekhani.data.spec import Bytes
from lekhani.errors import LekhaniError, UsageError

_TEXTS = ("class_names", "glyphs", "filenames", "splits")
_PAIRS = [("images", "labels", ""), ("x", "y", ""), ("X", "y", ""), ("data", "labels", "")] + [
    (images.format(part), labels.format(part), split)
    for part, split in (("train", "train"), ("val", "val"), ("valid", "val"), ("test", "test"))
    for images, labels in (
        ("x_{}", "y_{}"),
        ("X_{}", "y_{}"),
        ("{}_images", "{}_labels"),
        ("{}_x", "{}_y"),
        ("images_{}", "labels_{}"),
    )
]


@dataclass(frozen=True)
class _Part:
    """A set of N images in one file: uint8 [N,H,W], with labels [N] (int64 or text), a member and a split per image."""

    file: str
    images: Bytes
    labels: Any
    texts: dict[str, list[str]]  # class_names and glyphs, where there are any
    members: list[str]
    splits: list[str]


def read(source: Source, files: Sequence[str], name: str) -> ReadResult:
    """Read and join `files`.

    Raises UsageError for a file that cannot be read without pickle or lacks an array, and for files that do not agree.
    """
    parts = [part for file in files for part in _parts(source, file)]
    first = parts[0]
    for part in parts:
        for key in ("class_names", "glyphs"):
            if part.texts.get(key) != first.texts.get(key):
                problem = f"do not agree on `{key}`; give both the same, in the same order."
                raise UsageError(f"data.{name}: {first.file} and {part.file} {problem}")
    same = len({part.images.shape[1:] for part in parts}) == 1
    images = np.concatenate([p.images for p in parts]) if same else [image for p in parts for image in p.images]
    if not len(images):
        raise UsageError(f"data.{name}: {first.file} holds no images; give an .npz with at least one.")
    labels = np.concatenate([part.labels for part in parts])
    members, splits = ([one for part in parts for one in getattr(part, key)] for key in ("members", "splits"))
    counts = {file: sum(len(part.images) for part in parts if part.file == file) for file in files}
    notes = tuple(f"Read {count:,} images of {file}." for file, count in counts.items())
    if "class_names" in first.texts:
        words, glyphs = _classes(first, labels, source, name)
        return ReadResult(images, words, labels.astype(np.int64), members, splits, notes, glyphs=glyphs)
    words = sorted(set(map(str, labels.tolist())), key=natural_key)
    number = {word: i for i, word in enumerate(words)}
    which = np.array([number[str(label)] for label in labels.tolist()], np.int64)
    return ReadResult(images, words, which, members, splits, notes, numbered=labels.dtype.kind in "iu")


def _classes(part: _Part, labels: Any, source: Source, name: str) -> tuple[list[str], list[str]]:
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


def _parts(source: Source, file: str) -> Iterator[_Part]:
    """Every set of images in one .npz."""
    path, content = source.path / file, source.read(file)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archives.check_size(path, sum(info.file_size for info in archive.infolist()), len(content))
            inside = {info.filename.removesuffix(".npy") for info in archive.infolist()}
            pairs = [pair for pair in _PAIRS if pair[0] in inside and pair[1] in inside]
            pairs = pairs[:1] if pairs and not pairs[0][2] else pairs
            arrays = {key: _load(archive, key) for images, labels, _ in pairs for key in (images, labels)}
            texts = {key: _load(archive, key) for key in _TEXTS if key in inside}
    except LekhaniError:
        raise
    except Exception as error:
        remedy = "save it again with numpy.savez, without objects."
        raise UsageError(f"{path} cannot be read ({reason(error)}); {remedy}") from None
    if not pairs:
        missing = "labels" if "images" in inside else "images"
        others = sorted(inside - {"images", "labels", *_TEXTS})
        found = f" (found: {', '.join(others)[:200]})" if others else ""
        remedy = "save `images` uint8 [N,H,W] and `labels` [N] under these names."
        raise UsageError(f"{path} holds no `{missing}`{found}; {remedy}")
    if pairs[0][2]:  # x_train and x_test stand together; texts per image would not tell whose they are
        texts = {key: value for key, value in texts.items() if key in {"class_names", "glyphs"}}
    for a, b, split in pairs:
        yield _part(path, file, (a, b, split), arrays[a], arrays[b], texts)


def _load(archive: zipfile.ZipFile, key: str) -> Any:
    """One array; its header must not claim more than the member holds."""
    member = f"{key}.npy" if f"{key}.npy" in archive.namelist() else key
    with archive.open(member) as stream:
        is_first = np.lib.format.read_magic(stream) == (1, 0)
        read_header = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(stream)
    if math.prod(shape) * dtype.itemsize > archive.getinfo(member).file_size:
        raise ValueError(f"`{key}` claims an impossible size")
    with archive.open(member) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _part(path: Path, file: str, names: tuple[str, str, str], images: Any, labels: Any, texts: dict[str, Any]) -> _Part:
    """The arrays called `names`, of which the last is the split, in the shapes that we work with."""
    shape = list(images.shape)
    if images.ndim == 4 and 1 in {shape[1], shape[3]}:
        images = images[:, 0] if shape[1] == 1 else images[..., 0]
    elif images.ndim == 2 and math.isqrt(shape[1]) ** 2 == shape[1]:
        images = images.reshape(-1, *[math.isqrt(shape[1])] * 2)
    if images.ndim != 3 or images.dtype != np.uint8 or 0 in images.shape[1:]:
        raise UsageError(f"{path}: `{names[0]}` is {images.dtype} {shape}; save grey images as uint8 [N,H,W].")
    if labels.dtype.kind not in "iuU":
        raise UsageError(f"{path}: `{names[1]}` is {labels.dtype}; save whole numbers.")
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    per_image: dict[str, Any] = {names[1]: labels}
    per_image |= {key: texts[key] for key in ("filenames", "splits") if key in texts}
    for key, array in per_image.items():
        if array.shape != (len(images),):
            problem = f"has the shape {list(array.shape)} beside {len(images):,} images; save one entry per image."
            raise UsageError(f"{path}: `{key}` {problem}")
    for key, array in texts.items():
        if array.dtype.kind != "U" or array.ndim != 1:
            raise UsageError(f"{path}: `{key}` is {array.dtype} {list(array.shape)}; save a list of text.")
    listed = {key: array.tolist() for key, array in texts.items()}
    prefix = f"{file}/{names[0]}" if names[2] else file
    members = listed.get("filenames") or [f"{prefix}[{i}]" for i in range(len(images))]
    splits = listed.get("splits", [names[2] or split_of_path(file)] * len(images))
    if "splits" in listed and (wrong := set(splits) - {"train", "test", ""}):
        raise UsageError(f"{path}: `splits` holds {min(wrong)!r}; use train and test only.")
    labels = labels if labels.dtype.kind == "U" else labels.astype(np.int64)
    return _Part(file, images, labels, listed, members, splits)
