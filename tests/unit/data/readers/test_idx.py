"""MNIST's own files, in every spelling."""

import struct
from pathlib import Path

import numpy as np
import pytest
from sources import data, glyph, glyphs, gzipped, idx, refused, write_tree, zipped

from lekhani.data.layouts import read_raw

IMAGES, LABELS = idx(np.stack([glyph(200 + i) for i in range(3)])), idx(np.array([7, 0, 7]))
SPELLINGS = [
    "{}-images-idx3-ubyte {}-labels-idx1-ubyte",
    "{}-images.idx3-ubyte {}-labels.idx1-ubyte",
    "emnist-x-{}-images-idx3-ubyte.gz emnist-x-{}-labels-idx1-ubyte.gz",
]


def save(folder: Path, name: str, content: bytes) -> None:
    write_tree(folder, name, content=gzipped(content) if name.endswith(".gz") else content)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("test", ["t10k", "test"])
def test_spellings(tmp_path: Path, spelling: str, test: str) -> None:
    for split in ("train", test):
        images, labels = spelling.format(split, split).split()
        save(tmp_path, images, IMAGES)
        save(tmp_path, labels, LABELS)
    raw = read_raw(tmp_path, "mnist")
    assert glyphs(raw) == ["7", "0", "7"] * 2
    assert sorted(raw.splits) == ["test"] * 3 + ["train"] * 3
    assert raw.images[1].max() == 201


def test_in_a_zip_that_holds_each_file_twice(tmp_path: Path) -> None:
    """As Kaggle's hojjatk/mnist-dataset does."""
    members = {}
    for name, content in (("train-images.idx3-ubyte", IMAGES), ("train-labels.idx1-ubyte", LABELS)):
        members |= {name: content, f"{name.replace('.', '-')}/{name.replace('.', '-')}": content}
    (tmp_path / "archive.zip").write_bytes(zipped(members))
    raw = read_raw(tmp_path, "mnist")
    assert len(raw.images) == 3
    assert sum("was left out" in note for note in raw.notes) == 2
    members["train-images-idx3-ubyte/train-images-idx3-ubyte"] = idx(np.zeros((3, 12, 12)))
    (tmp_path / "archive.zip").write_bytes(zipped(members))
    refused(tmp_path, "mnist", r"differ; name the files to read in data\.mnist\.files")
    assert len(read_raw(tmp_path, "mnist", data(files="*.idx?-ubyte")).images) == 3


def test_emnist_is_turned(tmp_path: Path) -> None:
    image = np.zeros((1, 8, 8))
    image[0, 2, 6] = 200
    save(tmp_path, "emnist-letters-train-images-idx3-ubyte", idx(image))
    save(tmp_path, "emnist-letters-train-labels-idx1-ubyte", idx(np.array([1])))
    raw = read_raw(tmp_path, "letters")
    assert raw.images[0][6, 2] == 200
    assert any("were turned" in note for note in raw.notes)


@pytest.mark.parametrize(
    ("images", "pattern"),
    [
        (b"", "does not start as an IDX file"),
        (IMAGES[:10], "claims an impossible size"),
        (IMAGES[:-1], "ends too early, at 3 x 12 x 12"),
        (IMAGES + b"x", "is longer than its header says"),
        (struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 2**31), "claims an impossible size"),
        (struct.pack(">HBB3I", 0, 8, 3, 1000, 1000, 1000), "ends too early"),
        (idx(np.zeros((0, 3, 3))), "holds no images"),
        (idx(np.zeros((2, 12, 12))), "holds 2 images and train-labels-idx1-ubyte 3 labels"),
        (LABELS, "lacks the file with its images"),
    ],
)
def test_faults(tmp_path: Path, images: bytes, pattern: str) -> None:
    save(tmp_path, "train-images-idx3-ubyte", images)
    save(tmp_path, "train-labels-idx1-ubyte", LABELS)
    refused(tmp_path, "mnist", pattern)


def test_a_damaged_gz(tmp_path: Path) -> None:
    save(tmp_path, "train-images-idx3-ubyte", IMAGES)
    write_tree(tmp_path, "train-labels-idx1-ubyte.gz", content=gzipped(LABELS)[:-20])
    refused(tmp_path, "mnist", "train-labels-idx1-ubyte.gz is damaged")
