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
_LONGEST = 200  # letters of a class name
_MOST_BYTES = 4 << 20  # of a classes.csv
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


def one_line(sentence: str) -> str:
    """`sentence` with control characters and halves of letters escaped, and its middle left out where it is very long."""
    if not sentence.isprintable():
        sentence = "".join(
            c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape").decode() for c in sentence
        )
    return sentence if len(sentence) <= 1000 else f"{sentence[:600]} ... {sentence[-300:]}"


def reason(error: BaseException) -> str:
    """What another library says went wrong, to stand inside a sentence."""
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__


def plain(word: str) -> str:
    """`word` as `spellings` keys it: composed as Unicode wants it, and `character_01_ka` without the zero."""
    return re.sub(r"_0+(?=\d)", "_", unicodedata.normalize("NFC", word.strip()))


def spellings(classes: Sequence[GlyphClass]) -> dict[str, GlyphClass]:
    """Every word that means one of `classes`: glyph and name first, then DHCD's `ka` and `character_1`, `0` and `digit_0` for a digit."""
    words = {plain(word): c for c in classes for word in (c.glyph, c.name)}
    for c in classes:
        match = re.fullmatch(r"(character_\d+)_(\w+)", c.name)
        digit = str(int(c.glyph)) if c.is_digit and len(c.glyph) < 10 else None
        for word in (match.groups() if match else ()) + ((digit, f"digit_{digit}") if digit else ()):
            words.setdefault(word, c)
    return words


def nearest(word: str, classes: Sequence[GlyphClass]) -> str:
    """A hint about the unknown class `word`: the nearest valid one, or the first few."""
    words = spellings(classes)
    close = difflib.get_close_matches(plain(word)[:_LONGEST], list(words), n=1)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"valid are {', '.join(c.name for c in classes[:4])}{' and so on' if len(classes) > 4 else ''}"


def natural(word: str) -> tuple[list[tuple[bool, int, str]], str]:
    """A key that sorts 2 before 10, and numbers before letters."""
    parts = [part for part in re.split(r"(\d+)", word) if part]
    return [(False, int(part), "") if part.isdecimal() and len(part) < 100 else (True, 0, part) for part in parts], word


def split_word(word: str) -> str:
    """`train`, `test` or `val` when a folder's name is a word for one of these, else nothing."""
    return _SPLIT_WORDS.get(re.sub(r"[\s_-]+", "", word.lower()), "")


def split_in(path: str) -> str:
    """The split that a file's name tells, such as `mnist_train.csv`, or else the folder that it lies in."""
    for part in (*reversed(path.split("/")), ""):
        kinds = {_SPLIT_WORDS[word] for word in re.split(r"[^a-z0-9]+", part.lower()) if word in _SPLIT_WORDS}
        if len(kinds) == 1:
            return kinds.pop()
    return ""


class Vocabulary:
    """The words that mean a class of dataset `name`: those of a dataset we know, or `listed` in the user's own classes.csv.

    Without either, every word is a class of its own.
    """

    def __init__(self, name: str, listed: Sequence[GlyphClass] | None = None, where: str = "") -> None:
        self.name = name
        self.where = where  # the classes.csv
        self.classes = listed if listed is not None else KNOWN.get(name)
        self._words = spellings(self.classes) if self.classes else {}
        for c in listed or ():
            self._words[plain(c.name)] = c  # a name goes before another class's glyph

    @property
    def open(self) -> bool:
        """True when any word may name a class."""
        return self.classes is None

    def find(self, word: str) -> GlyphClass | None:
        """The class that `word` means; of a group's folder and one in it, joined by _, such as `numerals_0`, too."""
        key = plain(word)
        if key in self._words or self.where:  # a user's own names are taken letter by letter
            return self._words.get(key)
        key = key.casefold()
        if key in self._words:
            return self._words[key]
        first, _, last = key.partition("_")
        group = _GROUPS.get(first)
        if group is None:
            return None
        inside = self._words.get(plain(f"{group}_{last}")) or self._words.get(last)
        return inside if inside and inside.is_digit == (group == "digit") else None

    def classes_of(
        self, words: Sequence[str], glyphs: Sequence[str] | None = None, numbered: bool = False
    ) -> tuple[tuple[GlyphClass, ...], Labels]:
        """The classes that `words` stand for, in label order, and for each word the label it gets, int64 [len(words)].

        `numbered` says that the words are label numbers, which count in the dataset's own order. Raises UsageError for a
        word that is no class.
        """
        self._check(words)
        if self.classes is None:
            pairs = zip(words, glyphs or words, strict=True)
            return tuple(GlyphClass(i, word, glyph) for i, (word, glyph) in enumerate(pairs)), np.arange(len(words))
        known = KNOWN.get(self.name)
        found = [
            self._numbered(word, known) if numbered and known and not self.where else self._named(word)
            for word in words
        ]
        order = list(self.classes)
        if self.where and known:  # the file says which of the classes we know each word stands for
            found, order = [self._translated(c, known) for c in found], list(known)
        labels = [order.index(c) for c in found]
        present = sorted(set(labels))
        classes = tuple(GlyphClass(i, order[label].name, order[label].glyph) for i, label in enumerate(present))
        return classes, np.array([present.index(label) for label in labels], np.int64)

    def _check(self, words: Sequence[str]) -> None:
        if len(words) > MAX_CLASSES:
            raise UsageError(
                f"data.{self.name}: {len(words):,} different labels such as `{words[0][:40]}` are too many for classes; "
                "say where the classes stand with label_column or class_folder."
            )
        for word in words:
            if len(word) > _LONGEST or one_line(word) != word:
                raise UsageError(
                    f"data.{self.name}: `{word[:_LONGEST]}` is no class name, for it is too long or holds control characters; rename it."
                )

    def _named(self, word: str) -> GlyphClass:
        found = self.find(word)
        if found is not None:
            return found
        classes = self.classes or ()
        if self.where:
            raise UsageError(
                f"data.{self.name}: `{word}` is not among the names in {self.where}; add a row for it ({nearest(word, classes)})."
            )
        number = " or say in a classes_csv what each number stands for" if word.isdecimal() else ""
        raise UsageError(
            f"data.{self.name}: `{word}` is no class of this dataset; rename it ({nearest(word, classes)}){number},"
            f" leave it out with data.{self.name}.files, or rename the dataset."
        )

    def _numbered(self, word: str, known: Sequence[GlyphClass]) -> GlyphClass:
        number = int(word)
        if not 0 <= number < len(known):
            raise UsageError(
                f"data.{self.name}: labels such as {number} are outside 0..{len(known) - 1}; correct them or give a classes_csv."
            )
        return known[number]

    def _translated(self, listed: GlyphClass, known: Sequence[GlyphClass]) -> GlyphClass:
        words = spellings(known)
        found = words.get(plain(listed.glyph)) or words.get(plain(listed.name))
        if found is None:
            raise UsageError(
                f"data.{self.name}: `{listed.glyph}` in {self.where} is no class of this dataset ({nearest(listed.glyph, known)}); "
                "correct it, or give the dataset another name."
            )
        return found


