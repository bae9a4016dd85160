"""Pixels land where they should, as bright as they should."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lekhani.pictures import grid, save_png, to_uint8


def test_to_uint8_rounds_and_clips() -> None:
    values = np.array([-0.5, 0.0, 0.4 / 255, 0.6 / 255, 100.5 / 255 + 1e-6, 254.7 / 255, 1.0, 7.0])
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    np.testing.assert_array_equal(to_uint8(every.astype(np.float32) / 255), every)
    assert to_uint8(values.reshape(1, 1, 8)).ravel().tolist() == [0, 0, 0, 1, 101, 255, 255, 255]


@pytest.mark.parametrize("gap", [0, 1, 2])
def test_grid_lays_images_out_row_by_row(gap: int) -> None:
    images = np.stack([np.full((2, 3), 100 + i, np.uint8) for i in range(5)])
    sheet = grid(images, columns=2, gap=gap)
    assert sheet.shape == (3 * 2 + 2 * gap, 2 * 3 + gap)
    corners = sheet[:: 2 + gap, :: 3 + gap]
    np.testing.assert_array_equal(corners, [[100, 101], [102, 103], [104, 48]])
    for i in range(5):
        assert (sheet == 100 + i).sum() == 6


@pytest.mark.parametrize("scale", [1, 3])
def test_png_roundtrip(tmp_path: Path, scale: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7), np.uint8)
    save_png(picture, tmp_path / "new" / "x.png", scale=scale)
    with Image.open(tmp_path / "new" / "x.png") as image:
        assert image.mode == "L"
        read = np.asarray(image)
    assert read.shape == (5 * scale, 7 * scale)
    np.testing.assert_array_equal(read[::scale, ::scale], picture)
    np.testing.assert_array_equal(read[scale - 1 :: scale, scale - 1 :: scale], picture)
