"""Every spelling of a class leads to its glyph; a user's classes.csv is taken at its word."""

from pathlib import Path

import pytest
from sources import glyphs, refused, write_tree

from lekhani.data import names
from lekhani.data.layouts import read_raw
from lekhani.data.spec import DEVANAGARI, GlyphClass
from lekhani.errors import UsageError


def test_spellings_of_devanagari(tmp_path: Path) -> None:
    spellings = {"character_1_ka": 0, "character_01_ka": 0, "character_1": 0, "ka": 0, "क": 0, "character_36_gya": 35}
    spellings |= {"ज्ञ": 35, "digit_0": 36, "0": 36, "०": 36, "digit_9": 45, "9": 45}
    for folder, label in spellings.items():
        write_tree(tmp_path / folder, f"{folder}/1.png")
        (found,) = read_raw(tmp_path / folder, "devanagari").classes
        assert (found.label, found.name, found.glyph) == (0, DEVANAGARI[label].name, DEVANAGARI[label].glyph)


@pytest.mark.parametrize(
    "text",
    [
        "name,glyph\nb,ब\na,क\nc,ग\n",
        "\ufeffFolder;Devanagari;note\r\nb;ब;\r\n\r\na;क;x\r\n",
        "Glyph\tclass\nब\tb\nक\ta\n",
    ],
)
def test_a_class_list_gives_glyphs_and_order(tmp_path: Path, text: str) -> None:
    write_tree(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "Classes.CSV").write_text(text, encoding="utf-8")
    raw = read_raw(tmp_path, "own")
    assert raw.classes == (GlyphClass(0, "b", "ब"), GlyphClass(1, "a", "क"))
    assert dict(zip(raw.members, raw.labels.tolist(), strict=True)) == {"a/1.png": 1, "b/1.png": 0}


def test_a_class_list_for_a_known_dataset_keeps_its_order(tmp_path: Path) -> None:
    write_tree(tmp_path, "11/x.png", "12/x.png")
    (tmp_path / "classes.csv").write_text("name,glyph\n11,०\n12,क\n", encoding="utf-8")
    raw = read_raw(tmp_path, "devanagari")
    assert [c.name for c in raw.classes] == ["character_1_ka", "digit_0"]
    assert dict(zip(raw.members, glyphs(raw), strict=True)) == {"11/x.png": "०", "12/x.png": "क"}


def test_a_folder_that_is_not_listed(tmp_path: Path) -> None:
    write_tree(tmp_path, "kaa/1.png")
    (tmp_path / "classes.csv").write_text("name,glyph\nka,क\n", encoding="utf-8")
    refused(tmp_path, "own", r"`kaa` is not among the names in .*classes.csv; add a row for it \(did you mean `ka`\?\)")
    refused(tmp_path, "devanagari", "`kaa` is not among the names")


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (b"", "is empty"),
        (b"name,glyph\n", "holds 0 classes"),
        (b"name\na\n", r"has no column `glyph` \(found: name\)"),
        (b"name,glyph\na,\n", "the glyph in line 2 is empty"),
        (b"name,glyph\na,x\na,y\n", "the name `a` stands in line 2 and again in line 3"),
        (b"name,glyph\na,x\nb,x\n", "the glyph `x` stands in line 2 and again in line 3"),
        (b"name,glyph\na\x07,x\n", "the name in line 2 is too long or holds control characters"),
        (b"name,glyph\na,\xff\n", "is not in UTF-8"),
        ("name,glyph\na,क\n".encode("utf-16"), "is not in UTF-8"),
        (b'name,glyph\na,"' + b"x" * 200_000, "is no readable CSV"),
        (b"name,glyph\n" + b"\n" * (5 << 20), "is larger than 4 MB"),
    ],
)
def test_a_class_list_with_a_fault(content: bytes, pattern: str) -> None:
    with pytest.raises(UsageError, match=pattern) as caught:
        names.read_classes(content, "raw/classes.csv")
    assert str(caught.value).startswith("raw/classes.csv")


def test_folders_and_lists_that_are_refused(tmp_path: Path) -> None:
    for at, name in enumerate(("a\nb", "a\x1bb", "x" * 201)):
        write_tree(tmp_path / str(at), f"{name}/1.png", "b/1.png")
        refused(tmp_path / str(at), "own", "is no class name, for it is too long or holds control characters")
    write_tree(tmp_path / "two", "x/a/1.png", "x/b/1.png")
    write_tree(tmp_path / "two", "x/classes.csv", "y/classes.csv", content=b"name,glyph\na,b\n")
    refused(tmp_path / "two", "own", "holds x/classes.csv and y/classes.csv; keep one")
    write_tree(tmp_path / "numbers", "10/1.png")
    refused(tmp_path / "numbers", "devanagari", "`10` is no class .* or say in a classes_csv what each number stands")


def test_a_sentence_stays_on_its_line() -> None:
    assert names.one_line("a\nb\x1b[0m क्\u200dष \udcff") == r"a\nb\x1b[0m क्" + "\u200dष " + r"\udcff"
    assert len(names.one_line("x" * 5000)) < 1000


def test_too_many_classes_are_none() -> None:
    with pytest.raises(UsageError, match="10,001 different labels such as `0` are too many"):
        names.Vocabulary("own").classes_of([str(i) for i in range(10_001)])
