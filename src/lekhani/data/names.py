"""What a word in a source stands for: spellings of classes, a user's classes.csv, and the words for train and test."""

import csv
import difflib
import io
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lekhani.data.spec import KNOWN, GlyphClass, Labels
from lekhani.errors import UsageError

MAX_CLASSES = 10_000  # more come from a column or a folder that names no classes
_MAX_NAME = 200  # letters of a class name
_MAX_BYTES = 4 << 20  # of a classes.csv
_JOINERS = "\u200c\u200d"  # of no width, and part of words in Indic scripts
_COLUMNS = {
    "name": ("name", "class_name", "classname", "folder", "label", "class", "id"),
    "glyph": ("glyph", "character", "char", "letter", "devanagari", "unicode", "symbol"),
}
_GROUPS = {
    **dict.fromkeys(("numeral", "numerals", "digit", "digits", "number", "numbers"), "digit"),
    **dict.fromkeys(("consonant", "consonants", "character", "characters"), "character"),
}
_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trainset", "trainingset"), "train"),
    **dict.fromkeys(("test", "testing", "testset", "testingset", "t10k"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "valset", "validationset"), "val"),
}
# Words of file names that do not tell one dataset from another.
ROLES = {
    **dict.fromkeys(("image", "images", "img", "imgs", "x", "data", "pixels"), "images"),
    **dict.fromkeys(("label", "labels", "lbl", "lbls", "y", "target", "targets", "class", "classes"), "labels"),
}
_SHARDS = {"part", "shard", "chunk", "batch", "fold", "of", "partial", "default"}
_ENDINGS = {"idx", "ubyte", "int", "gz", "tra", "tes", "csv", "tsv", "tab", "txt", "npz", "npy", "mat", "parquet"}


def one_line(sentence: str) -> str:
    """`sentence` with control characters and lone surrogates escaped, and its middle left out where it is very long."""
    if not sentence.isprintable():
        escaped = (c if c.isprintable() or c in _JOINERS else ascii(c)[1:-1] for c in sentence)
        sentence = "".join(escaped)
    return sentence if len(sentence) <= 1000 else f"{sentence[:600]} ... {sentence[-300:]}"


def reason(error: BaseException) -> str:
    """What another library says went wrong, to stand inside a sentence."""
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__


def normalised(word: str) -> str:
    """`word` as `spellings` keys it: in Unicode's composed form, and `character_01_ka` without the zero."""
    return re.sub(r"_0+(?=\d)", "_", unicodedata.normalize("NFC", word.strip()))


def spellings(classes: Sequence[GlyphClass]) -> dict[str, GlyphClass]:
    """Every word that means one of `classes`.

    Glyph and name first, then DHCD's `ka` and `character_1`, `0` and `digit_0` for a digit.
    """
    words = {normalised(word): c for c in classes for word in (c.glyph, c.name)}
    for c in classes:
        match = re.fullmatch(r"(character_\d+)_(\w+)", c.name)
        digit = str(int(c.glyph)) if c.is_digit and len(c.glyph) < 10 else None
        for word in (match.groups() if match else ()) + ((digit, f"digit_{digit}") if digit else ()):
            words.setdefault(word, c)
    return words


def word(cell: str) -> str:
    """A label in a table as text; a whole number that pandas wrote as 7.0 is 7."""
    return re.sub(r"^(\d+)\.0+$", r"\1", unicodedata.normalize("NFC", cell.strip()))


def suggestion(word: str, classes: Sequence[GlyphClass]) -> str:
    """A hint about the unknown class `word`: the nearest valid one, or the first few."""
    words = spellings(classes)
    close = difflib.get_close_matches(normalised(word)[:_MAX_NAME], list(words), n=1)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"valid are {', '.join(c.name for c in classes[:4])}{' and so on' if len(classes) > 4 else ''}"


def natural_key(word: str) -> tuple[list[tuple[bool, int, str]], str]:
    """A key that sorts 2 before 10, and numbers before letters."""
    parts = [part for part in re.split(r"(\d+)", word) if part]
    return [(False, int(part), "") if part.isdecimal() and len(part) < 100 else (True, 0, part) for part in parts], word


def split_of_folder(folder: str) -> str:
    """`train`, `test` or `val` when the name `folder` is a word for one of these, else nothing."""
    return _SPLIT_WORDS.get(re.sub(r"[\s_-]+", "", folder.lower()), "")


