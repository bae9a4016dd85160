"""Images whose class no folder names: a table beside them does (file name, label), or their own file names."""

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lekhani.data import kinds
from lekhani.data.archives import Source
from lekhani.data.kinds import shown
from lekhani.data.names import MAX_CLASSES, natural_key, split_of_folder, split_of_path, word
from lekhani.data.readers import ReadResult
from lekhani.errors import LekhaniError, UsageError

_MAX_BYTES = 64 << 20  # of one table
_HEAD = 1 << 16  # bytes of it that are looked at first
_MAX_COLUMNS = 1000
_PROBED = 200  # rows in which a name of an image must stand
_SPLIT_COLUMN = re.compile(r"(split|subset|set|usage|partition|purpose)", re.IGNORECASE)
# A word at the start or at the end of a file's name, before or after the separator.
_WORDS = {"prefix": re.compile(r"^([^\W_]+)[\W_]+."), "suffix": re.compile(r".[\W_]+([^\W_]+)$")}


@dataclass(frozen=True)
class Labels:
    """What a table says of images: its columns by name, its rows as text, and which column names the files."""

    file: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    files: int
    first_line: int

    @property
    def normalised(self) -> list[str]:
        """The columns as `LABELS` and people write them, in small letters with _ for spaces."""
        return [re.sub(r"[ -]", "_", column.lower()) for column in self.columns]

    @property
    def others(self) -> list[int]:
        """The columns that do not name the files."""
        return [i for i in range(len(self.columns)) if i != self.files]

    def quoted(self, columns: Iterable[int]) -> list[str]:
        """Columns for people."""
        return [f"`{self.columns[i][:40]}`" for i in columns]


def look(source: Source, tables: Iterable[str], images: Sequence[str], *, needed: bool) -> list[Labels]:
    """Those of `tables` that have a column of names of `images`, with or without their endings.

    Where one is `needed`, raises UsageError for a CSV that is not in UTF-8 and so names no image.
    """
    known = _Names(images)
    found = (_look(source, table, known, needed) for table in tables)
    return [labels for labels in found if labels is not None]


