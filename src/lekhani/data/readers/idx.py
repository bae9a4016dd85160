"""MNIST's own files: images and labels in IDX format, plain or packed by gzip."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lekhani.data import archives
from lekhani.data.archives import Source
from lekhani.data.names import split_of_path
from lekhani.data.readers import ReadResult, pairs
from lekhani.data.readers.arrays import joined, part_of_pair
from lekhani.errors import UsageError

# The byte that says what the numbers are; they are stored with the highest byte first.
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read(source: Source, files: Sequence[str], name: str) -> ReadResult:
    """Read every pair of image and label files among `files`.

    Raises UsageError for a file that is damaged, ends early, has no partner, or does not agree with it.
    """
    found, notes = pairs.join(((file, _array(source, file)) for file in files), source, name)
    parts = [part_of_pair(pair, source.path, split_of_path(pair.image_file)) for pair in found]
    return joined(parts, source, name, (*notes, *pairs.notes(found)))


def _array(source: Source, file: str) -> npt.NDArray[Any]:
    path = source.path / file
    with source.stream(file) as stream:
        head = stream.read(4)
        kind = _TYPES.get(head[2]) if len(head) == 4 and head[:2] == b"\0\0" else None
        if kind is None or not 1 <= head[3] <= 4:
            problem = "does not start as an IDX file of images or labels; download it again or leave it out."
            raise UsageError(f"{path} {problem}")
        sizes = stream.read(4 * head[3])
        shape = tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4))
        dimensions, wanted = " x ".join(map(str, shape)), math.prod(shape) * np.dtype(kind).itemsize
        if len(sizes) < 4 * head[3] or wanted > archives.MAX_UNPACKED or 0 in shape[1:]:
            raise UsageError(f"{path} claims an impossible size, {dimensions}; download it again.")
        # What a header claims is not taken from memory before it is there.
        content = bytearray()
        while len(content) <= wanted and (block := stream.read(min(16 << 20, wanted + 1 - len(content)))):
            content += block
    if len(content) != wanted:
        problem = "ends too early" if len(content) < wanted else "is longer than its header says"
        raise UsageError(f"{path} {problem}, at {dimensions}; download it again.")
    return np.frombuffer(content, kind).reshape(shape).astype(np.dtype(kind).newbyteorder("="), copy=False)
