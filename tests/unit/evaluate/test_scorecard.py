"""Counts behind the scorecard, and which metrics stand on it."""

import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
from trap import Trap

from lekhani.data.spec import Bytes
from lekhani.evaluate.fidelity import Floats, Readings, fidelity
from lekhani.evaluate.scorecard import Real, read_labels, read_real, score, second_opinion


def logits_for(predicted: list[int], k: int, certainty: float = 5.0) -> Floats:
    return (certainty * np.eye(k)[predicted]).astype(np.float32)


def readings(n: int, k: int, seed: int) -> Readings:
    rng = np.random.default_rng(seed)
    features = np.abs(rng.normal(size=(n, 128))).astype(np.float32)
    return features, logits_for((np.arange(n) % k).tolist(), k)


def test_agreement_entropy_and_coverage_by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2, 3, 3], np.int64)
    found = read_labels(logits_for([0, 0, 1, 0, 2, 2, 0, 0], 4), labels)
    entropy = -sum(share * math.log(share) for share in (5 / 8, 1 / 8, 2 / 8))
    assert found == {"label_agreement": 5 / 8, "class_entropy": pytest.approx(entropy), "classes_covered": 3}
    # A fair share of 2,000 images in 4 classes is 500; what is below a hundredth of it, 5, is a fluke.
    assert read_labels(logits_for([0] * 1990 + [1] * 4 + [2] * 6, 4), None)["classes_covered"] == 2


LABELS = (np.arange(120) % 3).astype(np.int64)


@pytest.fixture(scope="module")
def real() -> Real:
    test, train = readings(120, 3, 1), readings(120, 3, 2)
    return Real(test, train, fidelity(train, test, 40, 1))


@pytest.fixture(scope="module")
def generated() -> list[Readings]:
    """Three sampling seeds."""
    return [(1.5 * features, logits) for features, logits in (readings(120, 3, seed) for seed in (3, 4, 5))]


def test_one_sampling_seed_with_and_without_labels(generated: list[Readings], real: Real) -> None:
    wrong = LABELS.copy()
    wrong[:30] = (wrong[:30] + 1) % 3
    card, unconditional = (score(generated[:1], labels, real, LABELS, 40, 1) for labels in (wrong, None))
    json.dumps(card, allow_nan=False)
    assert (card["label_agreement"], card["label_agreement_floor"]) == (0.75, 1.0)
    assert card["classes_covered"] == card["classes_covered_floor"] == 3
    assert card["fid"] > card["fid_floor"] > 0
    assert card["fid_ratio"] == pytest.approx(card["fid"] / card["fid_floor"])
    assert "kid_ratio" not in card, "an unbiased KID of real images may be zero or below"
    assert {name for name in card if name.endswith("_std")} == {"kid_subset_std", "inception_score_split_std"}
    assert set(card) - set(unconditional) == {"label_agreement", "label_agreement_floor"}
    assert all(unconditional[name] == card[name] for name in unconditional)


def test_several_sampling_seeds_by_hand(generated: list[Readings], real: Real) -> None:
    logits = [one[1].copy() for one in generated]
    for k, one in enumerate(logits):  # seed k gets k times 12 labels wrong
        one[: 12 * k] = np.roll(one[: 12 * k], 1, axis=1)
    samples = [(features, one) for (features, _), one in zip(generated, logits, strict=True)]
    card = score(samples, LABELS, real, LABELS, 40, 1)
    each = [fidelity(one, real.test, 40, 1) for one in samples]
    assert card["sampling_seeds"] == 3
    for name in ("fid", "kid", "inception_score", "precision", "recall"):
        values = [one[name] for one in each]
        assert card[name] == pytest.approx(sum(values) / 3)
        assert card[f"{name}_std"] == pytest.approx(statistics.stdev(values))
        assert card[f"{name}_floor"] == real.floor[name]
    assert card["fid_ratio"] == pytest.approx(card["fid"] / real.floor["fid"])
    assert card["kid_subset_std"] == pytest.approx(sum(one["kid_subset_std"] for one in each) / 3)
    assert card["label_agreement"] == pytest.approx(1 - (0 + 12 + 24) / 360)
    assert card["label_agreement_std"] == pytest.approx(0.1)
    assert card["class_entropy_std"] >= 0
    assert isinstance(card["classes_covered"], int)


