"""NumPy archives: Lekhani's own keys and those of others, joined, split, and never unpickled."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sources import data, glyph, glyphs, gzipped, npy, npz, refused, write_tree, zipped

from lekhani.data.layouts import read_raw


def save(path: Path, labels: list[int], /, **arrays: Any) -> None:
    images = np.stack([glyph(200 + i) for i in range(len(labels))])
    np.savez(path, **{"images": images, "labels": np.array(labels), **arrays})


def test_npz_with_everything(tmp_path: Path) -> None:
    texts = {
        "class_names": ["x", "y"],
        "glyphs": ["X", "Y"],
        "filenames": ["p/1", "p/2", "p/3"],
        "splits": ["train", "test", "train"],
    }
    save(tmp_path / "own.npz", [1, 0, 1], **texts)
    raw = read_raw(tmp_path, "own")
    assert [(c.name, c.glyph) for c in raw.classes] == [("x", "X"), ("y", "Y")]
    assert raw.labels.tolist() == [1, 0, 1]
    assert list(raw.members) == texts["filenames"]
    assert list(raw.splits) == texts["splits"]


def test_npz_with_the_least(tmp_path: Path) -> None:
    save(tmp_path / "own.npz", [7, 3])
    raw = read_raw(tmp_path, "own")
    assert glyphs(raw) == ["7", "3"]
    assert raw.labels.tolist() == [1, 0]
    assert list(raw.members) == ["own.npz[0]", "own.npz[1]"]
    (tmp_path / "classes.csv").write_text("name,glyph\n7,छ\n3,ग\n", encoding="utf-8")
    assert [c.glyph for c in read_raw(tmp_path, "own").classes] == ["छ", "ग"]


def test_several_npz_are_split_by_their_names(tmp_path: Path) -> None:
    save(tmp_path / "own_train.npz", [0, 1])
    save(tmp_path / "own_Test.npz", [2])
    raw = read_raw(tmp_path, "mnist")
    assert sorted(zip(glyphs(raw), raw.splits, strict=True)) == [("0", "train"), ("1", "train"), ("2", "test")]
    assert glyphs(read_raw(tmp_path, "mnist", data(files="*Test.npz"))) == ["2"]
    save(tmp_path / "own_more.npz", [1])
    remedy = r"name those to read in data\.mnist\.files, such as own_more.npz \(\*\* joins all\)"
    refused(tmp_path, "mnist", f"holds files of 2 datasets, such as own_Test.npz, own_more.npz; {remedy}")
    refused(tmp_path, "mnist", r"own_more.npz\[0\] belongs to neither train nor test", files="**")


def test_npz_of_a_known_dataset_in_another_order(tmp_path: Path) -> None:
    save(tmp_path / "own.npz", [0, 1], class_names=["digit_0", "character_01_ka"])
    raw = read_raw(tmp_path, "devanagari")
    assert [c.glyph for c in raw.classes] == ["क", "०"]
    assert raw.labels.tolist() == [1, 0]
    save(tmp_path / "own.npz", [0, 1], labels=np.array(["kha", "ka"]))
    assert glyphs(read_raw(tmp_path, "devanagari")) == ["ख", "क"]
    save(tmp_path / "own.npz", [0, 10])
    refused(tmp_path, "mnist", r"such as 10 are outside 0\.\.9")


@pytest.mark.parametrize(
    ("arrays", "pattern"),
    [
        ({"labels": np.array([None, {}], object)}, "cannot be read .*without objects"),
        ({"images": np.zeros((2, 4, 4, 2))}, r"`images` is float64 \[2, 4, 4, 2\]"),
        ({"images": np.zeros((2, 0, 4), np.uint8)}, r"`images` is uint8 \[2, 0, 4\]"),
        ({"images": np.zeros((0, 4, 4), np.uint8), "labels": np.zeros(0, int)}, "holds no images"),
        ({"labels": np.zeros(3, int)}, r"`labels` has the shape \[3\] beside 2 images"),
        ({"class_names": ["a"]}, r"labels in .* outside 0\.\.0: 1, such as 1; correct"),
        ({"class_names": ["a", "a"]}, "`class_names` in .* repeat one another"),
        ({"class_names": [1, 2]}, "`class_names` is int64"),
        ({"splits": ["train", "val"]}, "`splits` holds 'val'"),
    ],
)
def test_npz_with_a_fault(tmp_path: Path, arrays: dict[str, Any], pattern: str) -> None:
    save(tmp_path / "own.npz", [0, 1], **arrays)
    refused(tmp_path, "own", pattern)


def test_npz_that_lack_labels_or_disagree(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", [0, 1], class_names=["a", "b"])
    save(tmp_path / "b.npz", [0, 1], class_names=["b", "a"])
    refused(tmp_path, "own", "a.npz and b.npz do not agree on `class_names`", files="*")
    np.savez(tmp_path / "a.npz", x_train=np.zeros((1, 4, 4), np.uint8), images=np.zeros((1, 4, 4), np.uint8))
    refused(tmp_path, "own", r"holds no `labels` \(found: x_train\)", files="*")


@pytest.mark.parametrize(
    "keys",
    ["X_train y_train X_test y_test", "train_images train_labels test_images test_labels"],
)
def test_train_and_test_in_one_npz(tmp_path: Path, keys: str) -> None:
    train, test = (np.stack([glyph()] * 3), [1, 2, 1]), (np.stack([glyph()]), np.array([[2]]))
    np.savez(tmp_path / "mnist.npz", **dict(zip(keys.split(), (*train, *test), strict=True)))
    raw = read_raw(tmp_path, "mnist")
    assert glyphs(raw) == ["1", "2", "1", "2"]
    assert list(raw.splits) == ["train"] * 3 + ["test"]
    assert raw.members[3] == f"mnist.npz/{keys.split()[2]}[0]"


@pytest.mark.parametrize("shape", [(2, 12, 12, 1), (2, 1, 12, 12), (2, 144)])
def test_other_shapes_of_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    save(tmp_path / "own.npz", [0, 1], images=np.stack([glyph()] * 2).reshape(shape))
    np.testing.assert_array_equal(read_raw(tmp_path, "own").images[1], glyph())


def test_arrays_that_would_fill_the_memory(tmp_path: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (100000, 10000, 1000)}".ljust(117)
    head = b"\x93NUMPY\x01\x00v\x00" + header + b"\n"
    (tmp_path / "own.npz").write_bytes(zipped({"images.npy": head + bytes(100), "labels.npy": head}))
    refused(tmp_path, "own", "cannot be read .`images` claims an impossible size")
    np.savez_compressed(tmp_path / "own.npz", images=np.zeros((1000, 300, 300), np.uint8), labels=np.zeros(1000, int))
    refused(tmp_path, "own", "own.npz would unpack from .* more than is allowed")


# --- arrays in files of their own ---


PIXELS = np.stack([glyph(200 + i) for i in range(3)])


@pytest.mark.parametrize(
    "names", ["X.npy Y.npy", "train_images.npy train_labels.npy", "k49-imgs.npz k49-labels.npz", "x_train.npy y_train"]
)
@pytest.mark.parametrize("labels", [[7, 0, 7], [[7.0], [0.0], [7.0]], np.eye(8)[[7, 0, 7]]])
def test_pairs_of_single_arrays(tmp_path: Path, names: str, labels: Any) -> None:
    for name, array in zip(names.split(), (PIXELS, np.array(labels)), strict=True):
        write_tree(tmp_path, name, content=npz(arr_0=array) if name.endswith(".npz") else npy(array))
    raw = read_raw(tmp_path, "mnist")
    assert glyphs(raw) == ["7", "0", "7"]
    np.testing.assert_array_equal(raw.images, PIXELS)
    assert raw.members[2] == f"{names.split()[0]}[2]"


def test_pairs_of_train_and_test(tmp_path: Path) -> None:
    """As Kannada-MNIST and Kuzushiji-49 are published."""
    for split in ("train", "test"):
        write_tree(tmp_path, f"X_own_{split}.npz", content=npz(arr_0=PIXELS))
        write_tree(tmp_path, f"y_own_{split}.npz", content=npz(arr_0=np.array([1, 2, 1])))
    assert sorted(read_raw(tmp_path, "own").splits) == ["test"] * 3 + ["train"] * 3
    (tmp_path / "y_own_test.npz").unlink()
    refused(tmp_path, "own", "X_own_test.npz in .* lacks the file with its labels; bring both")


def test_colours_become_grey(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", images=np.stack([PIXELS] * 3, axis=3), labels=np.arange(3))
    np.testing.assert_array_equal(read_raw(tmp_path, "own").images, PIXELS)


@pytest.mark.parametrize(
    ("images", "labels", "pattern"),
    [
        (npy(np.array([{}, None], object)), npy(np.arange(2)), "X.npy cannot be read .*without objects"),
        (npy(PIXELS)[:200], npy(np.arange(3)), "X.npy cannot be read .it claims an impossible size"),
        (npy(PIXELS), npy(np.arange(2)), "X.npy in .* holds 3 images and Y.npy 2 labels"),
        (npy(PIXELS), npy(np.array([0.5, 1, 2])), "Y.npy is float64; save whole numbers"),
        (npy(PIXELS), npy(np.ones((3, 4))), "Y.npy is float64 .3, 4.; save one whole number per image"),
    ],
)
def test_pairs_with_a_fault(tmp_path: Path, images: bytes, labels: bytes, pattern: str) -> None:
    write_tree(tmp_path, "X.npy", content=images)
    write_tree(tmp_path, "Y.npy", content=labels)
    refused(tmp_path, "own", pattern)


@pytest.mark.parametrize("name", ["mnist.pkl", "mnist.pkl.gz", "data_batch_1", "model.pt"])
def test_pickles_are_never_opened(tmp_path: Path, name: str) -> None:
    content = pickle.dumps({"images": PIXELS, "labels": [1, 2, 1]})
    write_tree(tmp_path, name, content=gzipped(content) if name.endswith(".gz") else content)
    refused(tmp_path, "own", f"{name} is a pickle, which can run code when it is opened, and so is never read; save")
    write_tree(tmp_path, "a/1.png", "b/1.png")
    note = f"Left out: {name}, since pickles can run code when they are opened."
    assert note in read_raw(tmp_path, "own").notes
