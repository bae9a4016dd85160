"""Tables with one image per row: a column per pixel and one for the label, with or without a header."""

import csv
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from lekhani.data.archives import Source
from lekhani.data.names import natural_key, reason, split_of_path, word
from lekhani.data.readers import ReadResult
from lekhani.data.spec import Labels
from lekhani.errors import LekhaniError, UsageError

_MAX_LINE = 1 << 20  # bytes of the first line: 256 x 256 pixels of up to 16 letters
_MAX_COLUMNS = 256 * 256 + 16
_MIN_PIXELS = 16  # a table with fewer such columns holds something else
_BLOCK = 4 << 20  # bytes that are parsed at once
_ROWS_AT_ONCE = 2000
_HIGHEST = float(np.finfo(np.float32).max)
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")
_PIXEL = re.compile(r"(.*?)(\d{1,6})(?:x(\d{1,6}))?")
LABELS = (
    *("label", "labels", "class", "classes", "class_name", "character", "char", "target"),
    *("glyph", "letter", "digit", "name", "y", "category", "class_id", "classid", "label_id", "category_id", "symbol"),
)
_Array = npt.NDArray[Any]
_INDEX = re.compile(r"(unnamed: ?\d+|id|index|idx|no|row|number|#|)")


@dataclass(frozen=True)
class Table:
    """A table of pixels: its columns by name, and which of them hold `pixels`, in raster order.

    `labels` are the columns that may hold the label: one; the first and the last where only values tell; or none.
    """

    file: str
    path: Path  # of the file, for people
    columns: tuple[str, ...]
    has_header: bool
    delimiter: str
    pixels: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    ignored: tuple[str, ...] = ()


def look(
    source: Source, files: Sequence[str], texts: Sequence[str], name: str, label_column: str | None
) -> tuple[list[Table], list[str]]:
    """Those of `files` and `texts` (which need not be tables) that hold pixels, by their first lines; and the others.

    Raises UsageError for a table of pixels with a fault, or without a column `label_column`.
    """
    candidates = [*files, *(file for file in texts if _has_many_columns(source, file))]
    found = {file: _look(source, file, name, label_column) for file in candidates}
    tables = [table for table in found.values() if table is not None]
    return tables, [file for file in (*files, *texts) if found.get(file) is None]


def _has_many_columns(source: Source, file: str) -> bool:
    try:
        cells, _ = first_line(source, file)
    except UsageError:
        return False
    return len(cells) > _MIN_PIXELS and (
        sum(bool(_NUMBER.fullmatch(cell)) for cell in cells) > len(cells) / 2
        or max(map(len, _numbered_columns(cells).values()), default=0) >= _MIN_PIXELS
    )


def read(source: Source, tables: Sequence[Table], name: str) -> ReadResult:
    """Read and join `tables`, in their order.

    Raises UsageError, naming file, line and column, for a cell that is no pixel, and for a table without labels.
    """
    tables = _with_one_label(source, tables, name)
    number: dict[str, int] = {}  # of each label's word, in the order in which they come
    blocks: list[_Array] = []
    labels: list[Labels] = []
    members: list[str] = []
    splits: list[str] = []
    notes = []
    for table in tables:
        rows = _rows(source, table, number)
        blocks += [block for block, _ in rows]
        labels += [codes for _, codes in rows]
        count, first = sum(len(codes) for _, codes in rows), 2 if table.has_header else 1
        members += [f"{table.file}:{line}" for line in range(first, first + count)]
        splits += [split_of_path(table.file)] * count
        notes.append(f"Read {count:,} rows of {table.file}.")
    if not members:
        raise UsageError(f"data.{name}: {tables[0].path} holds no rows; give one image per line.")
    if ignored := sorted({column for table in tables for column in table.ignored}):
        shown = _shown(ignored[:5]) + (" and more" if len(ignored) > 5 else "")
        notes.append(f"Columns that are neither pixels nor labels were ignored: {shown}.")
    pixels = np.concatenate(blocks)
    side = math.isqrt(pixels.shape[1])
    words = sorted(number, key=natural_key)
    place = np.empty(len(words), np.int64)
    place[[number[word] for word in words]] = np.arange(len(words))
    images = pixels.reshape(-1, side, side)
    return ReadResult(images, words, place[np.concatenate(labels)], members, splits, tuple(notes))


