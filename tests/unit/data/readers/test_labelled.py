"""Images in one folder get their classes from a table beside them, or from their own names; never one for all."""

import json
from pathlib import Path
from typing import Any

import pytest
from sources import data, glyphs, pixel_header, pixel_rows, refused, table, write_tree

from lekhani.data.layouts import read_raw

NAMES = [f"{i:04}.png" for i in range(12)]
LABELS = ["7", "3", "0"] * 4


def save(folder: Path, rows: Any, header: Any = None, file: str = "labels.csv", delimiter: str = ",") -> None:
    write_tree(folder, file, content=table(rows, header, delimiter))


def labels_of(folder: Path, **keys: Any) -> dict[str, str]:
    raw = read_raw(folder, "own", data(**keys))
    return dict(zip([member.rpartition("/")[2] for member in raw.members], glyphs(raw), strict=True))


EXPECTED = dict(zip(NAMES, LABELS, strict=True))


@pytest.mark.parametrize("folder", ["images", "train/images", ""])
@pytest.mark.parametrize("header", [["filename", "digit"], ["Bild", "Klasse"], ["image_id", "label"], None])
@pytest.mark.parametrize(
    "shape", ["{0}.png", "{0}", "{0}.jpg", "images/{0}.png", ".\\images\\{0}.png", "/home/me/images/{0}.png"]
)
def test_names_and_columns(tmp_path: Path, folder: str, header: list[str] | None, shape: str) -> None:
    write_tree(tmp_path / folder, *NAMES)
    shape = shape if folder else shape.replace("images/", "").replace("images\\", "")
    save(tmp_path, [[shape.format(name[:-4]), label] for name, label in EXPECTED.items()], header)
    assert labels_of(tmp_path) == EXPECTED


@pytest.mark.parametrize(("file", "delimiter"), [("a.tsv", "\t"), ("gt.txt", " "), ("labels", ";"), ("x.csv", "|")])
def test_tables_of_other_forms(tmp_path: Path, file: str, delimiter: str) -> None:
    write_tree(tmp_path, *(f"all/{name}" for name in NAMES), "README.md", content=None)
    write_tree(tmp_path, "README.md", content=b"Letters, 0000.png and others,\nby hand\n")
    save(tmp_path, EXPECTED.items(), None, file, delimiter)
    assert labels_of(tmp_path) == EXPECTED


def test_a_letter_called_as_an_ending(tmp_path: Path) -> None:
    """UCI calls train and test sets .tra and .tes; tra is also a letter."""
    write_tree(tmp_path, "tra/1.png", "tes/2.png", "character_35_tra/3.png")
    save(tmp_path, [["1.png", "a"], ["2.png", "b"], ["3.png", "a"]], ["file", "label"])
    assert list(read_raw(tmp_path, "own", data(files="*.csv")).splits) == ["", "", ""]
    assert len(read_raw(tmp_path, "own", data(files="*/*.png")).classes) == 3


def test_lines_of_json(tmp_path: Path) -> None:
    write_tree(tmp_path, *(f"train/{name}" for name in NAMES))
    lines = (json.dumps({"file_name": name, "label": int(label)}) for name, label in EXPECTED.items())
    write_tree(tmp_path, "train/metadata.jsonl", content="\n".join(lines).encode())
    assert labels_of(tmp_path) == EXPECTED


def test_other_folders_are_other_images(tmp_path: Path) -> None:
    write_tree(tmp_path, *(f"test/{name}" for name in NAMES), "train/x.png")
    save(tmp_path, [[f"train/{name}", label] for name, label in [*EXPECTED.items(), ("x.png", "3")]], ["path", "label"])
    raw = read_raw(tmp_path, "own", data(files="labels.csv"))
    assert list(raw.members) == ["train/x.png"]


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_a_table_in_another_encoding(tmp_path: Path, encoding: str) -> None:
    """It is not passed over where nothing else tells the classes."""
    write_tree(tmp_path, *(f"images/{name}" for name in NAMES))
    lines = "\n".join(f"{name},{'äöü'[i % 3]}" for i, name in enumerate(NAMES))
    write_tree(tmp_path, "labels.csv", content=lines.encode(encoding))
    refused(tmp_path, "own", "labels.csv is not in UTF-8; save it as CSV UTF-8")
    if encoding == "cp1252":
        (tmp_path / "images").rename(tmp_path / "a")
        write_tree(tmp_path, "b/x.png")
        assert len(read_raw(tmp_path, "own").classes) == 2


def test_what_the_table_and_the_folder_miss_is_said(tmp_path: Path) -> None:
    write_tree(tmp_path, *(f"images/{name}" for name in NAMES))
    rows = [[name, label] for name, label in EXPECTED.items()][:10]
    save(tmp_path, [*rows, ["gone.png", "3"], ["", "3"]], ["file", "label"])
    raw = read_raw(tmp_path, "own")
    assert len(raw.images) == 10
    assert "Labels of 10 images come from column `label` of labels.csv." in raw.notes
    assert any("Files that the tables name and that are not there: 2 (gone.png" in note for note in raw.notes)
    left_out = "Images that no table names were left out: 2 (images/0010.png, images/0011.png)."
    assert left_out in raw.notes


