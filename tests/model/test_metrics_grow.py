"""With a trained judge, more blur, more noise and more lost classes are farther from real data by every metric.

The steps are so large, and the bounds so far from what was measured, that they hold for any seed and processor.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from letters import Judged, Letters
from scipy.ndimage import gaussian_filter

from lekhani.data.spec import Bytes, Labels
from lekhani.evaluate.fidelity import Readings, fidelity
from lekhani.evaluate.judge import Classifier, read


@dataclass
class Glyphs:
    """A judge, what it read of the test split, and other real glyphs that stand for generated ones."""

    judge: Classifier
    test: Readings
    test_labels: Labels
    images: Bytes
    labels: Labels

    def some(self, n: int, seed: int, first_class: int = 0) -> Bytes:
        """Glyphs of the classes from `first_class` on."""
        pool = np.flatnonzero(self.labels >= first_class)
        return self.images[np.random.default_rng([seed, 1]).choice(pool, n, replace=False)]

    def metrics(self, images: Bytes) -> dict[str, float]:
        """KID over whole sets, without the chance of its subsets."""
        return fidelity(read(self.judge, images), self.test, kid_subset_size=len(images), seed=1)


@pytest.fixture(scope="module")
def glyphs(letters: Letters, judges: tuple[Judged, Judged]) -> Glyphs:
    judge, _ = judges[0]
    return Glyphs(judge, read(judge, letters.test[0]), letters.test[1], *letters.fresh)


def blurred(images: Bytes, pixels: float) -> Bytes:
    return np.rint(gaussian_filter(images.astype(np.float64), (0, pixels, pixels))).astype(np.uint8)


def noisy(images: Bytes, grey: float) -> Bytes:
    noise = grey * np.random.default_rng(2).normal(size=images.shape)
    return np.rint(np.clip(images + noise, 0, 255)).astype(np.uint8)


@pytest.mark.parametrize(("spoil", "strengths"), [(blurred, (0, 0.7, 1.2, 2)), (noisy, (0, 40, 70, 110))])
def test_fid_and_kid_grow_with_blur_and_noise(
    glyphs: Glyphs, spoil: Callable[[Bytes, float], Bytes], strengths: tuple[float, ...]
) -> None:
    images = glyphs.some(380, 1)
    found = [glyphs.metrics(spoil(images, strength)) for strength in strengths]
    _assert_grows(found)
    assert found[-1]["inception_score"] < 0.6 * found[0]["inception_score"]


def test_fid_and_kid_grow_and_recall_falls_with_lost_classes(glyphs: Glyphs) -> None:
    found = [glyphs.metrics(glyphs.some(200, 1, first_class=lost)) for lost in (0, 2, 4, 6)]
    _assert_grows(found)
    recalls = [one["recall"] for one in found]
    assert recalls == sorted(recalls, reverse=True)
    assert recalls[-1] < 0.5 * recalls[0]
    assert found[-1]["precision"] > 0.7 * found[0]["precision"], "what is left is as good as before"


def _assert_grows(found: list[dict[str, float]]) -> None:
    for name in ("fid", "kid"):
        values = [one[name] for one in found]
        assert all(after > before for before, after in itertools.pairwise(values)), (name, values)
    assert found[-1]["fid"] > 8 * found[0]["fid"]
    assert abs(found[0]["kid"]) < 0.2 * found[-1]["kid"], "no distance between real and real"
