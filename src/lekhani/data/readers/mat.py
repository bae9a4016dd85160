"""MATLAB's files up to version 7, as EMNIST and many others are published; through SciPy, once the file is checked.

Its own classes and functions are never run. What a file claims (unpacked bytes, cells, structures) is held to bounds
before SciPy makes objects of it.
"""

import io
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lekhani.data import archives
from lekhani.data.archives import Source
from lekhani.data.names import reason, split_of_path
from lekhani.data.readers import ReadResult, mapping
from lekhani.data.readers.arrays import Part, as_images, as_labels, joined, named_pairs
from lekhani.errors import LekhaniError, UsageError

_MAX_CELLS = 100_000  # of one cell array or structure
_MAX_DEPTH = 20
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCTURE, _OBJECT = 1, 2, 3


def read(source: Source, files: Sequence[str], name: str) -> ReadResult:
    """Read and join `files`.

    Raises UsageError for a file of version 7.3, which is another format, and for one that is damaged, holds more than
    is allowed, or has no images with labels.
    """
    loaded = [(file, _load(source, file)) for file in files]
    parts = [part for file, content in loaded for part in _parts(source, file, content)]
    notes = tuple(f"Read {len(part.images):,} images of {part.members[0].rpartition('[')[0]}." for part in parts)
    result = joined(parts, source, name, notes)
    return replace(result, glyphs=_glyphs(loaded, result.words))


def _glyphs(loaded: Sequence[tuple[str, dict[str, Any]]], words: Sequence[str]) -> list[str] | None:
    """What each label stands for by EMNIST's `mapping`, which has a row of label and character codes for each."""
    codes: dict[str, int] = {}
    for _, content in loaded:
        for _, table in _tables(content):
            rows = np.asarray(table.get("mapping"))
            if rows.ndim == 2 and rows.shape[1] >= 2 and rows.dtype.kind in "iu":
                codes |= {str(row[0]): row[1] for row in rows.tolist()}
    return mapping.glyphs(words, codes)


def _parts(source: Source, file: str, content: dict[str, Any]) -> Iterator[Part]:
    path, found = source.path / file, False
    for where, table in _tables(content):
        for images, labels, split in named_pairs(table):
            found = True
            yield _part(path, file, f"{where}{images}", table[images], table[labels], split or split_of_path(where))
    if not found:
        raise UsageError(f"{path} holds no images with labels; save `images` [N,H,W] and `labels` [N] in it.")


def _part(path: Path, file: str, where: str, images: Any, labels: Any, split: str) -> Part:
    words = as_labels(np.asarray(labels), f"{path}: the labels of `{where}`")
    pixels = as_images(np.asarray(images), f"{path}: `{where}`", len(words))
    if len(pixels) != len(words):
        problem = f"holds {len(pixels):,} images and {len(words):,} labels; save one label per image."
        raise UsageError(f"{path}: `{where}` {problem}")
    members = [f"{file}/{where}[{i}]" for i in range(len(pixels))]
    return Part(file, pixels, words, members, [split or split_of_path(file)] * len(pixels))


def _tables(value: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every structure in a file, by its path, such as `dataset.train.`."""
    if isinstance(value, dict):
        yield where, value
        for key, inside in value.items():
            yield from _tables(inside, f"{where}{key}.")


def _load(source: Source, file: str) -> dict[str, Any]:
    from scipy.io import loadmat

    path, content = source.path / file, source.read(file)
    if content[:10] == b"MATLAB 7.3" or content[:4] == b"\x89HDF":
        remedy = "save it again with save(..., '-v7'), or as .npz with `images` and `labels`."
        raise UsageError(f"{path} is of MATLAB's version 7.3, which is not read; {remedy}")
    try:
        _check(path, content, source.packed_size or len(content))
        return dict(loadmat(io.BytesIO(content), simplify_cells=True))
    except LekhaniError:
        raise
    except Exception as error:  # SciPy answers garbled bytes with many kinds of error
        remedy = "save it again with save(..., '-v7')."
        raise UsageError(f"{path} cannot be read ({reason(error)}); {remedy}") from None


# --- what a file claims ---


def _check(path: Path, content: bytes, packed_size: int) -> None:
    """Walk through all elements; raises UsageError or ValueError where one claims more than is allowed."""
    if len(content) < _HEADER:
        raise ValueError("it ends too early")
    order = "<" if content[126:128] == b"IM" else ">"
    total = 0
    for kind, body in _elements(content, _HEADER, len(content), order, padded=False):
        unpacked = body
        if kind == _COMPRESSED:
            limit = archives.max_unpacked(packed_size) - total
            unpacked = memoryview(zlib.decompressobj().decompress(body, limit + 1))
        total += len(unpacked)
        archives.check_size(path, total, packed_size)
        for inner, matrix in _elements(unpacked, 0, len(unpacked), order) if kind == _COMPRESSED else ((kind, body),):
            if inner == _MATRIX:
                _check_matrix(matrix, order, 0)


def _elements(
    content: "bytes | memoryview", start: int, end: int, order: str, padded: bool = True
) -> Iterator[tuple[int, memoryview]]:
    """The type and the body of each element."""
    view = memoryview(content)
    while start + 8 <= end:
        kind, size = struct.unpack_from(f"{order}II", view, start)
        if kind >> 16:  # a small one, within its tag
            yield kind & 0xFFFF, view[start + 4 : start + 4 + min(kind >> 16, 4)]
            start += 8
            continue
        if start + 8 + size > end:
            raise ValueError("an element is longer than what holds it")
        yield kind, view[start + 8 : start + 8 + size]
        start += 8 + size + (-size % 8 if padded else 0)


def _check_matrix(body: memoryview, order: str, depth: int) -> None:
    """Hold the number of cells in one matrix, and in those within it, to _MAX_CELLS."""
    if depth > _MAX_DEPTH:
        raise ValueError("its structures nest too deeply")
    elements = list(_elements(body, 0, len(body), order)) if len(body) else []
    if len(elements) < 2:
        return
    flags, shape = elements[0][1], elements[1][1]
    kind = struct.unpack_from(f"{order}I", flags)[0] & 0xFF
    if kind not in {_CELL, _STRUCTURE, _OBJECT}:
        return
    count = math.prod(struct.unpack(f"{order}{len(shape) // 4}i", shape[: len(shape) // 4 * 4]))
    if not 0 <= count <= _MAX_CELLS or len(elements) > _MAX_CELLS:
        raise ValueError(f"a structure claims {count:,} cells")
    for inner, inside in elements[2:]:
        if inner == _MATRIX:
            _check_matrix(inside, order, depth + 1)