def test_several_columns(tmp_path: Path) -> None:
    write_tree(tmp_path, *(f"images/{name}" for name in NAMES))
    rows = [[name, label, f"w{i % 2}", i * 1.5] for i, (name, label) in enumerate(EXPECTED.items())]
    save(tmp_path, rows, ["file", "Zeichen", "writer", "slant"])
    refused(
        tmp_path, "own", r"several columns that may hold the labels, `Zeichen`, `writer`; set data\.own\.label_column"
    )
    assert labels_of(tmp_path, label_column="zeichen") == EXPECTED
    assert set(labels_of(tmp_path, label_column="writer").values()) == {"w0", "w1"}
    refused(tmp_path, "own", "has no column `nope`; there are: `Zeichen`, `writer`, `slant`", label_column="nope")
    save(tmp_path, rows, ["file", "label", "writer", "slant"])
    assert labels_of(tmp_path) == EXPECTED


def test_the_split_of_folders_columns_and_tables(tmp_path: Path) -> None:
    """As Hugging Face's metadata.csv in each split, with files of one name in both."""
    for split, labels in (("train", ["a", "b"]), ("test", ["b", "a"])):
        write_tree(tmp_path, f"{split}/1.png", f"{split}/2.png")
        save(tmp_path, zip(["1.png", "2.png"], labels, strict=True), ["file_name", "text"], f"{split}/metadata.csv")
    raw = read_raw(tmp_path, "own", data(label_column="text"))
    found = dict(zip(raw.members, zip(glyphs(raw), raw.splits, strict=True), strict=True))
    assert found["train/2.png"] == ("b", "train")
    assert found["test/2.png"] == ("a", "test")
    other = tmp_path / "other"
    write_tree(other, *(f"images/{name}" for name in NAMES))
    rows = [[name, label, "Test" if i > 8 else "train"] for i, (name, label) in enumerate(EXPECTED.items())]
    save(other, rows, ["id", "character", "subset"])
    assert list(read_raw(other, "own").splits).count("test") == 3


@pytest.mark.parametrize(
    ("rows", "pattern"),
    [
        ([["1.png", "a"], ["1.png", "b"]], "labels.csv, line 3 gives x/1.png two labels, `a` and `b`; keep one"),
        ([["1.png", "a"], ["2.png", ""], ["3.png", "b"]], "line 3 has no label in column `label`; fill it in"),
        (
            [["1.png", "a"], ["2.png", "b"], ["twice.png", "b"]],
            "names `twice.png`, which fits x/twice.png, y/twice.png",
        ),
        ([["1.png", "0.37"], ["2.png", "0.5"]], "has no column that looks like labels .there are: `label`."),
    ],
)
def test_faults(tmp_path: Path, rows: Any, pattern: str) -> None:
    write_tree(tmp_path, "x/1.png", "x/2.png", "x/3.png", "x/twice.png", "y/twice.png")
    save(tmp_path, rows, ["file", "label"])
    if "looks like" in pattern:
        write_tree(tmp_path, *("z.png",))
        refused(tmp_path, "own", pattern)
    else:
        refused(tmp_path, "own", pattern, label_column="label")


def test_a_competition_asks_which_table(tmp_path: Path) -> None:
    """train.csv beside sample_submission.csv, whose labels are placeholders."""
    write_tree(tmp_path, *(f"train/{name}" for name in NAMES), "test/a.png", "test/b.png")
    save(tmp_path, [[name[:-4], label] for name, label in EXPECTED.items()], ["id", "label"], "train.csv")
    save(tmp_path, [["a", "0"], ["b", "1"]], ["id", "label"], "sample_submission.csv")
    files = "such as sample_submission.csv, train.csv; name those to read in data.own.files, such as"
    refused(tmp_path, "own", f"holds files of 2 datasets, {files}")
    assert labels_of(tmp_path, files="train.csv") == EXPECTED
    raw = read_raw(tmp_path, "own", data(files="*.csv"))
    assert (len(raw.images), raw.splits.count("test")) == (14, 2)
    assert any("Files of 2 datasets were joined" in note for note in raw.notes)


def test_a_table_beside_class_folders(tmp_path: Path) -> None:
    write_tree(tmp_path, *(f"{label}/{name}" for name, label in EXPECTED.items()))
    save(tmp_path, [[name, f"c{label}"] for name, label in EXPECTED.items()], ["file", "label"])
    raw = read_raw(tmp_path, "own")
    assert set(glyphs(raw)) == {"0", "3", "7"}
    assert any("labels.csv groups the images as their folders do" in note for note in raw.notes)
    save(tmp_path, [[name, "ab"[i % 2]] for i, name in enumerate(EXPECTED)], ["file", "label"])
    refused(tmp_path, "own", r"labels.csv gives the images other labels than their folders do; name the table or the")
    assert set(labels_of(tmp_path, files="labels.csv").values()) == {"a", "b"}
    assert labels_of(tmp_path, files="?/**") == EXPECTED
    save(tmp_path, [[name, i % 2, i % 3] for i, name in enumerate(EXPECTED)], ["file", "age", "school"])
    raw = read_raw(tmp_path, "own")
    assert "Left out: 1 text or table without pixels or labels (labels.csv)." in raw.notes


