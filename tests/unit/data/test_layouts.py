"""Whatever lies in the folder, looking tells how to read it; where it cannot, a sentence names the key that does."""

from pathlib import Path

import numpy as np
import pytest
from sources import data, encoded, glyph, glyphs, npz, pixel_header, pixel_rows, refused, table, write_tree, zipped

from lekhani.data.layouts import read_raw

CLASSES = ["character_1_ka", "digit_0", "character_1_ka"]
TABLES = {
    "data.csv": table(pixel_rows(CLASSES), [*pixel_header(), "character"]),
    "own.npz": npz(images=np.stack([glyph()] * 3), labels=np.array(CLASSES)),
}
PICTURES = {f"Images/Images/{name}.png": encoded(glyph()) for name in ("character_01_ka/1", "ka/2", "digit_0/1")}


def save(folder: Path, members: dict[str, bytes]) -> None:
    for name, content in members.items():
        write_tree(folder, name, content=content)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", list(TABLES))
def test_the_table_is_read_where_images_repeat_it(tmp_path: Path, kind: str, packed: bool) -> None:
    """As in Kaggle's rishianand/devanagari-character-set."""
    members = {kind: TABLES[kind], **PICTURES}
    save(tmp_path, {"archive.zip": zipped(members)} if packed else members)
    raw = read_raw(tmp_path, "devanagari")
    assert sorted(glyphs(raw)) == ["क", "क", "०"]
    assert raw.members[0].startswith(kind)
    assert "3 image files hold the same number per class and were left out." in raw.notes


@pytest.mark.parametrize("kind", list(TABLES))
def test_a_table_and_images_that_differ(tmp_path: Path, kind: str) -> None:
    save(tmp_path, {kind: TABLES[kind], **PICTURES, "Images/Images/digit_0/7.png": encoded(glyph())})
    remedy = r"name the files to read in data\.devanagari\.files"
    refused(tmp_path, "devanagari", rf"holds both {kind} and images such as .*png, and they differ; {remedy}")
    assert len(read_raw(tmp_path, "devanagari", data(files="Images/**")).images) == 4
    assert len(read_raw(tmp_path, "devanagari", data(files=kind)).images) == 3
    save(tmp_path, TABLES)
    refused(tmp_path, "devanagari", "holds both own.npz and data.csv; name the files to read")


def test_images_that_tell_a_split_go_before_a_table_that_does_not(tmp_path: Path) -> None:
    pictures = {f"x/{name}/1.png": encoded(glyph()) for name in ("Train/ka", "Test/ka", "Train/0")}
    save(tmp_path, {"data.csv": TABLES["data.csv"], **pictures})
    raw = read_raw(tmp_path, "devanagari")
    assert sorted(raw.splits) == ["test", "train", "train"]
    assert any(note.startswith("data.csv holds as many images") for note in raw.notes)


# --- data.D.files ---


@pytest.mark.parametrize("packed", [False, True])
def test_patterns(tmp_path: Path, packed: bool) -> None:
    members = {f"wrap/{name}.png": encoded(glyph()) for name in ("one/a/1", "two/a/1", "two/b/1")}
    save(tmp_path, {"x.zip": zipped(members)} if packed else members | {"source.json": b"{}"})
    counts = {
        "one/**": 1,
        "one": 1,
        "wrap/one/**": 1,
        "**/*.png": 3,
        "two/?/*.png": 2,
        "t[vw]o/a/**": 1,
        "*/a/1.png": 2,
    }
    for pattern, count in {**counts, "**": 3}.items():
        assert len(read_raw(tmp_path, "own", data(files=pattern, class_folder="last")).images) == count, pattern
    refused(
        tmp_path, "own", r"data\.own\.files: no file in .* matches \(\*; there are: .*wrap/one/a/1.png,", files="(*"
    )
    refused(tmp_path, "own", r"The pattern a\*\*b for files is wrong: put a / before and after each \*\*", files="a**b")


@pytest.mark.parametrize("beside", ["b.zip", "a/1.png"])
def test_an_archive_stands_alone_or_is_named(tmp_path: Path, beside: str) -> None:
    save(tmp_path, {"a.zip": zipped({"x/1.png": encoded(glyph()), "y/1.png": encoded(glyph())})})
    write_tree(tmp_path, beside)
    refused(tmp_path, "own", "holds a.zip and other data beside it")
    assert glyphs(read_raw(tmp_path, "own", data(files="a.zip"))) == ["x", "y"]


def test_a_class_list_outside_the_archive(tmp_path: Path) -> None:
    inside = {"x/1.png": encoded(glyph()), "y/1.png": encoded(glyph()), "classes.csv": b"not,this\none,x\n"}
    save(tmp_path, {"a.zip": zipped(inside), "classes.csv": "name,glyph\nx,क\ny,ख\n".encode()})
    assert glyphs(read_raw(tmp_path, "own")) == ["क", "ख"]
