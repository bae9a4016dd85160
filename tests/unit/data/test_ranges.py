"""The range of pixels is told by the whole dataset, in every reader, or asked for by name."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sources import data, encoded, idx, npz, pixel_header, refused, table, write_tree

from lekhani.data.layouts import read_raw

DIGITS = load_digits()
SCANS = np.pad(DIGITS.images[:60] / 16, ((0, 0), (1, 1), (1, 1)))  # [60,10,10] from 0 to 1
LABELS = DIGITS.target[:60]
EXPECTED = np.rint(SCANS * 255).astype(np.uint8)
RANGES = {
    "fractions": (SCANS, 1),
    "signed": (2 * SCANS - 1, 2),
    "bits": ((SCANS > 0.5) * 1, 255),
    "0..15": (np.rint(SCANS * 15), 17),
    "0..16": (SCANS * 16, 1),
    "percent": (np.rint(SCANS * 100), 3),
    "7 bits": (np.rint(SCANS * 127), 2),
    "8 bits": (np.rint(SCANS * 255), 0),
    **{f"{bits} bits": (np.rint(SCANS * (2**bits - 1)), 1) for bits in (10, 12, 14, 15, 16)},
    "12 bits, nearly": (np.rint(SCANS * 4080), 2),
}


def as_csv(folder: Path, values: Any) -> None:
    rows = [
        [f"{value:g}" for value in image.ravel()] + [str(label)] for image, label in zip(values, LABELS, strict=True)
    ]
    write_tree(folder, "data.csv", content=table(rows, [*pixel_header(10), "label"]))


def as_spaced_text(folder: Path, values: Any) -> None:
    lines = (
        f"{label} {'  '.join(f'{value:g}' for value in image.ravel())} \n"
        for image, label in zip(values, LABELS, strict=True)
    )
    write_tree(folder, "zip.train", content="".join(lines).encode())


def as_npz(folder: Path, values: Any) -> None:
    write_tree(folder, "own.npz", content=npz(images=values, labels=LABELS))


def as_npy(folder: Path, values: Any) -> None:
    for name, array in (("X.npy", values.astype(np.float32)), ("Y.npy", np.eye(10)[LABELS])):
        buffer = io.BytesIO()
        np.save(buffer, array)
        write_tree(folder, name, content=buffer.getvalue())


def as_pictures(folder: Path, values: Any) -> None:
    whole, deep = (values == np.rint(values)).all() and values.min() >= 0, values.max() > 255
    for i, (image, label) in enumerate(zip(values, LABELS, strict=True)):
        pixels = image.astype((np.uint16 if deep else np.uint8) if whole else np.float32)
        write_tree(folder, f"{label}/{i:03}", content=encoded(Image.fromarray(pixels), "PNG" if whole else "TIFF"))


@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize("save", [as_csv, as_spaced_text, as_npz, as_npy, as_pictures])
def test_every_range_in_every_form(tmp_path: Path, save: Callable[[Path, Any], None], kind: str) -> None:
    values, tolerance = RANGES[kind]
    save(tmp_path, values)
    raw = read_raw(tmp_path, "own")
    order = [int(m[2:5]) for m in raw.members] if save is as_pictures else range(60)
    off = np.abs(np.stack(list(raw.images)).astype(int) - EXPECTED[list(order)])
    assert off.max() <= tolerance
    assert any("was scaled to 0..255" in note for note in raw.notes) == (kind != "8 bits")
    assert any(note.startswith(f"Pixel values lie between {values.min():g} and ") for note in raw.notes)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 90), (0, 300), (-3, 5), (0, 70_000), (0, 0.2), (-1, 0.3), (0, 1500), (0, 17)]
)
def test_a_range_that_nothing_tells_is_asked_for(tmp_path: Path, low: float, high: float) -> None:
    values = low + SCANS * (high - low)
    values = values if abs(low) <= 1 and high <= 1 else np.rint(values)
    as_csv(tmp_path, values)
    found = f"run from {low:g} .in data.csv:2. to {high:g} .in data.csv:\\d+., which is no range that we know"
    refused(tmp_path, "own", rf"{found}; set data\.own\.value_range to the values of black and white")
    raw = read_raw(tmp_path, "own", data(value_range=(low, high)))
    assert np.abs(np.asarray(raw.images).astype(int) - EXPECTED).max() <= np.ceil(128 / (high - low))
    if low == 0:
        refused(tmp_path, "own", r"value_range: the pixels run from .* beyond 0 to 0\.1", value_range=(0.0, 0.1))


def test_images_share_one_range(tmp_path: Path) -> None:
    """A faint image stays faint, and bytes beside deep images have a range of their own."""
    for i, shade in enumerate((4095, 400)):
        write_tree(
            tmp_path, f"a/{i}.png", content=encoded(Image.fromarray((EXPECTED[0] > 127).astype(np.uint16) * shade))
        )
    write_tree(tmp_path, "b/1.png", content=encoded((EXPECTED[0] > 127) * np.uint8(255)))
    raw = read_raw(tmp_path, "own")
    assert [int(image.max()) for image in raw.images] == [255, 25, 255]
    assert "Of 2 images with more than one byte per pixel: Pixel values lie between 0 and 4095; 0..4095 was scaled" in (
        " ".join(raw.notes)
    )


def test_files_of_two_ranges(tmp_path: Path) -> None:
    for file, values in (("train.csv", SCANS), ("test.csv", np.rint(SCANS * 255))):
        as_csv(tmp_path, values)
        (tmp_path / "data.csv").rename(tmp_path / file)
    problem = r"the pixels of train\.csv reach 1 and those of test\.csv 255; save both in one range, or say with"
    refused(tmp_path, "own", problem)
    assert np.asarray(read_raw(tmp_path, "own", data(value_range=(0.0, 255.0))).images).max() == 255


def test_numbers_that_are_none(tmp_path: Path) -> None:
    images = SCANS.copy()
    images[7, 2, 2] = np.nan
    as_npz(tmp_path, images)
    refused(tmp_path, "own", r"own.npz\[7\] holds a pixel that is no finite number")


@pytest.mark.parametrize("kind", [">i2", ">i4", ">f4", ">f8"])
def test_idx_of_other_numbers(tmp_path: Path, kind: str) -> None:
    code = {">i2": 11, ">i4": 12, ">f4": 13, ">f8": 14}[kind]
    head = bytes([0, 0, code, 3]) + b"".join(n.to_bytes(4, "big") for n in SCANS.shape)
    write_tree(tmp_path, "images", content=head + np.rint(SCANS * 1023).astype(kind).tobytes())
    write_tree(tmp_path, "labels", content=idx(LABELS))
    raw = read_raw(tmp_path, "mnist")
    assert np.abs(np.asarray(raw.images).astype(int) - EXPECTED).max() <= 1