def split_of_path(path: str) -> str:
    """`train`, `test` or `val` from a file's name, such as `mnist_train.csv`, or else from a folder above it."""
    if path.lower().endswith((".tra", ".tes")):  # as UCI's repository calls them; tra is also a letter
        return "train" if path.lower().endswith(".tra") else "test"
    for part in reversed(path.split("/")):
        kinds = {_SPLIT_WORDS[word] for word in re.split(r"[^a-z0-9]+", part.lower()) if word in _SPLIT_WORDS}
        if len(kinds) == 1:
            return kinds.pop()
    return ""


def words_of(file_name: str) -> list[str]:
    """The words of a file's name in small letters, without numbers, endings and a browser's ` (1)`."""
    words = [re.sub(r"^idx\d(ubyte)?$", "", word) for word in re.split(r"[\W_]+", file_name.lower())]
    return [word for word in words if word and not word.isdecimal() and word not in _ENDINGS]


def dataset_of_path(path: str) -> str:
    """What tells the dataset of a file from others: its path without words for splits, shards, images and labels."""
    noise = {*_SPLIT_WORDS, *ROLES, *_SHARDS}
    parts = [[word for word in words_of(part) if word not in noise] for part in path.split("/")]
    words = [[re.sub(r"\d+", "", word) for word in part] for part in parts]
    return "/".join(filter(None, ("-".join(filter(None, part)) for part in words)))


class Vocabulary:
    """The words that mean a class of dataset `name`.

    They are those of a dataset we know, or the rows `listed` in the user's own classes.csv, which lies at `path`.
    Without either, every word is a class of its own.
    """

    def __init__(self, name: str, listed: Sequence[GlyphClass] | None = None, path: str = "") -> None:
        self.name = name
        self.path = path
        self.classes = listed if listed is not None else KNOWN.get(name)
        self._words = spellings(self.classes) if self.classes else {}
        for c in listed or ():
            self._words[normalised(c.name)] = c  # a name goes before another class's glyph

    def find(self, word: str) -> GlyphClass | None:
        """The class that `word` means; `numerals_0`, a group's folder and one in it, is found too."""
        key = normalised(word)
        if key in self._words or self.path:  # a user's own names are taken letter by letter
            return self._words.get(key)
        key = key.casefold()
        if key in self._words:
            return self._words[key]
        first, _, last = key.partition("_")
        group = _GROUPS.get(first)
        if group is None:
            return None
        inside = self._words.get(normalised(f"{group}_{last}")) or self._words.get(last)
        return inside if inside and inside.is_digit == (group == "digit") else None

    def classes_of(
        self, words: Sequence[str], glyphs: Sequence[str] | None = None, numbered: bool = False
    ) -> tuple[tuple[GlyphClass, ...], Labels]:
        """The classes that `words` stand for, in label order, and the label of each word, int64 [len(words)].

        `numbered` says that the words are label numbers, which count in the dataset's own order. Raises UsageError for
        a word that is no class.
        """
        self._check(words)
        if self.classes is None:
            pairs = zip(words, glyphs or words, strict=True)
            return tuple(GlyphClass(i, word, glyph) for i, (word, glyph) in enumerate(pairs)), np.arange(len(words))
        known = KNOWN.get(self.name)
        by_number = known if numbered and not self.path else None
        found = [self._by_number(word, by_number) if by_number else self._by_name(word) for word in words]
        order = list(self.classes)
        if self.path and known:  # the file says which of the classes we know each word stands for
            found, order = [self._known_class(c, known) for c in found], list(known)
        labels = [order.index(c) for c in found]
        present = sorted(set(labels))
        classes = tuple(GlyphClass(i, order[label].name, order[label].glyph) for i, label in enumerate(present))
        return classes, np.array([present.index(label) for label in labels], np.int64)

    def _check(self, words: Sequence[str]) -> None:
        if len(words) > MAX_CLASSES:
            problem = f"{len(words):,} different labels such as `{words[0][:40]}` are too many for classes"
            remedy = "say where the classes stand with label_column or class_folder."
            raise UsageError(f"data.{self.name}: {problem}; {remedy}")
        for word in words:
            if len(word) > _MAX_NAME or one_line(word) != word:
                problem = "is no class name, for it is too long or holds control characters; rename it."
                raise UsageError(f"data.{self.name}: `{word[:_MAX_NAME]}` {problem}")

    def _by_name(self, word: str) -> GlyphClass:
        found = self.find(word)
        if found is not None:
            return found
        hint = suggestion(word, self.classes or ())
        if self.path:
            problem = f"is not among the names in {self.path}; add a row for it ({hint})."
            raise UsageError(f"data.{self.name}: `{word}` {problem}")
        number = " or say in a classes_csv what each number stands for" if word.isdecimal() else ""
        remedy = f"rename it ({hint}){number}, leave it out with data.{self.name}.files, or rename the dataset."
        raise UsageError(f"data.{self.name}: `{word}` is no class of this dataset; {remedy}")

    def _by_number(self, word: str, known: Sequence[GlyphClass]) -> GlyphClass:
        number = int(word)
        if not 0 <= number < len(known):
            problem = f"are outside 0..{len(known) - 1}; correct them or give a classes_csv."
            raise UsageError(f"data.{self.name}: labels such as {number} {problem}")
        return known[number]

    def _known_class(self, listed: GlyphClass, known: Sequence[GlyphClass]) -> GlyphClass:
        words = spellings(known)
        found = words.get(normalised(listed.glyph)) or words.get(normalised(listed.name))
        if found is None:
            raise UsageError(
                f"data.{self.name}: `{listed.glyph}` in {self.path} is no class of this dataset "
                f"({suggestion(listed.glyph, known)}); correct it, or give the dataset another name."
            )
        return found


