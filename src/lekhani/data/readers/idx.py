"""MNIST's own files: images and labels in IDX format, plain or with .gz."""

import math
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from lekhani.data import archives
from lekhani.data.archives import Source
from lekhani.data.names import natural_key, split_of_path
from lekhani.data.readers import ReadResult
from lekhani.data.spec import Bytes, Labels
from lekhani.errors import UsageError

# The byte that says what the numbers are; they are stored with the highest byte first.
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4"}

_Arrays = dict[tuple[str, int], tuple[str, Bytes | Labels]]  # file and array by the pair they belong to and dimensions


def read(source: Source, files: Sequence[str], name: str) -> ReadResult:
    """Read every pair of image and label files among `files`.

    Raises UsageError for a file that is damaged, ends early, has no partner, or does not agree with it.
    """
    arrays, notes = _arrays(source, files, name)
    images, labels, members, splits = [], [], [], []
    file_of = {pair: arrays[pair, dimensions][0] for pair, dimensions in sorted(arrays)}  # that of the images, if any
    for pair in sorted(file_of, key=lambda pair: natural_key(file_of[pair])):
        file, pixels, numbers = _pair(arrays, pair, source, name)
        if "emnist" in file.lower():
            pixels = np.ascontiguousarray(pixels.transpose(0, 2, 1))
            notes.append(f"The images of {file} were turned, since EMNIST stores them with rows and columns exchanged.")
        images.append(pixels)
        labels.append(numbers)
        members += [f"{file}[{i}]" for i in range(len(pixels))]
        splits += [split_of_path(file)] * len(pixels)
        notes.append(f"Read {len(pixels):,} images of {file}.")
    values, which = np.unique(np.concatenate(labels), return_inverse=True)
    words, which = [str(value) for value in values.tolist()], which.astype(np.int64)
    same = len({pixels.shape[1:] for pixels in images}) == 1
    joined = np.concatenate(images) if same else [image for pixels in images for image in pixels]
    return ReadResult(joined, words, which, members, splits, tuple(notes), numbered=True)


def _arrays(source: Source, files: Sequence[str], name: str) -> tuple[_Arrays, list[str]]:
    """The arrays in `files`, and a note about each that is there twice."""
    arrays: _Arrays = {}
    notes = []
    for file in files:
        array = _array(source, file)
        first, same = arrays.setdefault((_pair_name(file), array.ndim), (file, array))
        if first != file:
            if not np.array_equal(same, array):
                remedy = f"name the files to read in data.{name}.files."
                raise UsageError(f"data.{name}: {first} and {file} in {source.path} differ; {remedy}")
            notes.append(f"{file} repeats {first} and was left out.")
    return arrays, notes


def _pair_name(file: str) -> str:
    """What the names of an image file and of its label file have in common."""
    words = re.split(r"[-._]+", PurePosixPath(file).name.lower())
    return "-".join(w for w in words if not re.fullmatch(r"images?|imgs?|labels?|idx\d?|idx\dubyte|ubyte|gz", w))


def _pair(arrays: _Arrays, pair: str, source: Source, name: str) -> tuple[str, Bytes, Labels]:
    """The image file, the images uint8 [N,H,W] and the labels int64 [N] of a pair."""
    images, labels = arrays.get((pair, 3)), arrays.get((pair, 1))
    file, pixels = images or labels or ("", np.zeros(0, np.uint8))
    problem = ""
    if images is None or labels is None:
        missing = "labels" if labels is None else "images"
        problem = f"lacks the file with its {missing}; bring both, named alike but for that word."
    elif pixels.dtype != np.uint8:
        problem = f"holds {pixels.dtype} numbers; save pixels as unsigned bytes."
    elif not len(pixels):
        problem = "holds no images; bring one that does."
    elif len(pixels) != len(labels[1]):
        counts = f"{len(pixels):,} images and {labels[0]} {len(labels[1]):,} labels"
        problem = f"holds {counts}; bring files that belong together."
    if problem or labels is None:
        raise UsageError(f"data.{name}: {file} in {source.path} {problem}")
    return file, pixels.astype(np.uint8, copy=False), labels[1].astype(np.int64)


def _array(source: Source, file: str) -> Bytes | Labels:
    path = source.path / file
    with source.stream(file) as stream:
        head = stream.read(4)
        kind = _TYPES.get(head[2]) if len(head) == 4 and head[:2] == b"\0\0" else None
        if kind is None or head[3] not in {1, 3}:
            problem = "does not start as an IDX file of images or labels; download it again or leave it out."
            raise UsageError(f"{path} {problem}")
        sizes = stream.read(4 * head[3])
        shape = tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4))
        dimensions, wanted = " x ".join(map(str, shape)), math.prod(shape) * np.dtype(kind).itemsize
        if len(sizes) < 4 * head[3] or wanted > archives.MAX_UNPACKED or (len(shape) == 3 and 0 in shape[1:]):
            raise UsageError(f"{path} claims an impossible size, {dimensions}; download it again.")
        # What a header claims is not taken from memory before it is there.
        content = bytearray()
        while len(content) <= wanted and (block := stream.read(min(16 << 20, wanted + 1 - len(content)))):
            content += block
    if len(content) != wanted:
        problem = "ends too early" if len(content) < wanted else "is longer than its header says"
        raise UsageError(f"{path} {problem}, at {dimensions}; download it again.")
    return np.frombuffer(content, kind).reshape(shape)
