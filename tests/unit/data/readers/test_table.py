"""Tables of pixels: the label stands anywhere, the pixels have any names, and a bad cell is named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sources import data, glyph, glyphs, gzipped, pixel_header, pixel_rows, refused, table, write_tree

from lekhani.data.layouts import read_raw
from lekhani.data.readers import table as tables

LABELS = ["ka", "kha", "ka", "digit_0"]
GLYPHS = ["क", "ख", "क", "०"]
HEADER = [*pixel_header(), "label"]
ONE = table(pixel_rows(["a"]), HEADER)


def save(folder: Path, content: bytes, name: str = "data.csv") -> None:
    write_tree(folder, name, content=content)


@pytest.mark.parametrize("pixel", ["pixel_{:04d}", "pixel{}", "px_{}", "{}", "Pixel {}"])
@pytest.mark.parametrize("label", ["label", "Klasse"])
def test_names_of_columns(tmp_path: Path, pixel: str, label: str) -> None:
    save(tmp_path, table(pixel_rows(LABELS), [*pixel_header(6, pixel), label]))
    raw = read_raw(tmp_path, "devanagari")
    assert glyphs(raw) == GLYPHS
    assert list(raw.members) == ["data.csv:2", "data.csv:3", "data.csv:4", "data.csv:5"]
    assert "Read 4 rows of data.csv." in raw.notes
    np.testing.assert_array_equal(raw.images[2], glyph(132, 6))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_label_may_come_first_and_pixels_by_row_and_column(tmp_path: Path, delimiter: str) -> None:
    header = ["label", *(f"{row}x{column}" for row in range(1, 7) for column in range(1, 7))]
    rows = [[i, row[-1], *row[:-1]] for i, row in enumerate(pixel_rows(LABELS))]
    save(tmp_path, table(rows, ["Unnamed: 0", *header], delimiter))
    raw = read_raw(tmp_path, "devanagari")
    assert any("were ignored: `Unnamed: 0`." in note for note in raw.notes)
    assert glyphs(raw) == GLYPHS
    np.testing.assert_array_equal(raw.images[0], glyph(130, 6))


def test_pixels_are_put_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    rows = pixel_rows(["a"])
    rows[0][7] = 9
    save(tmp_path, table([row[::-1] for row in rows], HEADER[::-1]))
    assert read_raw(tmp_path, "own").images[0][1, 1] == 9


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("labels", [LABELS, ["3", "0", "1", "2", "1"], ["1.0", "2.0", "1.0"]])
@pytest.mark.parametrize("header", [False, True])
def test_no_header(tmp_path: Path, first: bool, labels: list[str], header: bool) -> None:
    rows = [[row[-1], *row[:-1]] if first else row for row in pixel_rows(labels)]
    save(tmp_path, table(rows, [str(i) for i in range(37)] if header else None))
    raw = read_raw(tmp_path, "own")
    assert glyphs(raw) == [label.removesuffix(".0") for label in labels]
    assert raw.members[0] == f"data.csv:{1 + header}"
    np.testing.assert_array_equal(raw.images[1], glyph(131, 6))


def test_a_row_that_pandas_took_for_a_header(tmp_path: Path) -> None:
    """As Kaggle's A_Z Handwritten Data.csv begins: equal numbers were told apart by .1, .2 and so on."""
    seen: dict[int, int] = {}
    cells = []
    for value in [0, *glyph(200, 6).ravel().tolist()]:
        cells.append(f"{value}.{seen[value]}" if value in seen else str(value))
        seen[value] = seen.get(value, 0) + 1
    save(tmp_path, table([[row[-1], *row[:-1]] for row in pixel_rows([0, 1, 0])], cells))
    raw = read_raw(tmp_path, "own")
    assert glyphs(raw) == ["0", "1", "0"]
    assert raw.members[0] == "data.csv:2"


def test_no_header_and_nothing_tells(tmp_path: Path) -> None:
    save(tmp_path, table([[0, *row] for row in np.zeros((3, 36), int).tolist()]))
    remedy = r"set data\.own\.label_column to `first` or `last`"
    refused(tmp_path, "own", f"first or the last column of .*data.csv holds the labels; {remedy}")
    assert glyphs(read_raw(tmp_path, "own", data(label_column="last"))) == ["0"] * 3
    refused(tmp_path, "own", "say `first` or `last`, not `label`", label_column="label")


def test_several_columns_could_be_labels(tmp_path: Path) -> None:
    save(tmp_path, table([[*row, "x"] for row in pixel_rows(LABELS)], [*pixel_header(), "klasse", "writer"]))
    refused(tmp_path, "own", r"that may hold the labels, `klasse`, `writer`; set data\.own\.label_column")
    assert glyphs(read_raw(tmp_path, "devanagari", data(label_column="Klasse"))) == GLYPHS
    refused(tmp_path, "own", "has no column `nope`; there are: `klasse`, `writer`", label_column="nope")


@pytest.mark.parametrize(
    "names", ["mnist_train.csv mnist_test.csv", "train/data.csv test/data.csv", "train.csv.gz test.csv.gz"]
)
def test_train_and_test(tmp_path: Path, names: str) -> None:
    for name, labels in zip(names.split(), (["0", "1"], ["1"]), strict=True):
        content = table(pixel_rows(labels), HEADER)
        save(tmp_path, gzipped(content) if name.endswith(".gz") else content, name)
    raw = read_raw(tmp_path, "mnist")
    assert sorted(zip(glyphs(raw), raw.splits, strict=True)) == [("0", "train"), ("1", "test"), ("1", "train")]