def read_classes(content: bytes, path: Path | str) -> tuple[GlyphClass, ...]:
    """The rows of a classes.csv at `path`, in their order.

    It has columns for `name` and `glyph`, between commas, semicolons or tabs, in UTF-8. Raises UsageError, naming the
    line, for a missing column, an empty cell, or a name or glyph that stands twice.
    """
    rows = _rows(content, path)
    if not rows:
        raise UsageError(f"{path} is empty; give it the columns `name` and `glyph` and one row per class.")
    columns = {kind: _column(rows[0][1], kind, path) for kind in ("name", "glyph")}
    seen: dict[tuple[str, str], int] = {}
    for line, row in rows[1:]:
        for kind, column in columns.items():
            cell = row[column] if column < len(row) else ""
            if not cell:
                raise UsageError(f"{path}: the {kind} in line {line} is empty; fill it in or remove the line.")
            if len(cell) > _MAX_NAME or one_line(cell) != cell:
                problem = "is too long or holds control characters; correct it."
                raise UsageError(f"{path}: the {kind} in line {line} {problem}")
            first = seen.setdefault((kind, normalised(cell) if kind == "name" else cell), line)
            if first != line:
                problem = f"stands in line {first} and again in line {line}; give each class its own."
                raise UsageError(f"{path}: the {kind} `{cell}` {problem}")
    if not 2 <= len(rows) <= MAX_CLASSES + 1:
        bound = f"give it one row per class, at most {MAX_CLASSES:,}."
        raise UsageError(f"{path} holds {len(rows) - 1:,} classes; {bound}")
    return tuple(GlyphClass(i, row[columns["name"]], row[columns["glyph"]]) for i, (_, row) in enumerate(rows[1:]))


def _rows(content: bytes, path: Path | str) -> list[tuple[int, list[str]]]:
    """The lines of a CSV that are not blank, with their numbers; cells are stripped and in Unicode's composed form."""
    if len(content) > _MAX_BYTES:
        bound = "give it one row per class, with the columns `name` and `glyph`."
        raise UsageError(f"{path} is larger than {_MAX_BYTES >> 20} MB; {bound}")
    try:
        text = content.decode("utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [(reader.line_num, [unicodedata.normalize("NFC", cell.strip()) for cell in row]) for row in reader]
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not in UTF-8; save it as CSV UTF-8.") from None
    except csv.Error as error:
        remedy = "save it again with the columns `name` and `glyph`."
        raise UsageError(f"{path} is no readable CSV ({reason(error)}); {remedy}") from None
    return [(line, row) for line, row in rows if any(row)]


def _column(header: Sequence[str], kind: str, path: Path | str) -> int:
    words = [re.sub(r"[\s-]+", "_", cell.lower()) for cell in header]
    for candidate in _COLUMNS[kind]:
        if candidate in words:
            return words.index(candidate)
    found = ", ".join(header)[:200]
    raise UsageError(f"{path} has no column `{kind}` (found: {found}); name its columns `name` and `glyph`.")