def _shown(columns: Sequence[str]) -> str:
    return ", ".join(f"`{column[:40]}`" for column in columns)


# --- which column is what ---


def _look(source: Source, file: str, name: str, label_column: str | None) -> Table | None:
    """What the first line of a CSV says of it, or None when it is no table of pixels."""
    cells, delimiter = first_line(source, file)
    table = Table(file, source.path / file, tuple(cells), True, delimiter)
    groups = _numbered_columns(cells)
    words = [i for i, cell in enumerate(cells) if cell and not _NUMBER.fullmatch(cell)]
    if not words and _is_mangled(cells) and _is_square(len(cells) - 1):
        return _first_or_last(table, name, label_column)
    if len(words) < len(cells) / 2 and not _counts_up(groups.get(("", False), [])):
        columns = tuple(str(i + 1) for i in range(len(cells)))
        return _without_header(replace(table, columns=columns, has_header=False), name, label_column, words)
    group = max(groups.values(), key=len, default=[])
    if len(group) < _MIN_PIXELS:
        return None
    if len({key for key, _ in group}) < len(group):
        raise UsageError(f"{table.path}: two columns of pixels have the same name; give each its own.")
    if len(group) == len(cells) and _is_square(len(cells) - 1) and label_column not in cells:
        return _first_or_last(table, name, label_column)  # pandas numbers columns that have no names
    return _with_header(replace(table, pixels=tuple(column for _, column in group)), name, label_column)


def first_line(source: Source, file: str) -> tuple[list[str], str]:
    """The cells of the first line, and what stands between them; a space stands for any number of them."""
    path = source.path / file
    with source.stream(file) as stream:
        head = stream.read(_MAX_LINE)
    line, newline, _ = head.partition(b"\n")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(f"{path} is not in UTF-8; save it as CSV UTF-8.")
    if not newline and len(head) == _MAX_LINE:
        raise UsageError(f"{path}: line 1 is longer than {_MAX_LINE:,} bytes; give one image per line.")
    text = line.decode("utf-8-sig", errors="replace").strip("\r")
    delimiter = max(",;\t|", key=text.count)
    delimiter = delimiter if delimiter in text else " "
    try:
        cells = _cells(text, delimiter)
    except csv.Error as error:
        raise UsageError(f"{path}: line 1 is no CSV ({reason(error)}); save the table again.") from None
    if len(cells) > _MAX_COLUMNS:
        bound = f"more than the {_MAX_COLUMNS:,} of 256 x 256 pixels; shrink the images."
        raise UsageError(f"{path} has {len(cells):,} columns, {bound}")
    return cells, delimiter


def _cells(line: str, delimiter: str) -> list[str]:
    if delimiter == " ":
        return line.split()
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]


def _is_square(count: int) -> bool:
    return count > 0 and math.isqrt(count) ** 2 == count


def _numbered_columns(cells: Sequence[str]) -> dict[tuple[str, bool], list[tuple[tuple[int, ...], int]]]:
    """Columns whose names end in a number, or in two with an x between, by what stands before it.

    Each group is a list of pairs of number and column, in the order of the numbers.
    """
    groups: dict[tuple[str, bool], list[tuple[tuple[int, ...], int]]] = {}
    for column, cell in enumerate(cells):
        if match := _PIXEL.fullmatch(cell.lower()):
            prefix, *digits = match.groups()
            groups.setdefault((prefix, digits[1] is not None), []).append((tuple(int(d) for d in digits if d), column))
    return {key: sorted(group) for key, group in groups.items()}


def _counts_up(group: Sequence[tuple[tuple[int, ...], int]]) -> bool:
    """True for a header of plain numbers, 0 1 2 ... or 1 2 3 ..., which the first row of an image never is."""
    numbers = [key[0] for key, _ in group]
    return len(group) >= _MIN_PIXELS and numbers[0] in {0, 1} and numbers == [numbers[0] + i for i in range(len(group))]


