"""EMNIST's images are set upright in every form they come in, and what stands upright is not turned."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sources import data, encoded, idx, npz, parquet, table, write_tree

from lekhani.data.layouts import read_raw

DIGITS = load_digits()
UPRIGHT = np.rint(DIGITS.images[:80] * 255 / 16).astype(np.uint8)
LYING = np.ascontiguousarray(UPRIGHT.transpose(0, 2, 1))
LABELS = DIGITS.target[:80] + 1


def save(folder: Path, form: str, images: Any) -> None:
    if form == "csv":
        rows = [[label, *image.ravel().tolist()] for image, label in zip(images, LABELS, strict=True)]
        write_tree(folder, "emnist-letters-train.csv", content=table(rows))
    elif form == "idx":
        write_tree(folder, "emnist-digits-train-images-idx3-ubyte", content=idx(images))
        write_tree(folder, "emnist-digits-train-labels-idx1-ubyte", content=idx(LABELS))
    elif form == "npz":
        write_tree(folder, "EMNIST/own.npz", content=npz(images=images, labels=LABELS))
    else:
        pictures = [encoded(image) for image in images]
        write_tree(folder, "emnist/train-0.parquet", content=parquet(LABELS.tolist(), images=pictures))


@pytest.mark.parametrize("form", ["csv", "idx", "npz", "parquet"])
@pytest.mark.parametrize("images", [UPRIGHT, LYING, 255 - LYING], ids=["upright", "lying", "black on white"])
def test_emnist_stands_upright(tmp_path: Path, form: str, images: Any) -> None:
    save(tmp_path, form, images)
    raw = read_raw(tmp_path, "own")
    np.testing.assert_array_equal(np.stack(list(raw.images)), UPRIGHT)
    what = "stand upright, so that they were not turned" if images is UPRIGHT else "images were turned, since EMNIST"
    assert any(what in note and "data.own.transposed: " in note for note in raw.notes)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("form", ["csv", "idx", "parquet"])
def test_the_key_goes_before_the_look(tmp_path: Path, form: str, transposed: bool) -> None:
    save(tmp_path, form, LYING)
    raw = read_raw(tmp_path, "own", data(transposed=transposed))
    np.testing.assert_array_equal(np.stack(list(raw.images)), UPRIGHT if transposed else LYING)


@pytest.mark.parametrize("lines", ["{0} {1}", "{0} {1} {2}"])
def test_classes_are_called_by_the_mapping(tmp_path: Path, lines: str) -> None:
    save(tmp_path, "csv", LYING)
    text = "\r\n".join(lines.format(label, 64 + label, 96 + label) for label in range(1, 27))
    write_tree(tmp_path, "emnist-letters-mapping.txt", content=text.encode())
    raw = read_raw(tmp_path, "own")
    assert [(c.name, c.glyph) for c in raw.classes[:3]] == [("1", "A"), ("2", "B"), ("3", "C")]
    assert "Classes are called by the characters in emnist-letters-mapping.txt." in raw.notes
    write_tree(tmp_path, "emnist-letters-mapping.txt", content=b"1 65\n2 65\n")
    assert [c.glyph for c in read_raw(tmp_path, "own").classes[:3]] == ["1", "2", "3"]


def test_others_are_never_turned(tmp_path: Path) -> None:
    rows = [[label, *image.ravel().tolist()] for image, label in zip(LYING, LABELS, strict=True)]
    write_tree(tmp_path, "letters.csv", content=table(rows))
    raw = read_raw(tmp_path, "own")
    np.testing.assert_array_equal(raw.images, LYING)
    assert not any("turned" in note for note in raw.notes)


def test_images_without_ink_or_form_are_turned_by_their_name(tmp_path: Path) -> None:
    images = np.zeros((2, 8, 8))
    images[:, 2, 6] = 200
    write_tree(tmp_path, "emnist-letters-train-images-idx3-ubyte", content=idx(images))
    write_tree(tmp_path, "emnist-letters-train-labels-idx1-ubyte", content=idx(np.array([1, 2])))
    assert read_raw(tmp_path, "own").images[0][6, 2] == 200
