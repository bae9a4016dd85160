"""Class folders, however they are wrapped, split and nested."""

from pathlib import Path

import numpy as np
import pytest
from sources import data, glyph, glyphs, refused, write_tree

from lekhani.data.layouts import read_raw


def test_class_folders(tmp_path: Path) -> None:
    write_tree(tmp_path, "b10/1.png", "b2/1.png", "b2/2.png")
    raw = read_raw(tmp_path, "own")
    assert [(c.label, c.name, c.glyph) for c in raw.classes] == [(0, "b2", "b2"), (1, "b10", "b10")]
    assert raw.labels.tolist() == [0, 0, 1]
    assert raw.labels.dtype == np.int64
    assert list(raw.members) == ["b2/1.png", "b2/2.png", "b10/1.png"]
    assert list(raw.splits) == ["", "", ""]
    np.testing.assert_array_equal(raw.images[0], glyph(201))


@pytest.mark.parametrize("wrapper", ["", "wrapped/", "twice/wrapped/", "train/"])
@pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("TRAIN", "test"), ("training", "testing")])
def test_splits_in_any_case_and_below_a_wrapper(tmp_path: Path, wrapper: str, train: str, test: str) -> None:
    write_tree(tmp_path, f"{wrapper}{train}/a/1.png", f"{wrapper}{test}/a/2.png", f"{wrapper}{train}/b/3.png")
    raw = read_raw(tmp_path, "own")
    assert sorted(zip(raw.labels.tolist(), raw.splits, strict=True)) == [(0, "test"), (0, "train"), (1, "train")]


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        ("a/1.png b/1.png stray.png", "stray.png in .* lies in no class folder; put it into one or remove it"),
        (
            "Train/1.png Test/1.png",
            "the 2 images in .*, such as Test/1.png, lie in no class folders, and no table names them; put those",
        ),
    ],
)
def test_an_image_outside_the_class_folders(tmp_path: Path, names: str, pattern: str) -> None:
    write_tree(tmp_path, *names.split())
    refused(tmp_path, "own", pattern)


def test_an_empty_class_folder(tmp_path: Path) -> None:
    write_tree(tmp_path, "Train/a/1.png", "Test/a/1.png")
    (tmp_path / "Test" / "b").mkdir()
    refused(tmp_path, "own", "class folder Test/b in .* holds no images")


@pytest.mark.parametrize(
    ("folders", "splits"),
    [("train val", "train test"), ("train test valid", "train test train"), ("test validation", "test train")],
)
def test_validation_images(tmp_path: Path, folders: str, splits: str) -> None:
    write_tree(tmp_path, *(f"{folder}/a/{folder}.png" for folder in folders.split()))
    raw = read_raw(tmp_path, "own")
    where = {member.split("/")[0]: split for member, split in zip(raw.members, raw.splits, strict=True)}
    assert where == dict(zip(folders.split(), splits.split(), strict=True))
    assert any("Validation images count as" in note for note in raw.notes)


def test_nested_folders_ask_which_one_names_the_class(tmp_path: Path) -> None:
    write_tree(tmp_path, "Train/a/w1/1.png", "Train/a/w2/1.png", "Test/b/w1/1.png")
    choices = r"`first` gives 2 classes \(a, b\); `last` gives 2 classes \(w1, w2\); `path` gives 3 classes \(a_w1, "
    refused(tmp_path, "own", rf"set data\.own\.class_folder: {choices}")
    for level, found in (("first", "a a b"), ("last", "w1 w1 w2"), ("path", "a_w1 a_w2 b_w1")):
        raw = read_raw(tmp_path, "own", data(class_folder=level))
        assert sorted(glyphs(raw)) == found.split()
        assert raw.splits.count("test") == 1
    write_tree(tmp_path, "Train/c/1.png")  # and at several depths
    refused(tmp_path, "own", "folders nest")
    assert glyphs(read_raw(tmp_path, "own", data(class_folder="first"))) == ["a", "a", "b", "c"]


@pytest.mark.parametrize(
    "names", [("ka/w1/1.png", "ka/w2/1.png", "kha/w1/1.png"), ("w1/ka/1.png", "w2/ka/2.png", "w1/kha/1.png")]
)
def test_known_names_tell_the_level(tmp_path: Path, names: tuple[str, ...]) -> None:
    write_tree(tmp_path, *names)
    assert glyphs(read_raw(tmp_path, "devanagari")) == ["क", "क", "ख"]


def test_numbers_below_groups(tmp_path: Path) -> None:
    """The layout of Kaggle's ashokpant/devanagari-character-dataset-large."""
    write_tree(tmp_path, *(f"nhcd/numerals/{i}/1.jpg" for i in range(10)))
    write_tree(tmp_path, *(f"nhcd/consonants/{i}/1.jpg" for i in range(1, 37)))
    raw = read_raw(tmp_path, "devanagari")
    glyph_of = dict(zip(raw.members, glyphs(raw), strict=True))
    assert len(raw.classes) == 46
    named = [glyph_of[f"nhcd/{folder}/1.jpg"] for folder in ("numerals/3", "consonants/3", "consonants/36")]
    assert named == ["३", "ग", "ज्ञ"]
    write_tree(tmp_path, "nhcd/vowels/1/1.jpg")
    refused(tmp_path, "devanagari", "`vowels_1` is no class of this dataset")
    assert len(read_raw(tmp_path, "devanagari", data(files="nhcd/[cn]*/**")).classes) == 46
