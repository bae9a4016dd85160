"""CSV files with one image per row: a column per pixel and one for the label, with or without a header."""

import csv
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv

from lekhani.data.archives import Source
from lekhani.data.names import natural, reason, split_in
from lekhani.data.readers import Found
from lekhani.data.spec import Bytes, Labels
from lekhani.errors import LekhaniError, UsageError

_LINE = 1 << 20  # bytes of one line: 256 x 256 pixels of up to 16 letters
_MOST_COLUMNS = 256 * 256 + 16
_FEWEST = 16  # pixels of an image; a table with fewer such columns holds something else
_BLOCK = 4 << 20
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")
_PIXEL = re.compile(r"(.*?)(\d{1,6})(?:x(\d{1,6}))?")
_LABELS = (
    "label",
    "labels",
    "class",
    "classes",
    "class_name",
    "character",
    "char",
    "target",
    "glyph",
    "letter",
    "digit",
    "name",
    "y",
    "category",
)
_INDEX = re.compile(r"(unnamed: ?\d+|id|index|idx|no|row|number|#|)")


@dataclass(frozen=True)
class Table:
    """A CSV of pixels: its columns by name, `pixels` in raster order, and the `label` among the `candidates` for it."""

    file: str
    names: tuple[str, ...]
    header: bool
    delimiter: str
    pixels: tuple[int, ...] = ()
    candidates: tuple[
        int, ...
    ] = ()  # one; the first and the last when nothing but the values can tell; none: no labels
    ignored: tuple[str, ...] = ()

    @cached_property
    def columns_of_pixels(self) -> frozenset[int]:
        """`pixels`, for a quick look-up."""
        return frozenset(self.pixels)


def look(source: Source, file: str, name: str, label_column: str | None) -> Table | None:
    """What the first line of a CSV tells, or None when it is no table of pixels; raises UsageError for one that is, with a fault."""
    with source.stream(file) as stream:
        head = stream.read(_LINE)
    line, newline, _ = head.partition(b"\n")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(f"{source.path / file} is not in UTF-8; save it as CSV UTF-8.")
    if not newline and len(head) == _LINE:
        raise UsageError(f"{source.path / file}: line 1 is longer than {_LINE:,} bytes; give one image per line.")
    text = line.decode("utf-8-sig", errors="replace").strip("\r")
    delimiter = max(",;\t", key=text.count)
    try:
        cells = [cell.strip() for cell in next(csv.reader([text], delimiter=delimiter), [])]
    except csv.Error as error:
        raise UsageError(f"{source.path / file}: line 1 is no CSV ({reason(error)}); save the table again.") from None
    if len(cells) > _MOST_COLUMNS:
        raise UsageError(
            f"{source.path / file} has {len(cells):,} columns, more than the {_MOST_COLUMNS:,} of 256 x 256 pixels; shrink the images."
        )
    groups = _pixel_columns(cells)
    words = [i for i, cell in enumerate(cells) if cell and not _NUMBER.fullmatch(cell)]
    table = Table(file, tuple(cells), True, delimiter)
    if len(words) < len(cells) / 2 and not _counts_up(groups.get(("", False), [])):
        names = tuple(str(i + 1) for i in range(len(cells)))
        return _without_header(source, replace(table, names=names, header=False), name, label_column, words)
    group = max(groups.values(), key=len, default=[])
    if len(group) < _FEWEST:
        return None
    if len({key for key, _ in group}) < len(group):
        raise UsageError(f"{source.path / file}: two columns of pixels have the same name; give each its own.")
    if (
        len(group) == len(cells) and _square(len(cells) - 1) and label_column not in cells
    ):  # pandas numbers columns that have no names
        return _first_or_last(source, table, name, label_column)
    return _with_label(source, replace(table, pixels=tuple(column for _, column in group)), name, label_column)


