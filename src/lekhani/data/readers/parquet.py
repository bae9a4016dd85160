"""Hugging Face's Parquet files: a column of images as bytes and path, and one of labels, with names in the schema."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lekhani.data import archives, images
from lekhani.data.archives import Source
from lekhani.data.names import natural_key, reason, split_of_path
from lekhani.data.readers import ReadResult
from lekhani.errors import LekhaniError, UsageError

_MAX_ROWS = 2_000_000  # of all files
_MAX_FILE = 2 << 30  # bytes of one file
_MAX_BATCH = 512 << 20  # bytes that a batch may take where every row repeats all of a column's values
_MAX_BATCH_ROWS = 16  # for what a file says of its size may be a lie
_LABELS = ("label", "labels", "class", "character", "char", "letter", "digit", "glyph", "target", "text", "fine_label")


@dataclass(frozen=True)
class _File:
    """One file, opened: `label` and `image` are columns, `classes` the names of labels by their numbers."""

    name: str
    path: Path
    table: Any
    image: str
    label: str
    classes: list[str] | None


def read(source: Source, files: Sequence[str], name: str, label_column: str | None) -> ReadResult:
    """Read and join `files`.

    Raises UsageError for a file that is damaged, larger than allowed once unpacked, or without images or labels, and
    for files that do not agree on the names of classes.
    """
    words: list[str] = []
    members: list[str] = []
    splits: list[str] = []
    notes: list[str] = []
    classes: list[str] | None = None
    rows = 0

    def contents() -> Iterator[tuple[str, bytes]]:
        nonlocal classes, rows
        for number, file in enumerate(files):
            one = _open(source, file, name, label_column)
            rows += one.table.metadata.num_rows
            if rows > _MAX_ROWS:
                raise UsageError(f"{one.path} brings the rows to more than {_MAX_ROWS:,}; leave out some files.")
            if number and one.classes != classes:
                raise UsageError(f"data.{name}: {files[0]} and {file} do not agree on the names of classes.")
            classes, count = one.classes, len(words)
            for member, label, content in _rows(one, name):
                words.append(label)
                members.append(member)
                splits.append(split_of_path(file))
                yield member, content
            notes.append(f"Read {len(words) - count:,} images of {file}.")

    many = sum(source.sizes[file] for file in files) > images.PARALLEL_FROM_BYTES
    pixels = images.decode_contents(str(source.path), contents(), many)
    if not members:
        raise UsageError(f"data.{name}: {source.path / files[0]} holds no rows; give one image per row.")
    found = classes or sorted(set(words), key=natural_key)
    number_of = {word: i for i, word in enumerate(found)}
    labels = np.array([number_of[word] for word in words], np.int64)
    numbered = classes is None and all(word.isdecimal() for word in found)
    return ReadResult(pixels, found, labels, members, splits, tuple(notes), numbered=numbered)


def _open(source: Source, file: str, name: str, label_column: str | None) -> _File:
    path = source.path / file
    content = source.read(file, _MAX_FILE)
    try:
        table = pq.ParquetFile(pa.BufferReader(content))
        unpacked = sum(table.metadata.row_group(i).total_byte_size for i in range(table.metadata.num_row_groups))
        schema = table.schema_arrow
    except Exception as error:  # pyarrow answers garbled bytes with several kinds of error
        raise _unreadable(path, error) from None
    archives.check_size(path, unpacked, source.packed_size or len(content))
    image = _image_column(schema, path)
    features = _features(schema)
    label = _label_column(schema, image, features, path, name, label_column)
    classes = features.get(label, {}).get("names") if isinstance(features.get(label), dict) else None
    if classes is not None and not (isinstance(classes, list) and all(isinstance(one, str) for one in classes)):
        raise UsageError(f"{path}: the names of classes in its schema are no list of text; save it again.")
    return _File(file, path, table, image, label, classes)


def _unreadable(path: Path, error: BaseException) -> LekhaniError:
    return UsageError(f"{path} cannot be read ({reason(error)}); download or save it again.")


def _features(schema: Any) -> dict[str, Any]:
    """What Hugging Face's `datasets` wrote about the columns, by their names; nothing where it wrote nothing."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return dict(features)
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}


def _image_column(schema: Any, path: Path) -> str:
    found = [field.name for field in schema if _holds_bytes(field.type)]
    if len(found) > 1:
        found = [column for column in found if column.lower() in {"image", "img", "picture"}] or found
    if len(found) == 1:
        return str(found[0])
    there = ", ".join(f"`{field.name}` ({field.type})" for field in schema)[:300]
    problem = "more than one column" if found else "no column"
    raise UsageError(
        f"{path} has {problem} of images as bytes (there are: {there}); leave one, as in `image`, `label`."
    )


def _holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _label_column(schema: Any, image: str, features: dict[str, Any], path: Path, name: str, wanted: str | None) -> str:
    others = [
        field.name
        for field in schema
        if field.name != image and (pa.types.is_integer(field.type) or pa.types.is_string(field.type))
    ]
    if wanted is not None:
        found = [column for column in others if column == wanted]
    else:
        classes = [c for c in others if isinstance(features.get(c), dict) and "names" in features[c]]
        found = classes or [column for column in others if column.lower() in _LABELS] or others
    if len(found) == 1:
        return str(found[0])
    there = ", ".join(f"`{column}`" for column in (found or others)[:10]) or "none of numbers or text"
    raise UsageError(
        f"data.{name}: nothing tells which column of {path} holds the labels ({there}); set data.{name}.label_column."
    )


def _rows(file: _File, name: str) -> Iterator[tuple[str, str, bytes]]:
    """Member, label and image of each row; raises UsageError for one that lacks either."""
    groups = (file.table.metadata.row_group(i).total_byte_size for i in range(file.table.metadata.num_row_groups))
    size = max(1, min(_MAX_BATCH_ROWS, _MAX_BATCH // max(1, *groups, 1)))
    row = 0
    try:
        for batch in file.table.iter_batches(size, columns=[file.image, file.label]):
            column = batch.column(file.image)
            contents = column.field("bytes") if pa.types.is_struct(column.type) else column
            pairs = zip(contents.to_pylist(), batch.column(file.label).to_pylist(), strict=True)
            for content, label in pairs:
                if content is None or label is None:
                    problem = f"has no {'image' if content is None else 'label'}; leave it out or fill it in"
                    raise UsageError(f"data.{name}: row {row} of {file.path} {problem}.")
                yield f"{file.name}[{row}]", _word(file, label, row), content
                row += 1
    except LekhaniError:
        raise
    except Exception as error:
        raise _unreadable(file.path, error) from None


def _word(file: _File, label: Any, row: int) -> str:
    if file.classes is None or isinstance(label, str):
        return str(label)
    if not 0 <= label < len(file.classes):
        problem = f"has the label {label} in row {row}, outside 0..{len(file.classes) - 1}"
        raise UsageError(f"{file.path} {problem}; choose a file with labels, or correct them.")
    return str(file.classes[label])