class _Names:
    """Images by what a table may call them: path and name, with or without the ending, or with another one."""

    def __init__(self, images: Sequence[str]) -> None:
        self._by_stem: dict[str, list[str]] = {}
        for image in images:
            self._by_stem.setdefault(_stem(image), []).append(image)
        self._one_folder = len({image.rpartition("/")[0] for image in images}) == 1
        # In a table of labels; a number that happens to be a file's name stands anywhere.
        self.fewest = max(1, min(len(images), _PROBED) // 10)

    def __contains__(self, cell: str) -> bool:
        return bool(cell) and bool(self.candidates(cell))

    def candidates(self, cell: str) -> list[str]:
        """The images that `cell` may mean: those of its name whose folders are those in the cell, as far as both go."""
        parts = cell.replace("\\", "/").removeprefix("./").strip("/").split("/")
        found = self._by_stem.get(parts[-1], []) or self._by_stem.get(_stem(parts[-1]), [])
        if len(found) > 1:  # a.png and a.jpg
            found = [image for image in found if image.rpartition("/")[2] == parts[-1]] or found
        if len(parts) == 1 or self._one_folder:
            return found
        return [image for image in found if image.split("/")[-2:-1] == parts[-2:-1]]


def _stem(path: str) -> str:
    """The name of a file without its ending, if that is one of images."""
    name = path.rpartition("/")[2]
    return name.rpartition(".")[0] if kinds.by_name(name) == "images" else name


def _look(source: Source, file: str, known: _Names, needed: bool) -> Labels | None:
    rows = _read(source, file, known, needed)
    named = [{row[i] for row in rows[:_PROBED] if row[i] in known} for i in range(len(rows[0]))] if rows else [set()]
    best = int(np.argmax([len(cells) for cells in named]))
    if len(named[best]) < known.fewest:
        return None
    if rows[0][best] in known:
        return Labels(file, [str(i + 1) for i in range(len(rows[0]))], rows, best, 1)
    return Labels(file, rows[0], rows[1:], best, 2)


def _read(source: Source, file: str, known: _Names, needed: bool) -> list[list[str]]:
    """All cells as text; nothing for what is no table or names no image in its first lines."""
    try:
        return _lines(source, file) if file.lower().endswith(".jsonl") else _rows(source, file, known)
    except UnicodeDecodeError:
        if needed:
            raise UsageError(f"{source.path / file} is not in UTF-8; save it as CSV UTF-8.") from None
    except LekhaniError:
        if needed and kinds.by_name(file) == "csv":
            raise
    except ValueError:
        pass
    return []


def _rows(source: Source, file: str, known: _Names) -> list[list[str]]:
    """All cells as text, or nothing where the first lines name no image; raises ValueError for what is no table."""
    import pandas as pd

    from lekhani.data.readers.table import first_line  # pyarrow is slow to import, and only tables need it

    cells, delimiter = first_line(source, file)
    if not 2 <= len(cells) <= _MAX_COLUMNS or source.sizes[file] > _MAX_BYTES:
        return []
    with source.stream(file) as stream:
        head = stream.read(_HEAD).decode("utf-8-sig", errors="replace")
    separator = r"\s+" if delimiter == " " else re.escape(delimiter)
    first = (cell.strip().strip("\"'") for line in head.splitlines()[:_PROBED] for cell in re.split(separator, line))
    if not any(cell in known for cell in first):  # a source may hold a text for each of its images
        return []
    with source.stream(file) as stream:
        table = pd.read_csv(
            stream,
            sep=r"\s+" if delimiter == " " else delimiter,
            header=None,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            skipinitialspace=True,
        )
    return [[word(cell) for cell in row] for row in table.fillna("").astype(str).to_numpy().tolist()]


def _lines(source: Source, file: str) -> list[list[str]]:
    """The same of a file with a JSON object per line, as Hugging Face's metadata.jsonl is."""
    import pandas as pd

    with source.stream(file) as stream:
        table = pd.read_json(io.BytesIO(stream.read(_MAX_BYTES)), lines=True, dtype=False)
    rows = table.astype(str).to_numpy().tolist()
    return [list(map(str, table.columns)), *([word(cell) for cell in row] for row in rows)]


def read(source: Source, tables: Sequence[Labels], images: Sequence[str], name: str, column: str | None) -> ReadResult:
    """The images that `tables` name, with their labels; what they name in vain, and what they do not name, is noted.

    Raises UsageError where no column or several may hold the labels, for a row without a label, for a name that fits
    several images, and for an image with two labels.
    """
    known = _Names(images)
    label_of: dict[str, tuple[str, str]] = {}  # of each image: label and split
    missing: list[str] = []
    notes = []
    for table in tables:
        chosen = _label_column(table, source, name, column)
        split_column = _split_column(table, chosen)
        count = len(label_of)
        for line, row in enumerate(table.rows, table.first_line):
            image = _image(known, table, row[table.files], name)
            if image is None:
                missing.append(row[table.files])
                continue
            if not row[chosen]:
                problem = f"has no label in column `{table.columns[chosen]}`; fill it in"
                raise UsageError(f"data.{name}: {source.path / table.file}, line {line} {problem}.")
            split = split_of_folder(row[split_column]) if split_column is not None else ""
            entry = row[chosen], split or split_of_path(image.rpartition("/")[0]) or split_of_path(table.file)
            if label_of.setdefault(image, entry)[0] != entry[0]:
                both = f"{image} two labels, `{label_of[image][0]}` and `{entry[0]}`"
                raise UsageError(f"data.{name}: {source.path / table.file}, line {line} gives {both}; keep one.")
        of = f"column `{table.columns[chosen]}` of {table.file}"
        notes.append(f"Labels of {len(label_of) - count:,} images come from {of}.")
    if missing:
        notes.append(f"Files that the tables name and that are not there: {len(missing):,} ({shown(missing)}).")
    if unnamed := [image for image in images if image not in label_of]:
        notes.append(f"Images that no table names were left out: {len(unnamed):,} ({shown(unnamed)}).")
    return _result([(label, image, split) for image, (label, split) in label_of.items()], tuple(notes))


def _image(known: _Names, table: Labels, cell: str, name: str) -> str | None:
    """The one image that a cell means: of several the one near the table, or of its split."""
    found = known.candidates(cell) if cell else []
    if len(found) < 2:
        return found[0] if found else None
    folder, split = table.file.rpartition("/")[0], split_of_path(table.file)
    if folder:
        found = [image for image in found if image.startswith(f"{folder}/")] or found
    if len(found) > 1:
        found = [image for image in found if split and split_of_path(image.rpartition("/")[0]) == split] or found
    if len(found) > 1:
        problem = f"names `{cell}`, which fits {shown(found)}; write the paths into the table"
        raise UsageError(f"data.{name}: {table.file} {problem}, or choose files with data.{name}.files.")
    return found[0]


def _label_column(table: Labels, source: Source, name: str, wanted: str | None) -> int:
    if wanted is None:
        return choose(table, source, name)
    names = table.normalised
    found = [i for i in table.others if wanted in {table.columns[i], str(i + 1)} or wanted.lower() == names[i]]
    if not found:
        path, there = source.path / table.file, ", ".join(table.quoted(table.others[:10]))
        raise UsageError(f"data.{name}.label_column: {path} has no column `{wanted}`; there are: {there}.")
    return found[0]


def choose(table: Labels, source: Source, name: str) -> int:
    """The column of labels by its name, or as the only one whose values repeat; raises UsageError for any other number.

    A word that names a class stands at more than one image, and is no number with a fraction.
    """
    from lekhani.data.readers.table import LABELS

    names, others = table.normalised, table.others
    candidates = [i for i in others if names[i] in LABELS and _repeat(table, i)]
    candidates = candidates or [i for i in others if _repeat(table, i) and _split_column(table, -1) != i]
    if len(candidates) == 1:
        return candidates[0]
    path = source.path / table.file
    if not candidates:
        problem = f"has no column that looks like labels (there are: {', '.join(table.quoted(others[:10]))})"
    else:
        problem = f"has several columns that may hold the labels, {shown(table.quoted(candidates))}"
    raise UsageError(f"data.{name}: {path} {problem}; set data.{name}.label_column.")


def _repeat(table: Labels, column: int) -> bool:
    values = [row[column] for row in table.rows]
    count = len(set(values))
    if any(re.fullmatch(r"-?\d*\.\d*[1-9]\d*", value) for value in values[:_PROBED]):
        return False
    return 1 < count <= MAX_CLASSES and (count <= len(values) / 2 or len(values) < 20)


def _split_column(table: Labels, chosen: int) -> int | None:
    """The column that says train or test in every row."""
    columns = (i for i, column in enumerate(table.columns) if _SPLIT_COLUMN.fullmatch(column))
    others = (i for i in columns if i not in {chosen, table.files})
    return next((i for i in others if all(split_of_folder(row[i]) for row in table.rows)), None)


# --- labels in the names of files ---


def by_name(source: Source, images: Sequence[str], name: str, rule: str) -> ReadResult:
    """The label of every image from its file's name: `prefix`, `suffix`, or the group of a regular expression.

    Raises UsageError for a name in which `rule` finds nothing.
    """
    entries = []
    for image in images:
        label = label_in(image, rule)
        if label is None:
            problem = f"finds no label in {image} of {source.path}; correct it, or leave the image out"
            raise UsageError(f"data.{name}.label_in_name: {rule} {problem}.")
        entries.append((label, image, split_of_path(image.rpartition("/")[0])))
    return _result(entries, (f"Labels come from file names ({rule}), such as {entries[0][0]} from {images[0]}.",))


def label_in(image: str, rule: str) -> str | None:
    """The label that `rule` finds in the file name of `image`, without its ending."""
    file = image.rpartition("/")[2]
    match = (_WORDS.get(rule) or re.compile(rule)).search(file.rpartition(".")[0] or file)
    if not match:
        return None
    return (match[1] if match.re.groups else match[0]) or None


def suggested_rule(images: Sequence[str]) -> str:
    """The words that say which rule finds several labels in these names, if one does."""
    for rule in _WORDS:
        labels = [label_in(image, rule) for image in images]
        if None not in labels and 1 < len(set(labels)) <= max(2, len(images) / 2):
            words = sorted({label for label in labels if label}, key=natural_key)
            return f" ({rule} finds {len(words):,}: {shown(words)})"
    return ""


def _result(entries: Iterable[tuple[str, str, str]], notes: tuple[str, ...]) -> ReadResult:
    """Entries of label, image and split."""
    rows = sorted(entries, key=lambda entry: (natural_key(entry[0]), entry[1]))
    words = list(dict.fromkeys(row[0] for row in rows))
    number = {word: i for i, word in enumerate(words)}
    labels = np.array([number[row[0]] for row in rows], np.int64)
    return ReadResult((), words, labels, [row[1] for row in rows], [row[2] for row in rows], notes)
