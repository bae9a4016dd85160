"""NumPy's arrays: .npz with `images` and `labels`, Keras' `x_train`, `y_train` and their like, and pairs of files.

A pair is two .npy files, or two .npz files of one array each (`arr_0`): one of images, one of labels.
"""

import io
import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lekhani.data import archives, kinds
from lekhani.data.archives import Source
from lekhani.data.names import reason, split_of_path
from lekhani.data.readers import ReadResult, pairs
from lekhani.data.readers.arrays import Part, as_images, as_labels, joined, named_pairs, part_of_pair
from lekhani.errors import LekhaniError, UsageError

_TEXTS = ("class_names", "glyphs", "filenames", "splits")


def read(source: Source, files: Sequence[str], name: str) -> ReadResult:
    """Read and join `files`.

    Raises UsageError for a file that cannot be read without pickle or lacks an array, and for files that do not agree.
    """
    parts, singles = [], []
    for file in files:
        array = _single(source, file) if kinds.by_name(file) == "npz" else _alone(source, file)
        if array is None:
            parts += list(_parts(source, file))
        else:
            singles.append((file, array))
    paired, notes = pairs.join(singles, source, name)
    counts = {file: sum(len(part.images) for part in parts if part.file == file) for file in files}
    notes += [f"Read {count:,} images of {file}." for file, count in counts.items() if count]
    parts += [part_of_pair(pair, source.path, split_of_path(pair.image_file)) for pair in paired]
    return joined(parts, source, name, (*notes, *pairs.notes(paired)))


def _single(source: Source, file: str) -> Any:
    """The array of an .npz that holds no other; None where it holds several or none."""
    with _opened(source, file) as archive:
        inside = archive.namelist()
        return _load(archive, inside[0].removesuffix(".npy")) if len(inside) == 1 else None


def _alone(source: Source, file: str) -> Any:
    """The array of an .npy."""
    with source.stream(file) as stream:
        content = stream.read()
    with _sentences(source.path / file):
        _check_claim(io.BytesIO(content), "it", len(content))
        return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    try:
        yield
    except LekhaniError:
        raise
    except Exception as error:  # NumPy and zipfile answer garbled bytes with many kinds of error
        remedy = "save it again with numpy.savez, without objects."
        raise UsageError(f"{path} cannot be read ({reason(error)}); {remedy}") from None


@contextmanager
def _opened(source: Source, file: str) -> Iterator[zipfile.ZipFile]:
    """An .npz as the zip that it is; what goes wrong while it is used is a sentence."""
    path, content = source.path / file, source.read(file)
    with _sentences(path), zipfile.ZipFile(io.BytesIO(content)) as archive:
        archives.check_size(path, sum(info.file_size for info in archive.infolist()), len(content))
        yield archive


def _parts(source: Source, file: str) -> Iterator[Part]:
    """Every set of images in one .npz."""
    path = source.path / file
    with _opened(source, file) as archive:
        inside = {info.filename.removesuffix(".npy") for info in archive.infolist()}
        names = named_pairs(inside)
        arrays = {key: _load(archive, key) for images, labels, _ in names for key in (images, labels)}
        texts = {key: _load(archive, key) for key in _TEXTS if key in inside}
    if not names:
        missing = "labels" if "images" in inside else "images"
        others = sorted(inside - {"images", "labels", *_TEXTS})
        found = f" (found: {', '.join(others)[:200]})" if others else ""
        remedy = "save `images` uint8 [N,H,W] and `labels` [N] under these names."
        raise UsageError(f"{path} holds no `{missing}`{found}; {remedy}")
    if names[0][2]:  # x_train and x_test stand together; texts per image would not tell whose they are
        texts = {key: value for key, value in texts.items() if key in {"class_names", "glyphs"}}
    for a, b, split in names:
        yield _part(path, file, (a, b, split), arrays[a], arrays[b], texts)


def _load(archive: zipfile.ZipFile, key: str) -> Any:
    """One array; its header must not claim more than the member holds."""
    member = f"{key}.npy" if f"{key}.npy" in archive.namelist() else key
    with archive.open(member) as stream:
        _check_claim(stream, f"`{key}`", archive.getinfo(member).file_size)
    with archive.open(member) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _check_claim(stream: Any, what: str, size: int) -> None:
    is_first = np.lib.format.read_magic(stream) == (1, 0)
    read_header = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"{what} claims an impossible size")


def _part(path: Path, file: str, names: tuple[str, str, str], images: Any, labels: Any, texts: dict[str, Any]) -> Part:
    """The arrays called `names`, of which the last is the split, in the shapes that we work with."""
    images, labels = as_images(images, f"{path}: `{names[0]}`"), as_labels(labels, f"{path}: `{names[1]}`")
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
    return Part(file, images, labels, members, splits, listed)