def _is_mangled(cells: Sequence[str]) -> bool:
    """True for a row of pixels that pandas took for a header and saved again, with 0, 0.1, 0.2 ... for equal names."""
    numbers: dict[str, list[str]] = {}
    for cell in cells:
        whole, _, fraction = cell.partition(".")
        numbers.setdefault(whole, []).append(fraction)
    longest = max(numbers.values(), key=len, default=[])
    return len(longest) >= _MIN_PIXELS and longest == ["", *map(str, range(1, len(longest)))]


def _without_header(table: Table, name: str, label_column: str | None, words: Sequence[int]) -> Table | None:
    """`words` are the columns whose first cell is text."""
    count = len(table.columns)
    if count <= _MIN_PIXELS:
        return None
    if len(words) == 1:
        return _square(_labelled(table, words[0]), name)
    if words or not (_is_square(count) or _is_square(count - 1)):
        problem = f"has no header, and its {count:,} columns are no label beside the pixels of a square image"
        remedy = "give its columns names such as label, pixel0, pixel1."
        raise UsageError(f"data.{name}: {table.path} {problem}; {remedy}")
    if _is_square(count):
        return replace(table, pixels=tuple(range(count)))
    return _first_or_last(table, name, label_column)


def _first_or_last(table: Table, name: str, label_column: str | None) -> Table:
    ends = {"first": 0, "last": len(table.columns) - 1}
    if label_column is None:
        return replace(table, pixels=tuple(range(1, ends["last"])), labels=tuple(ends.values()))
    if label_column not in ends:
        remedy = f"say `first` or `last`, not `{label_column}`."
        raise UsageError(f"data.{name}.label_column: the columns of {table.path} have no names; {remedy}")
    return _labelled(table, ends[label_column])


def _labelled(table: Table, label: int) -> Table:
    return replace(table, labels=(label,), pixels=tuple(i for i in range(len(table.columns)) if i != label))


def _with_header(table: Table, name: str, label_column: str | None) -> Table:
    columns, pixels = table.columns, set(table.pixels)
    others = [i for i in range(len(columns)) if i not in pixels]
    if label_column is not None:
        lower = [column.lower() for column in columns]
        if label_column.lower() not in lower:
            found = _shown([columns[i] for i in others[:10]]) or "pixels only"
            problem = f"{table.path} has no column `{label_column}`; there are: {found}."
            raise UsageError(f"data.{name}.label_column: {problem}")
        labels = [columns.index(label_column) if label_column in columns else lower.index(label_column.lower())]
    else:
        labels = [i for i in others if not _INDEX.fullmatch(columns[i].lower())]
        if len(labels) > 1:
            labels = [i for i in labels if re.sub(r"[ -]", "_", columns[i].lower()) in LABELS] or labels
        if len(labels) > 1:
            several = _shown([columns[i] for i in labels[:10]])
            problem = f"several columns that may hold the labels, {several}; set data.{name}.label_column."
            raise UsageError(f"data.{name}: {table.path} has {problem}")
    kept = tuple(i for i in table.pixels if i not in labels)
    ignored = tuple(columns[i] or "(no name)" for i in others if i not in labels)
    return _square(replace(table, pixels=kept, labels=tuple(labels), ignored=ignored), name)


def _square(table: Table, name: str) -> Table:
    count = len(table.pixels)
    if not _is_square(count):
        side = round(math.sqrt(count))
        problem = f"which make no square image ({side} x {side} would be {side * side:,})"
        remedy = f"bring all columns, or name the one with labels in data.{name}.label_column."
        raise UsageError(f"data.{name}: {table.path} has {count:,} columns of pixels, {problem}; {remedy}")
    return table


