"""Every metric against its own formula in NumPy and SciPy."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from scipy.special import log_softmax

from lekhani.evaluate.fidelity import Floats, fidelity
from lekhani.evaluate.judge import FEATURES

K = 5
Readings = tuple[Floats, Floats]


def readings(n: int, seed: int, offset: float = 0.0, scale: float = 1.0) -> Readings:
    """Features that are correlated as real ones are, and logits of mixed certainty."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(FEATURES, FEATURES)) / FEATURES**0.5
    features = np.maximum(offset + scale * rng.normal(size=(n, FEATURES)) @ mix, 0)
    return features.astype(np.float32), (3 * rng.normal(size=(n, K))).astype(np.float32)


def frechet(a: Floats, b: Floats) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    cross = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = sqrtm(cross[0] @ cross[1]).real
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cross[0] + cross[1] - 2 * root))


def kernel_distance(a: Floats, b: Floats) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)

    def kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return (one @ other.T / FEATURES + 1) ** 3

    n, m = len(x), len(y)
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    return float((xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1)) - 2 * xy.mean())


def inside(points: Floats, among: Floats, k: int = 3) -> float:
    radii = np.sort(cdist(among, among), axis=1)[:, k]
    return float((cdist(points, among) <= radii).any(axis=1).mean())


def inception(logits: Floats, seed: int, splits: int = 10) -> tuple[float, float]:
    log_p = log_softmax(logits.astype(np.float64), axis=1)[np.random.RandomState(seed).permutation(len(logits))]
    scores = []
    for part in np.array_split(log_p, splits):
        p = np.exp(part)
        scores.append(np.exp((p * (part - np.log(p.mean(0)))).sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


@pytest.fixture(scope="module")
def pair() -> tuple[Readings, Readings, dict[str, float]]:
    generated, real = readings(400, 1, offset=0.3, scale=1.2), readings(400, 2)
    return generated, real, fidelity(generated, real, kid_subset_size=10_000, seed=4)


def test_fid(pair: tuple[Readings, Readings, dict[str, float]]) -> None:
    generated, real, got = pair
    assert got["fid"] == pytest.approx(frechet(generated[0], real[0]), rel=1e-3)


def test_kid_over_whole_sets(pair: tuple[Readings, Readings, dict[str, float]]) -> None:
    generated, real, got = pair
    assert got["kid"] == pytest.approx(kernel_distance(generated[0], real[0]), rel=1e-3)
    assert got["kid_std"] == pytest.approx(0, abs=1e-6), "every subset is the whole set"


def test_inception_score(pair: tuple[Readings, Readings, dict[str, float]]) -> None:
    mean, std = inception(pair[0][1], seed=4)
    assert pair[2]["inception_score"] == pytest.approx(mean, rel=1e-3)
    assert pair[2]["inception_score_std"] == pytest.approx(std, rel=1e-2)


def test_precision_and_recall_are_not_mixed_up() -> None:
    rng = np.random.default_rng(0)
    real = rng.normal(size=(200, FEATURES)).astype(np.float32)
    narrow = np.repeat(real[:20], 4, axis=0) + 0.05 * rng.normal(size=(80, FEATURES)).astype(np.float32)
    logits = np.zeros((200, K), np.float32)
    got = fidelity((narrow, logits[:80]), (real, logits), 50, 1)
    assert got["precision"] == pytest.approx(inside(narrow, real), abs=1e-6) == 1
    assert got["recall"] == pytest.approx(inside(real, narrow), abs=1e-6)
    assert got["recall"] < 0.2, "few modes, each of them right"


def test_precision_and_recall(pair: tuple[Readings, Readings, dict[str, float]]) -> None:
    generated, real, got = pair
    assert got["precision"] == pytest.approx(inside(generated[0], real[0]), abs=0.005)
    assert got["recall"] == pytest.approx(inside(real[0], generated[0]), abs=0.005)


@pytest.mark.parametrize(("certainty", "score"), [(0.0, 1.0), (200.0, K)])
def test_inception_score_at_its_ends(certainty: float, score: float) -> None:
    features, _ = readings(5 * 800, 1)
    logits = certainty * np.eye(K, dtype=np.float32)[np.arange(len(features)) % K]
    got = fidelity((features, logits), readings(50, 2), 20, 1)
    assert got["inception_score"] == pytest.approx(score, rel=0.01)


def test_a_set_against_itself_is_at_distance_0() -> None:
    same = readings(300, 1)
    got = fidelity(same, same, 300, 1)
    assert got["fid"] == pytest.approx(0, abs=1e-3)
    assert got["precision"] == got["recall"] == 1


def test_more_noise_is_farther_away() -> None:
    features, logits = readings(300, 1)
    noise = np.random.default_rng(5).normal(size=features.shape).astype(np.float32)
    other = readings(300, 2)
    distances = [fidelity((features + amount * noise, logits), other, 300, 1) for amount in (0, 0.5, 1.0, 2.0)]
    for name in ("fid", "kid"):
        values = [one[name] for one in distances]
        assert values == sorted(values)
        assert values[-1] > 2 * abs(values[0])


def test_the_seed_decides_the_subsets() -> None:
    generated, real = readings(200, 1), readings(200, 2)
    first, again, other = (fidelity(generated, real, 30, seed) for seed in (1, 1, 2))
    assert first == again
    assert first["kid"] != other["kid"]
    assert first["fid"] == other["fid"]
    assert first["kid_std"] > 0


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    fidelity(readings(60, 1), readings(60, 2), 20, 1)
    assert capfd.readouterr() == ("", "")
