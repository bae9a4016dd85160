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


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        "t10k-images-idx3-ubyte t10k-labels-idx1-ubyte",
        "train-images-idx3-ubyte.gz train-labels-idx1-ubyte.gz",
        "train-images.idx3-ubyte.gz train-labels.idx1-ubyte.gz",
        "train-images-idx3-ubyte (1).gz|train-labels-idx1-ubyte (2).gz",
        "train-images-idx3-ubyte(1) train-labels-idx1-ubyte",
        "X_train y_train",
        "x-train.bin y-train.bin",
        "glyphs what_they_are",
    ],
)
def test_the_first_bytes_tell_whatever_the_name(tmp_path: Path, names: str, packed: bool) -> None:
    for name, content in zip(names.split("|" if "|" in names else " "), (IMAGES, LABELS), strict=True):
        write_tree(tmp_path, name, content=gzipped(content) if packed else content)
    assert glyphs(read_raw(tmp_path, "mnist")) == ["7", "0", "7"]


def test_six_datasets_are_not_merged(tmp_path: Path) -> None:
    """As EMNIST's own archive, where one number stands for another letter in each."""
    kinds = ("balanced", "byclass", "bymerge", "digits", "letters", "mnist")
    members = {}
    for kind in kinds:
        for split in ("train", "test"):
            members[f"gzip/emnist-{kind}-{split}-images-idx3-ubyte.gz"] = gzipped(IMAGES)
            members[f"gzip/emnist-{kind}-{split}-labels-idx1-ubyte.gz"] = gzipped(LABELS)
    members["gzip/emnist-letters-mapping.txt"] = b"1 65 97\n2 66 98\n"
    (tmp_path / "gzip.zip").write_bytes(zipped(members))
    which = r"data\.own\.files, such as gzip/emnist-balanced-\*"
    refused(tmp_path, "own", f"holds files of 6 datasets, .* and 3 more; name those to read in {which}")
    for pattern in ("gzip/emnist-letters-*", "*letters*"):
        raw = read_raw(tmp_path, "own", data(files=pattern))
        assert (len(raw.images), list(raw.splits)) == (6, ["test"] * 3 + ["train"] * 3)
        assert any("gzip/emnist-letters-mapping.txt" in note for note in raw.notes)


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