def _with_one_label(source: Source, tables: Sequence[Table], name: str) -> list[Table]:
    """`tables` with one label column each, all of images of one size."""
    bare = [table for table in tables if not table.labels]
    labelled = [table.file for table in tables if table.labels]
    if bare and labelled:
        remedy = f"set data.{name}.files to {labelled[0]}."
        problem = f"{bare[0].file} in {source.path} has no labels while {labelled[0]} has"
        raise UsageError(f"data.{name}: {problem}; {remedy}")
    if bare:
        remedy = f"add one, or name it in data.{name}.label_column."
        raise UsageError(f"data.{name}: {bare[0].path} has no column of labels; {remedy}")
    tables = [_by_values(source, table, name) if len(table.labels) > 1 else table for table in tables]
    if len({len(table.pixels) for table in tables}) > 1:
        several = " and ".join(table.file for table in tables[:2])
        problem = f"{several} in {source.path} hold images of different sizes"
        raise UsageError(f"data.{name}: {problem}; name those to read in data.{name}.files.")
    return tables


def _by_values(source: Source, table: Table, name: str) -> Table:
    """`table` with the one label column that the values of the first and the last column tell."""
    values: dict[int, Counter[str]] = {column: Counter() for column in table.labels}
    try:
        with _opened(source, replace(table, pixels=()), pa.uint8()) as batches:
            for batch in batches:
                for i, column in enumerate(table.labels):
                    values[column].update(batch.column(i).to_pylist())
    except (pa.ArrowException, ValueError) as error:
        raise _fault(source, table, error) from None
    found = [column for column in table.labels if _look_like_labels(values[column])]
    if len(found) != 1:
        problem = f"nothing tells whether the first or the last column of {table.path} holds the labels"
        raise UsageError(f"data.{name}: {problem}; set data.{name}.label_column to `first` or `last`.")
    return _labelled(table, found[0])


def _look_like_labels(values: Counter[str]) -> bool:
    """True for words, and for numbers without gaps from 0 or 1 on; a corner's pixel has one shade or many with gaps."""
    numbers = {word(value) for value in values}
    if not all(number.isdecimal() and len(number) < 4 for number in numbers):
        return any(not _NUMBER.fullmatch(number) for number in numbers if number)
    counts = sorted(map(int, numbers))
    return len(counts) > 1 and counts[0] in {0, 1} and counts == list(range(counts[0], counts[0] + len(counts)))


# --- the rows ---


@contextmanager
def _opened(source: Source, table: Table, kind: pa.DataType) -> Iterator[Iterator[Any]]:
    """Record batches with the columns for pixels as `kind`, then those for labels as text."""
    columns = [str(i) for i in range(len(table.columns))]
    types = {str(i): kind for i in table.pixels} | {str(i): pa.string() for i in table.labels}
    with source.stream(table.file) as stream:
        if table.delimiter == " ":
            yield _spaced(stream, columns, types, int(table.has_header))
            return
        with pyarrow.csv.open_csv(
            stream,
            pyarrow.csv.ReadOptions(column_names=columns, skip_rows=int(table.has_header), block_size=_BLOCK),
            pyarrow.csv.ParseOptions(delimiter=table.delimiter),
            pyarrow.csv.ConvertOptions(column_types=types, include_columns=list(types)),
        ) as batches:
            yield batches


def _spaced(stream: BinaryIO, columns: list[str], types: dict[str, pa.DataType], skipped: int) -> Iterator[Any]:
    """The same where any number of spaces stands between two cells, which pyarrow does not read."""
    import pandas as pd

    kinds = {column: str if kind == pa.string() else kind.to_pandas_dtype() for column, kind in types.items()}
    schema = pa.schema(list(types.items()))
    parts = pd.read_csv(
        stream,
        sep=r"\s+",
        header=None,
        names=columns,
        index_col=False,
        dtype=kinds,
        usecols=list(types),
        skiprows=skipped,
        chunksize=_ROWS_AT_ONCE,
        keep_default_na=False,
        on_bad_lines="error",
    )
    for part in parts:
        yield from pa.Table.from_pandas(part[list(types)], schema, preserve_index=False).combine_chunks().to_batches()