def test_folders_that_are_called_as_their_tables(tmp_path: Path) -> None:
    """As NumtaDB: training-a.csv is about the images in training-a."""
    header = ["filename", "original filename", "scanid", "digit", "contributing team"]
    for part in "ab":
        rows = [[f"{part}{name}", f"s {name}", i % 5, LABELS[i], "us"] for i, name in enumerate(NAMES)]
        write_tree(tmp_path, *(f"training-{part}/{row[0]}" for row in rows), f"testing-{part}/t{part}.png")
        save(tmp_path, rows, header, f"training-{part}.csv")
    refused(tmp_path, "own", "holds files of 2 datasets, such as training-a.csv, training-b.csv; name those to read")
    assert len(labels_of(tmp_path, files="training-*")) == 24
    assert set(labels_of(tmp_path, files="training-b.csv").values()) == {"0", "3", "7"}


def test_a_list_of_classes_is_no_table_of_labels(tmp_path: Path) -> None:
    """Its numbers are names of files in every class folder."""
    write_tree(tmp_path, *(f"{folder}/{i}.png" for folder in ("ka", "kha", "ga") for i in range(5)))
    save(tmp_path, [["1", "ka"], ["2", "kha"], ["3", "ga"]], ["id", "name"])
    assert set(glyphs(read_raw(tmp_path, "own"))) == {"ka", "kha", "ga"}
    other = tmp_path / "other"
    names = [f"{folder}/{folder}{i}.png" for folder in ("ka", "kha") for i in range(8)]
    write_tree(other, *names, "ka/1.png", "ka/2.png")
    save(other, [["1", "ka"], ["2", "kha"]], ["id", "name"])
    assert len(read_raw(other, "own").images) == 18


def test_folders_that_are_no_known_classes(tmp_path: Path) -> None:
    write_tree(tmp_path, *(f"part{i % 2}/{name}" for i, name in enumerate(NAMES)))
    save(tmp_path, EXPECTED.items(), ["file", "digit"])
    assert glyphs(read_raw(tmp_path, "mnist")) == sorted(LABELS)
    refused(tmp_path, "own", "labels.csv gives the images other labels than their folders do")


def test_numbers_are_not_taken_for_names(tmp_path: Path) -> None:
    """A text per image, as boxes of objects are saved."""
    for i in range(20):
        write_tree(tmp_path, f"{'ab'[i % 2]}/{i}.png")
        write_tree(tmp_path, f"{'ab'[i % 2]}/{i}.txt", content=f"{i % 3} 0.5 0.5 1 1\n".encode())
    raw = read_raw(tmp_path, "own")
    assert len(raw.classes) == 2
    assert any("Left out: 20 texts and tables without pixels or labels" in note for note in raw.notes)


def test_a_table_of_pixels_goes_before(tmp_path: Path) -> None:
    save(tmp_path, pixel_rows(["a", "b"]), [*pixel_header(), "label"], "data.csv")
    save(tmp_path, [["a", "b"]], ["id", "label"], "other.csv")
    raw = read_raw(tmp_path, "own")
    assert "Left out: 1 text or table without pixels or labels (other.csv)." in raw.notes


# --- labels in names ---

IN_NAMES = {
    "7_0012.png 7_0013.png 3_0001.png 3_2.png": ("prefix", "prefix"),
    "img-1-ka.png img-2-ka.png img-3-kha.png img-4-kha.png": ("suffix", "suffix"),
    "w1c07.png w2c07.png w1c3.png w3c3.png": (r"c(\d+)", ""),
}


@pytest.mark.parametrize("folder", ["", "images", "train test"])
@pytest.mark.parametrize("names", IN_NAMES)
def test_labels_in_names(tmp_path: Path, names: str, folder: str) -> None:
    rule, suggested = IN_NAMES[names]
    for part in folder.split() or [""]:
        write_tree(tmp_path / part, *names.split())
    if not folder or " " in folder:
        hint = rf" \({suggested} finds 2: .*\)" if suggested else ""
        key = rf"or set data\.own\.label_in_name where the names of files hold the labels{hint}\."
        refused(tmp_path, "own", f"lie in no class folders, and no table names them; .* {key}")
    raw = read_raw(tmp_path, "own", data(label_in_name=rule))
    assert len(raw.classes) == 2
    assert raw.splits.count("test") == (4 if " " in folder else 0)
    assert any(note.startswith(f"Labels come from file names ({rule}), such as") for note in raw.notes)


def test_a_rule_that_finds_nothing(tmp_path: Path) -> None:
    write_tree(tmp_path, "7_1.png", "other.png")
    refused(
        tmp_path, "own", r"label_in_name: prefix finds no label in other.png of .*; correct it", label_in_name="prefix"
    )


def test_a_rule_must_be_a_pattern() -> None:
    with pytest.raises(ValueError, match=r"is no regular expression .*; give prefix, suffix, or one"):
        data(label_in_name="c(")
