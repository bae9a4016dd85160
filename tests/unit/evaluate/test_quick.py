"""The quick score agrees with the slow one, and tells a collapsed generator from a good one."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lekhani import params
from lekhani.data.spec import Bytes, Labels
from lekhani.evaluate.fidelity import fidelity
from lekhani.evaluate.frechet import frechet
from lekhani.evaluate.judge import FEATURES, JudgeNet, train_judge
from lekhani.evaluate.quick import QuickScore

CPU = torch.device("cpu")
SIZE, K, COUNT = 16, 3, 150


def bars(n: int, seed: int) -> tuple[Bytes, Labels]:
    """Class 0 has a bar on top, class 1 one at the bottom, class 2 one on the left; brightness and place vary."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % K).astype(np.int64)
    images = rng.integers(0, 40, (n, SIZE, SIZE))
    for image, label in zip(images, labels, strict=True):
        at = int(rng.integers(0, 3))
        bar = [np.s_[1 + at : 4 + at, :], np.s_[10 + at : 13 + at, :], np.s_[:, 1 + at : 4 + at]][label]
        image[bar] += int(rng.integers(100, 200))
    return images.astype(np.uint8), labels


class Replay(nn.Module):
    """Returns images that it holds, of the requested class; the same ones whatever the noise when `stuck`."""

    def __init__(self, images: Bytes, labels: Labels, stuck: bool = False) -> None:
        super().__init__()
        self.images, self.labels, self.stuck = torch.from_numpy(images).float() / 255, torch.from_numpy(labels), stuck

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return torch.stack(
            [self.one(float(z[0].abs()), self.images[self.labels == y]) for z, y in zip(noise, labels, strict=True)]
        )

    def one(self, z: float, among: Tensor) -> Tensor:
        return among[0 if self.stuck else int(z * 1000) % len(among)].unsqueeze(0)


def fake_variant(conditional: bool = True) -> Any:
    """A variant in name only."""
    return SimpleNamespace(name="fake", conditional=conditional, noise_dim=1)


@pytest.fixture(scope="module")
def judge() -> JudgeNet:
    choice = params.Judge(width=4, images_seen=3000, batch_size=32, shift=0, lr=1e-2)
    return train_judge(choice, bars(300, 1), bars(60, 2), K, 5, CPU, lambda *_: None)[0]


@pytest.fixture
def quick(judge: JudgeNet) -> QuickScore:
    return QuickScore(judge, bars(400, 3), K, COUNT, 7, CPU)


def test_its_distance_is_that_of_the_scorecard() -> None:
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(FEATURES, FEATURES)) / FEATURES**0.5
    one, other = (np.maximum(shift + rng.normal(size=(500, FEATURES)) @ mix, 0) for shift in (0.0, 0.4))
    logits = np.zeros((500, K), np.float32)
    readings = [(features.astype(np.float32), logits) for features in (one, other)]
    slow = fidelity(*readings, kid_subset_size=50, seed=1)["fid"]
    moments = [(x.mean(0), np.cov(x, rowvar=False)) for x in (one, other)]
    assert frechet(*moments[0], *moments[1]) == pytest.approx(slow, rel=1e-3)
    assert frechet(*moments[0], *moments[0]) == pytest.approx(0, abs=1e-6)


def test_real_images_score_well(quick: QuickScore) -> None:
    score = quick(fake_variant(), Replay(*bars(400, 4)))
    assert score["label_agreement"] > 0.95
    assert score["classes_covered"] == 1
    assert score["judge_entropy"] == pytest.approx(np.log(K), abs=0.1)
    assert 0.8 < score["class_diversity"] < 1.2
    assert "label_agreement" not in quick(fake_variant(conditional=False), Replay(*bars(400, 4)))


def test_a_collapse_within_classes_shows(quick: QuickScore) -> None:
    good, stuck = (quick(fake_variant(), Replay(*bars(400, 4), stuck=stuck)) for stuck in (False, True))
    assert stuck["class_diversity"] < 0.1
    assert stuck["label_agreement"] > 0.95
    assert stuck["judge_fid"] > 5 * good["judge_fid"]


def test_a_lost_class_shows(quick: QuickScore) -> None:
    images, labels = bars(400, 4)
    only = images[labels == 0]
    score = quick(fake_variant(), Replay(only[:K], np.arange(K)))
    assert score["classes_covered"] == pytest.approx(1 / K)
    assert score["label_agreement"] == pytest.approx(1 / K, abs=0.05)
    assert score["judge_entropy"] < 0.5


def test_the_noise_is_always_the_same_and_has_a_stream_of_its_own(quick: QuickScore) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    generator = Replay(*bars(400, 4))
    assert quick(fake_variant(), generator) == quick(fake_variant(), generator)
    assert torch.equal(before, torch.get_rng_state())