def _rows(source: Source, table: Table, number: dict[str, int]) -> list[tuple[_Array, Labels]]:
    """The rows of a table and their labels, whose words get their `number` as they come."""
    problem: Exception = ValueError()
    # Bytes are parsed twice as fast, and most tables hold nothing else.
    for kind in (pa.float32(),) if table.delimiter == " " else (pa.uint8(), pa.float32()):
        try:
            with _opened(source, table, kind) as batches:
                n = len(table.pixels)
                return [(_block(batch, n, kind), _codes(batch.column(n), number)) for batch in batches]
        except LekhaniError:
            raise
        except (pa.ArrowException, ValueError) as error:
            problem = error
    raise _fault(source, table, problem)


def _block(batch: Any, count: int, kind: pa.DataType) -> _Array:
    """The first `count` columns of a record batch; raises ValueError for a cell that is no pixel."""
    pixels = np.empty((batch.num_rows, count), kind.to_pandas_dtype())
    for i in range(count):
        column = batch.column(i)
        if column.null_count:
            raise ValueError("a cell is empty")
        pixels[:, i] = column.to_numpy()
    if pixels.dtype == np.uint8:
        return pixels
    if not np.isfinite(pixels).all():
        raise ValueError("a cell is no pixel")
    if len(pixels) and pixels.min() >= 0 and (pixels == np.rint(pixels)).all():
        highest = pixels.max()
        pixels = pixels.astype(np.uint8 if highest < 1 << 8 else np.uint16 if highest < 1 << 16 else pixels.dtype)
    return pixels


def _codes(column: Any, number: dict[str, int]) -> Labels:
    encoded = column.dictionary_encode()
    words = [word(cell) for cell in encoded.dictionary.to_pylist()]
    if "" in words:
        raise ValueError("a label is empty")
    codes = np.array([number.setdefault(word, len(number)) for word in words], np.int64)
    return codes[encoded.indices.to_numpy()] if len(codes) else np.zeros(0, np.int64)


def _fault(source: Source, table: Table, error: Exception) -> UsageError:
    """The first faulty cell, line by line; pyarrow does not tell where it is."""
    try:
        with source.stream(table.file) as stream:
            rows = _numbered_rows(stream, table.delimiter)
            problem = next(filter(None, (_fault_in(table, line, row) for line, row in rows)), None)
    except UnicodeDecodeError:
        problem = "is not in UTF-8; save it as CSV UTF-8"
    except csv.Error as malformed:
        problem = f"is no readable CSV ({reason(malformed)}); give one image per line and close every quote"
    except UsageError as unreadable:
        return unreadable
    problem = problem or f"cannot be read ({reason(error)[:120]}); save it again as a plain CSV"
    return UsageError(f"{table.path} {problem}.")


def _numbered_rows(stream: BinaryIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    if delimiter == " ":
        yield from enumerate((line.split() for line in _lines(stream)), 1)
        return
    reader = csv.reader(_lines(stream), delimiter=delimiter)
    yield from ((reader.line_num, row) for row in reader)


def _fault_in(table: Table, line: int, row: Sequence[str]) -> str | None:
    """What is wrong with one line, if anything."""
    if row and len(row) != len(table.columns):
        return f"has {len(row):,} cells instead of {len(table.columns):,} in line {line}; correct it or leave it out"
    if not row or (line == 1 and table.has_header):
        return None
    for i in table.labels:
        if not row[i].strip():
            where = f"in line {line}, column `{table.columns[i][:40]}`"
            return f"holds no label {where}; fill it in or leave the line out"
    for i in table.pixels:
        if not (_NUMBER.fullmatch(row[i]) and abs(float(row[i])) <= _HIGHEST):
            where = f"in line {line}, column `{table.columns[i][:40]}`"
            return f"holds `{row[i][:40]}` {where}; correct it, for pixels are numbers"
    return None


def _lines(stream: BinaryIO) -> Iterator[str]:
    count = 0
    while line := stream.readline(_BLOCK):
        count += 1
        if len(line) == _BLOCK:
            raise csv.Error(f"line {count} is longer than {_BLOCK:,} bytes")
        yield line.decode("utf-8-sig" if count == 1 else "utf-8")