def read(source: Source, tables: Sequence[Table], name: str) -> Found:
    """Read and join `tables`, in their order.

    Raises UsageError, naming file, line and column, for a cell that is no pixel, and for a table without labels.
    """
    _check_labels(source, tables, name)
    tables = [_resolved(source, table, name) for table in tables]
    sides = {math.isqrt(len(table.pixels)) for table in tables}
    if len(sides) > 1:
        several = " and ".join(table.file for table in tables[:2])
        raise UsageError(
            f"data.{name}: {several} in {source.path} hold images of different sizes; name those to read in data.{name}.files."
        )
    number: dict[str, int] = {}
    blocks: list[_Block] = []
    labels: list[Labels] = []
    members: list[str] = []
    splits: list[str] = []
    notes = []
    for table in tables:
        rows = 0
        for block, codes in _gathered(source, table, number):
            blocks.append(block)
            labels.append(codes)
            rows += len(codes)
        first = 2 if table.header else 1
        members += [f"{table.file}:{line}" for line in range(first, first + rows)]
        splits += [split_in(table.file)] * rows
        notes.append(f"Read {rows:,} rows of {table.file}.")
    if not members:
        raise UsageError(f"data.{name}: {source.path / tables[0].file} holds no rows; give one image per line.")
    if ignored := sorted({column for table in tables for column in table.ignored}):
        shown = ", ".join(f"`{column[:40]}`" for column in ignored[:5])
        notes.append(
            f"Columns that are neither pixels nor labels were ignored: {shown}{' and more' if len(ignored) > 5 else ''}."
        )
    scaled = all(block.small for block in blocks) and any(block.pixels.any() for block in blocks)
    if scaled:
        notes.append("The pixels lie between 0 and 1 and were scaled to 0..255.")
    (side,) = sides
    pixels = np.concatenate(
        [block.pixels if scaled or not block.small else (block.pixels >= 128).astype(np.uint8) for block in blocks]
    )
    order = sorted(number, key=natural)
    place = np.empty(len(order), np.int64)
    place[[number[word] for word in order]] = np.arange(len(order))
    images: Bytes = pixels.reshape(-1, side, side)
    return Found(images, order, place[np.concatenate(labels)], members, splits, tuple(notes))


# --- which column is what ---


def _square(count: int) -> bool:
    return count > 0 and math.isqrt(count) ** 2 == count


def _pixel_columns(cells: Sequence[str]) -> dict[tuple[str, bool], list[tuple[tuple[int, ...], int]]]:
    """Columns whose names are numbered, by what stands before the number: pairs of number and column, in the order of the numbers."""
    groups: dict[tuple[str, bool], list[tuple[tuple[int, ...], int]]] = {}
    for column, cell in enumerate(cells):
        if match := _PIXEL.fullmatch(cell.lower()):
            prefix, *digits = match.groups()
            groups.setdefault((prefix, digits[1] is not None), []).append((tuple(int(d) for d in digits if d), column))
    return {key: sorted(group) for key, group in groups.items()}


def _counts_up(group: Sequence[tuple[tuple[int, ...], int]]) -> bool:
    """True for a header of plain numbers, 0 1 2 ... or 1 2 3 ..., which the first row of an image never is."""
    return (
        len(group) >= _FEWEST
        and group[0][0][0] in {0, 1}
        and [key[0] for key, _ in group] == [group[0][0][0] + i for i in range(len(group))]
    )


def _without_header(
    source: Source, table: Table, name: str, label_column: str | None, words: Sequence[int]
) -> Table | None:
    """`words` are the columns whose first cell is text."""
    count = len(table.names)
    if count <= _FEWEST:
        return None
    if len(words) == 1:
        label = words[0]
        return _squared(
            source, replace(table, candidates=(label,), pixels=tuple(i for i in range(count) if i != label)), name
        )
    if words or not (_square(count) or _square(count - 1)):
        raise UsageError(
            f"data.{name}: {source.path / table.file} has no header, and its {count:,} columns are no label beside the pixels of a square image; "
            "give its columns names such as label, pixel0, pixel1."
        )
    if _square(count):
        return replace(table, pixels=tuple(range(count)))
    return _first_or_last(source, table, name, label_column)


def _first_or_last(source: Source, table: Table, name: str, label_column: str | None) -> Table:
    ends = {"first": 0, "last": len(table.names) - 1}
    if label_column is None:
        return replace(table, pixels=tuple(range(1, ends["last"])), candidates=tuple(ends.values()))
    if label_column not in ends:
        raise UsageError(
            f"data.{name}.label_column: the columns of {source.path / table.file} have no names; say `first` or `last`, not `{label_column}`."
        )
    return _labelled(table, ends[label_column])


def _labelled(table: Table, label: int) -> Table:
    return replace(table, candidates=(label,), pixels=tuple(i for i in range(len(table.names)) if i != label))


