"""Counts behind the scorecard, and which metrics stand on it."""

import json
import math

import numpy as np
import pytest

from lekhani.evaluate.scorecard import Floats, per_class, read_labels, score


def logits_for(predicted: list[int], k: int, certainty: float = 5.0) -> Floats:
    return (certainty * np.eye(k)[predicted]).astype(np.float32)


def readings(n: int, k: int, seed: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    features = np.abs(rng.normal(size=(n, 128))).astype(np.float32)
    return features, logits_for((np.arange(n) % k).tolist(), k)


def test_agreement_entropy_and_coverage_by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2, 3, 3], np.int64)
    got = read_labels(logits_for([0, 0, 1, 0, 2, 2, 0, 0], 4), labels)
    assert got.label_agreement == 5 / 8
    assert got.class_entropy == pytest.approx(-(5 / 8 * math.log(5 / 8) + 1 / 8 * math.log(1 / 8) + 2 / 8 * math.log(2 / 8)))
    assert got.classes_covered == 3


def test_entropy_reaches_from_nothing_to_log_k() -> None:
    assert read_labels(logits_for([2] * 9, 4), None).class_entropy == 0
    assert read_labels(logits_for([0, 1, 2, 3], 4), None).class_entropy == pytest.approx(math.log(4))


def test_a_class_read_by_a_fluke_is_not_covered() -> None:
    # A fair share of 2,000 images in 4 classes is 500; a hundredth of it is 5.
    predicted = [0] * (2000 - 4 - 6) + [1] * 4 + [2] * 6
    assert read_labels(logits_for(predicted, 4), None).classes_covered == 2


def test_an_unconditional_generator_has_no_agreement() -> None:
    assert read_labels(logits_for([0, 1], 2), None).label_agreement is None


@pytest.fixture(scope="module")
def cards() -> tuple[dict[str, float], dict[str, float]]:
    test, train = readings(120, 3, 1), readings(120, 3, 2)
    generated = (readings(120, 3, 3)[0] * 1.5, readings(120, 3, 3)[1])
    labels = (np.arange(120) % 3).astype(np.int64)
    wrong = labels.copy()
    wrong[:30] = (wrong[:30] + 1) % 3
    return (
        score(generated, wrong, test, labels, train, 40, 1),
        score(generated, None, test, labels, train, 40, 1),
    )


def test_a_conditional_scorecard(cards: tuple[dict[str, float], dict[str, float]]) -> None:
    card, _ = cards
    for name in ("fid", "kid", "inception_score", "precision", "recall", "class_entropy", "classes_covered", "label_agreement"):
        assert f"{name}_floor" in card
        assert math.isfinite(card[name])
    assert card["label_agreement"] == 0.75
    assert card["label_agreement_floor"] == 1.0
    assert card["classes_covered"] == card["classes_covered_floor"] == 3
    assert card["fid"] > card["fid_floor"] > 0
    assert card["fid_ratio"] == pytest.approx(card["fid"] / card["fid_floor"])
    assert {"kid_std", "inception_score_std"} <= set(card)
    assert "kid_ratio" not in card, "an unbiased KID of real images may be zero or below"


def test_what_does_not_apply_is_absent(cards: tuple[dict[str, float], dict[str, float]]) -> None:
    conditional, unconditional = cards
    assert set(conditional) - set(unconditional) == {"label_agreement", "label_agreement_floor"}
    assert all(unconditional[name] == conditional[name] for name in unconditional)


def test_a_scorecard_is_flat_json(cards: tuple[dict[str, float], dict[str, float]]) -> None:
    for card in cards:
        again = json.loads(json.dumps(card, allow_nan=False))
        assert all(isinstance(value, int | float) for value in again.values())


def test_rows_per_class_by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 1, 2], np.int64)
    rows = per_class(logits_for([0, 1, 1, 1, 0, 1], 4, certainty=2.0), labels, 4)
    assert [row["label"] for row in rows] == [0, 1, 2, 3]
    assert [row["asked"] for row in rows] == [2, 3, 1, 0]
    assert [row["read_as"] for row in rows] == [2, 4, 0, 0]
    assert [row["agreement"] for row in rows[:3]] == pytest.approx([1 / 2, 2 / 3, 0])
    assert math.isnan(rows[3]["agreement"])
    assert rows[0]["confidence"] == pytest.approx(math.e**2 / (math.e**2 + 3), rel=1e-5)
    assert math.isnan(rows[2]["confidence"])


def test_confidence_of_huge_logits_is_a_number() -> None:
    (row, _) = per_class(np.array([[1e4, -1e4]], np.float32), None, 2)
    assert row["confidence"] == 1


def test_rows_of_an_unconditional_generator() -> None:
    rows = per_class(logits_for([0, 0, 1], 2), None, 2)
    assert [set(row) for row in rows] == [{"label", "read_as", "confidence"}] * 2
    assert [row["read_as"] for row in rows] == [2, 1]