def test_classes_are_counted_over_all_sampling_seeds(generated: list[Readings], real: Real) -> None:
    samples = [(features, logits_for([k] * 120, 3)) for k, (features, _) in enumerate(generated)]
    card = score(samples, LABELS, real, LABELS, 40, 1)
    assert card["classes_covered"] == 3, "each seed writes one class alone, and each another one"
    assert card["class_entropy"] == pytest.approx(math.log(3))
    assert card["label_agreement"] == pytest.approx(1 / 3)
    assert card["label_agreement_floor"] == 1
    assert card["class_entropy_floor"] == pytest.approx(math.log(3))


class CountingExtractor:
    """An extractor that counts its calls; its features are means of rows and columns."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: Bytes) -> Readings:
        self.calls += 1
        flat = images.astype(np.float32)
        return np.concatenate([flat.mean(1), flat.mean(2)], axis=1), flat[:, 0, :3]


def pictures(n: int, seed: int) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (n, 6, 6)).astype(np.uint8)


@pytest.mark.parametrize("changed", ["test", "train", "subsets", "seed", "extractor"])
def test_what_was_read_of_other_images_is_not_taken(tmp_path: Path, changed: str) -> None:
    read, cache = CountingExtractor(), tmp_path / "toy.npz"
    test, train = pictures(30, 1), pictures(40, 2)
    read_real(read, test, train, 20, 7, cache, "abc")
    if changed in ("test", "train"):
        (test if changed == "test" else train)[3, 2, 1] ^= 1
    choices = (
        10 if changed == "subsets" else 20,
        8 if changed == "seed" else 7,
        cache,
        "abd" if changed == "extractor" else "abc",
    )
    got = read_real(read, test, train, *choices)
    assert read.calls == 4
    assert got.floor == fidelity(read(train), read(test), *choices[:2])


@pytest.mark.parametrize("damage", ["cut", "empty", "pickle", "other arrays"])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, damage: str) -> None:
    read, cache = CountingExtractor(), tmp_path / "toy.npz"
    test, train = pictures(30, 1), pictures(40, 2)
    first = read_real(read, test, train, 20, 7, cache, "abc")
    whole = cache.read_bytes()
    if damage == "pickle":
        np.savez(cache, key=np.array([Trap(tmp_path / "ran")], dtype=object))
    elif damage == "other arrays":
        np.savez(cache, rows=np.zeros(3))
    else:
        cache.write_bytes(b"" if damage == "empty" else whole[: len(whole) // 2])
    assert read_real(read, test, train, 20, 7, cache, "abc").floor == first.floor
    assert read.calls == 4
    assert not (tmp_path / "ran").exists()
    again = read_real(read, test.copy(), train.copy(), 20, 7, cache, "abc")
    assert read.calls == 4, "mended, and read from the cache"
    for one, other in zip(first.test, again.test, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype == np.float32
    assert list(tmp_path.iterdir()) == [cache]


def sees(*classes: int) -> Readings:
    """A classifier that reads three images so."""
    return np.zeros((3, 2), np.float32), np.eye(3, dtype=np.float32)[list(classes)]


def test_a_second_opinion() -> None:
    labels, test_labels = np.array([0, 1, 2]), np.array([2, 2, 1])
    judge, second = [sees(0, 1, 2), sees(0, 1, 0)], [sees(0, 1, 1), sees(0, 0, 0)]
    card = second_opinion(judge, second, labels, sees(2, 2, 0), sees(2, 1, 1), test_labels)
    assert card == {
        "judges_agree": pytest.approx(2 / 3),
        "judges_agree_std": 0.0,
        "judges_agree_floor": pytest.approx(1 / 3),
        "label_agreement_second": pytest.approx(0.5),
        "label_agreement_second_std": pytest.approx(np.std([2 / 3, 1 / 3], ddof=1)),
        "label_agreement_second_floor": pytest.approx(2 / 3),
    }
    alone = second_opinion(judge[:1], second[:1], None, sees(2, 2, 0), sees(2, 1, 1), test_labels)
    assert set(alone) == {"judges_agree", "judges_agree_floor"}, "nothing was asked for, and one seed has no deviation"