def _with_label(source: Source, table: Table, name: str, label_column: str | None) -> Table:
    where = source.path / table.file
    others = [i for i in range(len(table.names)) if i not in set(table.pixels)]
    if label_column is not None:
        lower = [column.lower() for column in table.names]
        if label_column.lower() not in lower:
            shown = ", ".join(f"`{table.names[i][:40]}`" for i in others[:10]) or "pixels only"
            raise UsageError(f"data.{name}.label_column: {where} has no column `{label_column}`; there are: {shown}.")
        exact = table.names.index(label_column) if label_column in table.names else lower.index(label_column.lower())
        found = [exact]
    else:
        found = [i for i in others if not _INDEX.fullmatch(table.names[i].lower())]
        if len(found) > 1:
            found = [i for i in found if re.sub(r"[ -]", "_", table.names[i].lower()) in _LABELS] or found
        if len(found) > 1:
            shown = ", ".join(f"`{table.names[i][:40]}`" for i in found[:10])
            raise UsageError(
                f"data.{name}: {where} has several columns that may hold the labels, {shown}; set data.{name}.label_column."
            )
    pixels = tuple(i for i in table.pixels if i not in found)
    ignored = tuple(table.names[i] or "(no name)" for i in others if i not in found)
    return _squared(source, replace(table, pixels=pixels, candidates=tuple(found), ignored=ignored), name)


def _squared(source: Source, table: Table, name: str) -> Table:
    count = len(table.pixels)
    if not _square(count):
        side = round(math.sqrt(count))
        raise UsageError(
            f"data.{name}: {source.path / table.file} has {count:,} columns of pixels, which make no square image "
            f"({side} x {side} would be {side * side:,}); bring all columns, or name the one with labels in data.{name}.label_column."
        )
    return table


def _check_labels(source: Source, tables: Sequence[Table], name: str) -> None:
    bare = [table.file for table in tables if not table.candidates]
    labelled = [table.file for table in tables if table.candidates]
    if bare and labelled:
        raise UsageError(
            f"data.{name}: {bare[0]} in {source.path} has no labels while {labelled[0]} has; set data.{name}.files to {labelled[0]}."
        )
    if bare:
        raise UsageError(
            f"data.{name}: {source.path / bare[0]} has no column of labels; add one, or name it in data.{name}.label_column."
        )


def _resolved(source: Source, table: Table, name: str) -> Table:
    """`table` with one label column, which the values of the first and the last column tell where no name does."""
    if len(table.candidates) == 1:
        return table
    first, last = table.candidates
    values: dict[int, Counter[str]] = {first: Counter(), last: Counter()}
    try:
        with _opened(source, replace(table, pixels=()), pa.uint8()) as batches:
            for batch in batches:
                for i, column in enumerate(table.candidates):
                    values[column].update(batch.column(i).to_pylist())
    except pa.ArrowInvalid as error:
        raise _fault(source, table, error) from None
    looks = [column for column in table.candidates if _looks_like_labels(values[column])]
    if len(looks) != 1:
        raise UsageError(
            f"data.{name}: nothing tells whether the first or the last column of {source.path / table.file} holds the labels; "
            f"set data.{name}.label_column to `first` or `last`."
        )
    return _labelled(table, looks[0])


def _looks_like_labels(values: Counter[str]) -> bool:
    """True for words, and for numbers without gaps from 0 or 1 on; a corner's pixel has one shade or many with gaps."""
    numbers = {_word(value) for value in values}
    if not all(number.isdecimal() and len(number) < 4 for number in numbers):
        return any(not _NUMBER.fullmatch(number) for number in numbers if number)
    counts = sorted(map(int, numbers))
    return len(counts) > 1 and counts[0] in {0, 1} and counts == list(range(counts[0], counts[0] + len(counts)))


def _word(cell: str) -> str:
    """A label as text; a whole number that pandas wrote as 7.0 is 7."""
    word = unicodedata.normalize("NFC", cell.strip())
    return re.sub(r"^(\d+)\.0+$", r"\1", word)


# --- the rows ---


@dataclass(frozen=True)
class _Block:
    """Some rows: uint8 [rows, pixels]. `small`: no value is above 1, and `pixels` are 255 times the values."""

    pixels: Bytes
    small: bool


class _BadCellError(ValueError):
    """A cell that is no pixel or no label; `_fault` finds out which."""


@contextmanager
def _opened(source: Source, table: Table, kind: pa.DataType) -> Iterator[Iterator[Any]]:
    """Record batches with the columns for pixels as `kind`, then the candidates for labels as text."""
    names = [str(i) for i in range(len(table.names))]
    types = {str(i): kind for i in table.pixels} | {str(i): pa.string() for i in table.candidates}
    with (
        source.stream(table.file) as stream,
        pyarrow.csv.open_csv(
            stream,
            pyarrow.csv.ReadOptions(column_names=names, skip_rows=int(table.header), block_size=_BLOCK),
            pyarrow.csv.ParseOptions(delimiter=table.delimiter),
            pyarrow.csv.ConvertOptions(column_types=types, include_columns=list(types)),
        ) as batches,
    ):
        yield batches