def test_copies_of_a_table_are_read_once(tmp_path: Path) -> None:
    """Kaggle's sign_mnist holds each table twice, and browsers name a second copy train (1).csv."""
    content = table(pixel_rows(LABELS), HEADER)
    for name in ("train.csv", "train (1).csv", "train/train.csv"):
        save(tmp_path, content, name)
    save(tmp_path, table(pixel_rows(LABELS[:2]), HEADER), "test.csv")
    raw = read_raw(tmp_path, "devanagari")
    assert (len(raw.images), raw.splits.count("test")) == (6, 2)
    assert "train.csv repeats train (1).csv and was left out." in raw.notes


def test_a_table_without_labels(tmp_path: Path) -> None:
    save(tmp_path, table([row[:-1] for row in pixel_rows(LABELS)], pixel_header()), "test.csv")
    refused(tmp_path, "own", r"test.csv has no column of labels; add one, or name it in data\.own\.label_column")
    save(tmp_path, table(pixel_rows(LABELS), HEADER), "train.csv")
    save(tmp_path, b"ImageId,Label\n1,0\n", "sample_submission.csv")
    refused(tmp_path, "own", r"test.csv in .* has no labels while train.csv has; set data\.own\.files to train.csv")
    assert glyphs(read_raw(tmp_path, "devanagari", data(files="train.csv"))) == GLYPHS


# --- values ---


@pytest.mark.parametrize(
    ("value", "shade"),
    [(lambda v: f"{v:.1f}", 133), (lambda v: v / 255, 133), (lambda v: int(v > 0), 255)],
    ids=["floats", "fractions", "bits"],
)
def test_floats_and_fractions(tmp_path: Path, value: Any, shade: int) -> None:
    save(tmp_path, table([[*map(value, row[:-1]), row[-1]] for row in pixel_rows(LABELS)], HEADER))
    raw = read_raw(tmp_path, "devanagari")
    np.testing.assert_array_equal(raw.images[3], glyph(shade, 6))
    assert any("0..1 was scaled to 0..255." in note for note in raw.notes) == (value(1) != "1.0")


def test_many_lines_between_spaces(tmp_path: Path) -> None:
    """pandas reads so many cells in several pieces."""
    lines = (
        f"{i % 10}.0000  {' '.join('0' if j % 575 else '5' for j in range(575))} {200 + i % 50}\n" for i in range(1500)
    )
    save(tmp_path, "".join(lines).encode(), "zip.train")
    raw = read_raw(tmp_path, "own", data(label_column="first"))
    assert glyphs(raw) == [str(i % 10) for i in range(1500)]
    assert raw.images[1499][23, 23] == 249


def test_points_that_come_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_BLOCK", 1000)
    rows = pixel_rows(["a", "b"] * 50)
    rows[90][14] = "7.0"
    rows[3][:-1] = [0] * 36  # a block of its own may look scaled
    save(tmp_path, table(rows, HEADER))
    raw = read_raw(tmp_path, "own")
    assert glyphs(raw) == ["a", "b"] * 50
    assert [image.max() for image in raw.images] == [0 if i == 3 else 130 + i for i in range(100)]
    assert raw.images[90][2, 2] == 7


@pytest.mark.parametrize("cell", ["", "nan", "1e99", "abc", "inf", "1,000"])
@pytest.mark.parametrize("point", [False, True])
def test_a_bad_cell_is_named(tmp_path: Path, cell: str, point: bool) -> None:
    rows = pixel_rows(LABELS)
    rows[2][14] = cell
    rows[0][0] = "0.0" if point else 0
    save(tmp_path, table(rows, HEADER))
    refused(tmp_path, "own", "holds `.*` in line 4, column `pixel14`; correct it, for pixels are numbers")


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (ONE.replace(b"pixel35", b"nothing"), "35 columns of pixels, which make no square image|several columns"),
        (ONE.replace(b"pixel35", b"pixel34"), "two columns of pixels have the same name"),
        (table([], HEADER), "holds no rows"),
        (ONE + b"1,2,3\n", "has 3 cells instead of 37 in line 3"),
        (table(pixel_rows(["ka", " ", "ka"]), HEADER), "holds no label in line 3, column `label`"),
        (table([["a", "b", *[0] * 36]]), "its 38 columns are no label beside the pixels"),
        (b",".join(b"%d" % i for i in range(100_000)), "100,000 columns, more than the 65,552"),
        (b"1," * (1 << 20), "line 1 is longer than 1,048,576 bytes"),
        ("label,pixel0\n".encode("utf-16"), "is not in UTF-8"),
        (ONE.replace(b"a\n", b"\xff\xfe\n"), "is not in UTF-8"),
        (ONE + b"1" * (9 << 20), "line 3 is longer than 4,194,304 bytes"),
        (ONE + b'"' + b"1,2\n" * 100, "data.csv (has|is no|cannot|holds)"),
        (b"", "holds no images"),
    ],
)
def test_faults(tmp_path: Path, content: bytes, pattern: str) -> None:
    save(tmp_path, content)
    refused(tmp_path, "own", pattern)


def test_tables_of_different_sizes(tmp_path: Path) -> None:
    for size in (6, 7):
        save(tmp_path, table(pixel_rows(["a"], size), [*pixel_header(size), "label"]), f"set_{size}.csv")
    remedy = r"name those to read in data\.own\.files"
    refused(tmp_path, "own", f"set_6.csv and set_7.csv in .* hold images of different sizes; {remedy}")
