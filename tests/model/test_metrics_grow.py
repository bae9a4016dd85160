"""With a judge trained on glyphs, the metrics follow what is done to images: more blur, noise or lost classes is farther from real data."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from lekhani import params
from lekhani.data.sources.embedded import devanagari
from lekhani.data.spec import Bytes, Labels
from lekhani.evaluate.fidelity import Readings, fidelity
from lekhani.evaluate.judge import Classifier, read, train_judge
from lekhani.evaluate.ranking import tie
from lekhani.evaluate.scorecard import Real, score

K = 16  # every third class, so that a judge is good after seconds


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
def glyphs() -> Glyphs:
    raw = devanagari(7, 60, 40)
    images, is_test = np.stack(list(raw.images)), np.array(raw.splits) == "test"
    labels, kept = raw.labels // 3, raw.labels % 3 == 0
    train, test = kept & ~is_test, kept & is_test
    sets = (images[train], labels[train]), (images[test], labels[test])
    choice = params.Judge(width=8, images_seen=9000, batch_size=64)
    judge, report = train_judge(choice, *sets, K, 1, torch.device("cpu"), lambda *_: None)
    assert report.accuracy > 0.95
    return Glyphs(judge, read(judge, images[test]), labels[test], *sets[0])


def blurred(images: Bytes, pixels: float) -> Bytes:
    return np.rint(gaussian_filter(images.astype(np.float64), (0, pixels, pixels))).astype(np.uint8)


def noisy(images: Bytes, grey: float) -> Bytes:
    noise = grey * np.random.default_rng(2).normal(size=images.shape)
    return np.rint(np.clip(images + noise, 0, 255)).astype(np.uint8)


@pytest.mark.parametrize(("spoil", "strengths"), [(blurred, (0, 0.7, 1, 1.4, 2)), (noisy, (0, 30, 50, 75, 110))])
@pytest.mark.parametrize("seed", [1, 2])
def test_fid_and_kid_grow_with_blur_and_noise(
    glyphs: Glyphs, spoil: Callable[[Bytes, float], Bytes], strengths: tuple[float, ...], seed: int
) -> None:
    images = glyphs.some(480, seed)
    got = [glyphs.metrics(spoil(images, strength)) for strength in strengths]
    _assert_grows(got)
    assert got[-1]["precision"] < 0.7 * got[0]["precision"]
    assert got[-1]["inception_score"] < 0.5 * got[0]["inception_score"]


@pytest.mark.parametrize("seed", [1, 2])
def test_fid_and_kid_grow_and_recall_falls_with_lost_classes(glyphs: Glyphs, seed: int) -> None:
    got = [glyphs.metrics(glyphs.some(200, seed, first_class=lost)) for lost in (0, 3, 6, 9, 12)]
    _assert_grows(got)
    recalls = [one["recall"] for one in got]
    assert recalls == sorted(recalls, reverse=True)
    assert recalls[-1] < 0.5 * recalls[0]
    assert got[-1]["precision"] > 0.9 * got[0]["precision"], "what is left is as good as before"


def _assert_grows(got: list[dict[str, float]]) -> None:
    for name in ("fid", "kid"):
        values = [one[name] for one in got]
        assert all(after > before for before, after in itertools.pairwise(values)), (name, values)
    assert got[-1]["fid"] > 10 * got[0]["fid"]
    assert abs(got[0]["kid"]) < 0.05 * got[-1]["kid"], "no distance between real and real"


def test_one_source_of_glyphs_ties_with_itself_and_not_with_a_spoilt_one(glyphs: Glyphs) -> None:
    train = read(glyphs.judge, glyphs.some(200, 3))
    real = Real(glyphs.test, train, fidelity(train, glyphs.test, 100, 1))

    def card(seeds: range, grey: float) -> dict[str, float]:
        samples = [read(glyphs.judge, noisy(glyphs.some(200, seed), grey)) for seed in seeds]
        return score(samples, None, real, glyphs.test_labels, 100, 1)

    one, same, worse = card(range(10, 14), 0), card(range(20, 24), 0), card(range(30, 34), 40)
    assert one["fid"] != same["fid"]
    for metric in ("fid", "kid", "inception_score", "precision", "recall"):
        assert tie(one, same, metric), metric
    assert not tie(one, worse)
    assert one["fid"] < worse["fid"]