def _gathered(source: Source, table: Table, number: dict[str, int]) -> Iterator[tuple[_Block, Labels]]:
    """The rows of a table and their labels, whose words get their `number` as they come."""
    kind, done = pa.uint8(), 0
    while True:
        try:
            with _opened(source, table, kind) as batches:
                for at, batch in enumerate(batches):
                    if at < done:  # read before numbers with a point were met
                        continue
                    block = _block(batch, len(table.pixels), kind)
                    codes = _codes(batch.column(len(table.pixels)), number)
                    done += 1
                    yield block, codes
        except pa.ArrowInvalid as error:
            if kind == pa.float32() or isinstance(error, _BadCellError):
                raise _fault(source, table, error) from None
            kind = pa.float32()
        except _BadCellError as error:
            raise _fault(source, table, error) from None
        except LekhaniError:
            raise
        except (pa.ArrowException, ValueError) as error:
            raise _fault(source, table, error) from None
        else:
            return


def _block(batch: Any, count: int, kind: pa.DataType) -> _Block:
    pixels = np.empty((batch.num_rows, count), kind.to_pandas_dtype())
    for i in range(count):
        column = batch.column(i)
        if column.null_count:
            raise _BadCellError("a cell is empty")
        pixels[:, i] = column.to_numpy()
    highest = pixels.max(initial=0)
    if pixels.dtype == np.uint8:
        return _Block(pixels * np.uint8(255), True) if highest <= 1 else _Block(pixels, False)
    if not (pixels.min(initial=0) >= 0 and highest <= 255):  # false for NaN as well
        raise _BadCellError("a cell is no pixel")
    small = bool(highest <= 1)
    return _Block(np.rint(pixels * np.float32(255 if small else 1)).astype(np.uint8), small)


def _codes(column: Any, number: dict[str, int]) -> Labels:
    encoded = column.dictionary_encode()
    words = [_word(word) for word in encoded.dictionary.to_pylist()]
    if "" in words:
        raise _BadCellError("a label is empty")
    codes = np.array([number.setdefault(word, len(number)) for word in words], np.int64)
    return codes[encoded.indices.to_numpy()] if len(codes) else np.zeros(0, np.int64)


def _fault(source: Source, table: Table, error: Exception) -> UsageError:
    """The first faulty cell, line by line; pyarrow does not tell where it is."""
    where = source.path / table.file
    try:
        with source.stream(table.file) as stream:
            told = next(
                filter(None, (_fault_in(table, line, row) for line, row in _lines(stream, table.delimiter))), None
            )
    except UnicodeDecodeError:
        told = "is not in UTF-8; save it as CSV UTF-8"
    except csv.Error as problem:
        told = f"is no readable CSV ({reason(problem)}); give one image per line and close every quote"
    except UsageError as problem:
        return problem
    return UsageError(f"{where} {told or f'cannot be read ({reason(error)[:120]}); save it again as a plain CSV'}.")


def _fault_in(table: Table, line: int, row: Sequence[str]) -> str | None:
    """What is wrong with one line, if anything."""
    if row and len(row) != len(table.names):
        return f"has {len(row):,} cells instead of {len(table.names):,} in line {line}; correct it or leave it out"
    if line == 1 and table.header:
        return None
    for i, cell in enumerate(row):
        if i in table.candidates and not cell.strip():
            return f"holds no label in line {line}, column `{table.names[i][:40]}`; fill it in or leave the line out"
        if i in table.columns_of_pixels and not (_NUMBER.fullmatch(cell) and 0 <= float(cell) <= 255):
            return f"holds `{cell[:40]}` in line {line}, column `{table.names[i][:40]}`; correct it, for pixels are numbers from 0 to 255"
    return None


def _lines(stream: BinaryIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(_texts(stream), delimiter=delimiter)
    for row in reader:
        yield reader.line_num, row


def _texts(stream: BinaryIO) -> Iterator[str]:
    count = 0
    while line := stream.readline(_BLOCK):
        count += 1
        if len(line) == _BLOCK:
            raise csv.Error(f"line {count} is longer than {_BLOCK:,} bytes")
        yield line.decode("utf-8-sig" if count == 1 else "utf-8")