def read_classes(content: bytes, where: Path | str) -> tuple[GlyphClass, ...]:
    """The rows of a classes.csv, in their order: columns for `name` and `glyph`, between commas, semicolons or tabs, in UTF-8.

    Raises UsageError, naming the line, for a missing column, an empty cell, or a name or glyph that stands twice.
    """
    text = _text(content, where)
    header = text.partition("\n")[0]
    try:
        delimiter = max(",;\t", key=header.count)
        rows = [
            (reader.line_num, row)
            for reader in [csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)]
            for row in reader
        ]
    except csv.Error as error:
        raise UsageError(
            f"{where} is no readable CSV ({reason(error)}); save it again with the columns `name` and `glyph`."
        ) from None
    rows = [(line, [unicodedata.normalize("NFC", cell.strip()) for cell in row]) for line, row in rows]
    rows = [(line, row) for line, row in rows if any(row)]
    if not rows:
        raise UsageError(f"{where} is empty; give it the columns `name` and `glyph` and one row per class.")
    name, glyph = (_column(rows[0][1], kind, where) for kind in ("name", "glyph"))
    seen: dict[str, dict[str, int]] = {"name": {}, "glyph": {}}
    for line, row in rows[1:]:
        for kind, column in (("name", name), ("glyph", glyph)):
            cell = row[column] if column < len(row) else ""
            _check_cell(cell, kind, line, where)
            first = seen[kind].setdefault(plain(cell) if kind == "name" else cell, line)
            if first != line:
                raise UsageError(
                    f"{where}: the {kind} `{cell}` stands in line {first} and again in line {line}; give each class its own."
                )
    if len(rows) - 1 > MAX_CLASSES or len(rows) < 2:
        raise UsageError(
            f"{where} holds {len(rows) - 1:,} classes; give it one row per class, at most {MAX_CLASSES:,}."
        )
    return tuple(GlyphClass(i, row[name], row[glyph]) for i, (_, row) in enumerate(rows[1:]))


def _text(content: bytes, where: Path | str) -> str:
    if len(content) > _MOST_BYTES:
        raise UsageError(
            f"{where} is larger than {_MOST_BYTES >> 20} MB; give it one row per class, with the columns `name` and `glyph`."
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{where} is not in UTF-8; save it as CSV UTF-8.") from None


def _column(header: Sequence[str], kind: str, where: Path | str) -> int:
    words = [re.sub(r"[\s-]+", "_", cell.lower()) for cell in header]
    for candidate in _COLUMNS[kind]:
        if candidate in words:
            return words.index(candidate)
    raise UsageError(
        f"{where} has no column `{kind}` (found: {', '.join(header)[:200]}); name its columns `name` and `glyph`."
    )


def _check_cell(cell: str, kind: str, line: int, where: Path | str) -> None:
    if not cell:
        raise UsageError(f"{where}: the {kind} in line {line} is empty; fill it in or remove the line.")
    if len(cell) > _LONGEST or one_line(cell) != cell:
        raise UsageError(f"{where}: the {kind} in line {line} is too long or holds control characters; correct it.")
