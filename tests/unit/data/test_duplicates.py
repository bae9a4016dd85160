"""Copies are found, look-alikes are not, and of each group the right image stays."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lekhani.data.duplicates import MAX_DISTANCE, groups, kept, near_pairs
from lekhani.data.sources.embedded import devanagari

Images = np.ndarray[Any, np.dtype[np.uint8]]


@pytest.fixture(scope="module")
def letters() -> Images:
    """Embedded letters of all classes, in an order of their own, no two alike."""
    return np.asarray(devanagari(seed=7, per_class_train=6, per_class_test=1).images)


def jpeg(image: Images) -> Images:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file))


def resampled(image: Images) -> Images:
    return np.asarray(
        Image.fromarray(image).resize((28, 28), Image.Resampling.BICUBIC).resize((32, 32), Image.Resampling.BICUBIC)
    )


def noisy(image: Images) -> Images:
    return np.clip(image + np.random.default_rng(1).integers(-8, 9, image.shape), 0, 255).astype(np.uint8)


VARIANTS: dict[str, Callable[[Images], Images]] = {
    "jpeg": jpeg,
    "shifted": lambda image: np.roll(image, (1, -1), (0, 1)),
    "dimmed": lambda image: np.rint(image * 0.8).astype(np.uint8),
    "noisy": noisy,
    "resampled": resampled,
}


def test_honest_letters_are_no_copies(letters: Images) -> None:
    pairs, distances = near_pairs(letters)
    assert (pairs.shape, pairs.dtype, distances.shape, distances.dtype) == ((0, 2), np.int64, (0,), np.float32)
    assert groups(letters).tolist() == list(range(len(letters)))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_copy_in_other_pixels_is_found(letters: Images, name: str) -> None:
    chosen = np.arange(0, len(letters), 7)
    copies = np.stack([VARIANTS[name](letters[row]) for row in chosen])
    n = len(letters)
    pairs, distances = near_pairs(np.concatenate([letters, copies]))
    assert pairs.tolist() == [[row, n + i] for i, row in enumerate(chosen)]
    assert ((distances >= 0) & (distances < MAX_DISTANCE)).all()


def test_of_exact_copies_only_the_first_is_paired_and_the_group_holds_all(letters: Images) -> None:
    images = np.concatenate([letters, letters[3:4], jpeg(letters[3])[None]])
    n = len(letters)
    assert near_pairs(images)[0].tolist() == [[3, n + 1]]
    found = groups(images)
    assert np.flatnonzero(found == 3).tolist() == [3, n, n + 1]
    assert found.dtype == np.int64


def test_lines_drawn_alike_are_no_copies() -> None:
    """Plain strokes at many angles: each has neighbours on both sides, so none stands out as a copy."""
    y, x = np.mgrid[:28, :28] - 13.5
    lines = [
        np.clip(255 * (2.5 - abs(x * np.cos(a) + y * np.sin(a))), 0, 255) * (np.hypot(x, y) < 10)
        for a in np.linspace(-0.4, 0.4, 20)
    ]
    assert not len(near_pairs(np.stack(lines).astype(np.uint8))[0])


@pytest.mark.parametrize("shape", [(0, 16, 16), (1, 16, 16), (2, 16, 24), (3, 16, 16)])
def test_few_or_empty_images(shape: tuple[int, ...]) -> None:
    blank = np.zeros(shape, np.uint8)
    assert len(near_pairs(blank)[0]) == 0
    assert groups(blank).tolist() == [0] * shape[0]
    greys = np.arange(40, dtype=np.uint8)[:, None, None].repeat(16, 1).repeat(16, 2)
    assert len(near_pairs(greys)[0]) == 0, "flat greys are not compared"


def test_the_result_depends_on_the_images_alone(letters: Images) -> None:
    images = np.concatenate([letters, np.stack([jpeg(image) for image in letters[::5]])])
    before, after = near_pairs(images), near_pairs(images.copy())
    assert np.array_equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])
    order = np.random.default_rng(2).permutation(len(images))
    again = np.sort(order[near_pairs(images[order])[0]], axis=1)
    assert sorted(again.tolist()) == before[0].tolist()


@pytest.mark.parametrize(
    ("labels", "tests", "stays"),
    [
        ("aaa", "...", "x.."),  # the first train image
        ("aaa", "..t", "..x"),  # the test image
        ("aaa", ".tt", ".x."),  # the first of the test images
        ("aab", "...", "..."),  # nobody knows which label is right
        ("aab", "..t", "..x"),  # the test images agree
        ("baa", ".tt", ".x."),
        ("aab", ".tt", "..."),  # they do not
    ],
)
def test_which_image_of_a_group_stays(labels: str, tests: str, stays: str) -> None:
    found = kept(np.full(3, 7), np.array([ord(c) for c in labels]), np.array([c == "t" for c in tests]))
    assert found.dtype == np.bool_
    assert "".join("x" if one else "." for one in found) == stays
