"""MATLAB's files: EMNIST's own form, others' names and axes, and what must not be believed."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat
from sklearn.datasets import load_digits
from sources import glyphs, refused, write_tree

from lekhani.data.layouts import read_raw

DIGITS = load_digits()
IMAGES = np.rint(DIGITS.images[:40] * 255 / 16).astype(np.uint8)
LABELS = DIGITS.target[:40]


def mat(compressed: bool = True, **values: Any) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, values, do_compression=compressed)
    return buffer.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
def test_emnist(tmp_path: Path, compressed: bool) -> None:
    def part(rows: slice) -> dict[str, Any]:
        turned = IMAGES[rows].transpose(0, 2, 1).reshape(-1, 64)
        return {"images": turned, "labels": LABELS[rows, None].astype(float), "writers": LABELS[rows, None]}

    mapping = np.column_stack([np.arange(10), np.arange(48, 58)]).astype(np.uint8)
    dataset = {"train": part(slice(30)), "test": part(slice(30, 40)), "mapping": mapping}
    write_tree(tmp_path, "emnist-digits.mat", content=mat(compressed, dataset=dataset))
    raw = read_raw(tmp_path, "own")
    assert glyphs(raw) == [str(label) for label in LABELS]
    assert list(raw.splits) == ["train"] * 30 + ["test"] * 10
    np.testing.assert_array_equal(raw.images, IMAGES)
    assert raw.members[30] == "emnist-digits.mat/dataset.test.images[0]"
    assert any("were turned" in note for note in raw.notes)


def test_letters_are_called_by_their_mapping(tmp_path: Path) -> None:
    mapping = np.array([[1, 65, 97], [2, 66, 98]])
    dataset = {"train": {"images": IMAGES[:4], "labels": [1, 2, 1, 2]}, "mapping": mapping}
    write_tree(tmp_path, "letters.mat", content=mat(dataset=dataset))
    assert glyphs(read_raw(tmp_path, "own")) == ["A", "B", "A", "B"]


@pytest.mark.parametrize("axes", [(1, 2, 0), (0, 1, 2)])
@pytest.mark.parametrize("names", ["X y", "images labels", "train_x train_y"])
def test_other_names_and_axes(tmp_path: Path, axes: tuple[int, ...], names: str) -> None:
    images, labels = names.split()
    write_tree(tmp_path, "own", content=mat(**{images: IMAGES.transpose(axes), labels: LABELS[:, None]}))
    np.testing.assert_array_equal(read_raw(tmp_path, "own").images, IMAGES)


def test_colour_with_the_images_last(tmp_path: Path) -> None:
    svhn = np.repeat(IMAGES.transpose(1, 2, 0)[:, :, None], 3, axis=2)
    write_tree(tmp_path, "train_32x32.mat", content=mat(X=svhn, y=LABELS[:, None]))
    np.testing.assert_array_equal(read_raw(tmp_path, "own").images, IMAGES)


def element(kind: int, body: bytes) -> bytes:
    return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)


def matrix(kind: int, shape: tuple[int, ...], *inside: bytes) -> bytes:
    flags = element(6, struct.pack("<II", kind, 0))
    sizes = element(5, struct.pack(f"<{len(shape)}i", *shape))
    return element(14, flags + sizes + element(1, b"images") + b"".join(inside))


HEAD = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
BOMB = zlib.compress(bytes(200 << 20))


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (
            b"MATLAB 7.3 MAT-file, HDF5".ljust(512),
            r"is of MATLAB's version 7\.3, which is not read; save it again with",
        ),
        (b"\x89HDF\r\n\x1a\n".ljust(512), r"is of MATLAB's version 7\.3"),
        (HEAD[:50], "own.mat cannot be read .it ends too early."),
        (mat(images=IMAGES, labels=LABELS)[:-200], "own.mat cannot be read"),
        (mat(other=IMAGES), "holds no images with labels; save `images`"),
        (mat(images=IMAGES, labels=LABELS[:5]), "`images` holds 40 images and 5 labels"),
        (mat(images=IMAGES, labels=LABELS + 0.5), "labels of `images` is float64; save whole numbers"),
        (HEAD + struct.pack("<II", 15, len(BOMB)) + BOMB, "would unpack from .* more than is allowed"),
        (HEAD + matrix(2, (100_000, 10_000), element(5, b"\1\0\0\0"), element(1, b"a")), "claims 1,000,000,000 cells"),
        (HEAD + matrix(1, (1_000_000, 1)), "claims 1,000,000 cells"),
        (HEAD + struct.pack("<II", 14, 1 << 30), "an element is longer than what holds it"),
    ],
)
def test_faults(tmp_path: Path, content: bytes, pattern: str) -> None:
    write_tree(tmp_path, "own.mat", content=content)
    refused(tmp_path, "own", pattern)


def test_cells_within_cells_end(tmp_path: Path) -> None:
    inside = b""
    for _ in range(60):
        inside = matrix(1, (1, 1), inside)
    write_tree(tmp_path, "own.mat", content=HEAD + inside)
    refused(tmp_path, "own", "its structures nest too deeply")
