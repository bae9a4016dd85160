"""Places, ties, and the scorecards of several training seeds as one."""

import re
import statistics
from typing import Any

import pytest

from lekhani.errors import LekhaniError
from lekhani.evaluate.ranking import pool_training_seeds, rank, tie

Card = dict[str, Any]


def card(variant: str, fid: float, std: float | None = None, dataset: str = "mnist", **more: Any) -> Card:
    """With a deviation over five sampling seeds, or of a single one."""
    spread = {} if std is None else {"fid_std": std, "sampling_seeds": 5}
    return {
        "dataset": dataset,
        "variant": variant,
        "fid": fid,
        "fid_floor": 2.0,
        "fid_ratio": fid / 2,
        **spread,
        **more,
    }


def places(cards: list[Card]) -> list[tuple[str, str]]:
    return [(place, one["variant"]) for place, one in rank(cards)]


def test_the_best_of_each_dataset_comes_first() -> None:
    cards = [card("dcgan", 30.0), card("dcgan", 9.5, dataset="devanagari"), card("draw", 10.5, dataset="devanagari")]
    ranked = [(one.place, one.card["dataset"], one.card["variant"]) for one in rank(cards)]
    assert ranked == [("1", "devanagari", "dcgan"), ("2", "devanagari", "draw"), ("1", "mnist", "dcgan")]


def test_fid_counts_in_parts_of_its_floor() -> None:
    # Scored on fewer images: both its FID and its floor are higher.
    nearer = card("nearer", 10.0, fid_floor=8.0, fid_ratio=1.25)
    assert places([card("farther", 9.0), nearer]) == [("1", "nearer"), ("2", "farther")]
    without = {key: value for key, value in nearer.items() if key != "fid_ratio"} | {"fid_floor": 0.0}
    assert places([card("farther", 9.0), without]) == [("1", "farther"), ("2", "nearer")]


def test_ties_share_the_place_of_the_leader_and_do_not_chain() -> None:
    # The standard error of a difference is 0.1 * sqrt(2/5) = 0.063, and t at 8 degrees of freedom 2.31, so that 0.146
    # apart is a tie.
    fids = {"d": 3.9, "b": 3.12, "c": 3.24, "a": 3.0, "e": 3.36}
    cards = [card(name, fid, 0.1) for name, fid in fids.items()]
    assert places(cards) == [("1=", "a"), ("1=", "b"), ("3=", "c"), ("3=", "e"), ("5", "d")]


def test_equal_models_share_a_place_whatever_stands_at_the_same_fid() -> None:
    # b and d tie with a, and c with its small deviation does not; by name alone c would part b from d.
    a = card("a", 3.0, 0.03)
    b, c, d = (card(name, 3.1, std) for name, std in (("b", 0.2), ("c", 0.001), ("d", 0.2)))
    assert places([a, b, d]) == [("1=", "a"), ("1=", "b"), ("1=", "d")]
    assert places([a, b, c, d]) == [("1", "a"), ("2=", "c"), ("2=", "b"), ("2=", "d")]


def test_training_seeds_count_where_there_are_any() -> None:
    # 0.2 apart at deviation 0.1: distinct with 5 seeds, but not with the 2 trainings that the deviation is over.
    assert places([card("a", 3.0, 0.1), card("b", 3.2, 0.1)]) == [("1", "a"), ("2", "b")]
    two = [card(name, fid, 0.1, training_seeds=2) for name, fid in (("a", 3.0), ("b", 3.2))]
    assert places(two) == [("1=", "a"), ("1=", "b")]


def test_ties_by_hand() -> None:
    def of(value: float, spread: float) -> Card:
        return {"fid": value, "fid_std": spread, "sampling_seeds": 3}

    # Three seeds each: the standard error of the difference is 0.1 * sqrt(2 / 3) = 0.0816, Student's t with 4 degrees
    # of freedom 2.776.
    assert tie(of(1.0, 0.1), of(1.0 + 2.77 * 0.08165, 0.1))
    assert not tie(of(1.0, 0.1), of(1.0 + 2.79 * 0.08165, 0.1))
    assert tie(of(1.0, 0.0), of(1.0, 0.0))
    assert not tie(of(1.0, 0.0), of(1.1, 0.0))
    single = {"fid": 1.01, "sampling_seeds": 1}
    assert tie(single, single)
    assert not tie(single, of(1.0, 0.5)), "without a spread only equal values tie"
    assert not tie(of(1.0, 0.5), single)


def seeded(train_seed: int, fid: float, **more: Any) -> Card:
    shared = {"fid_std": 0.5, "sampling_seeds": 3, "judge_sha256": "j", "n_generated": 100, "profile": "quick"}
    shared |= {"kid_subset_std": 0.01 * train_seed, "recall": 0.5, "classes_covered": 9, "images_seen": 80000}
    return card("draw", fid, train_seed=train_seed, model_sha256=f"m{train_seed}", **shared, **more)


def test_training_seeds_are_pooled() -> None:
    alone = card("dcgan", 7.0, train_seed=1)
    floors = {"usefulness_floor": 0.9, "usefulness_floor_std": 0.01}
    cards = [seeded(1, 4.0, **floors), seeded(2, 5.0, label_agreement=0.5, **floors), seeded(3, 9.0, **floors)]
    pooled, other = pool_training_seeds([cards[0], alone, *cards[1:]])
    assert other is alone
    expected = {
        **{"fid": 6.0, "fid_ratio": 3.0, "fid_floor": 2.0, "kid_subset_std": pytest.approx(0.02), "recall_std": 0},
        **{"fid_std": pytest.approx(statistics.stdev([4.0, 5.0, 9.0]))},  # not the 0.5 over sampling seeds
        **{"classes_covered": 9, "n_generated": 100, "judge_sha256": "j", "profile": "quick", "training_seeds": 3},
        **floors,  # the floor has no training seeds
    }
    assert {key: pooled[key] for key in expected} == expected
    assert isinstance(pooled["classes_covered"], int)
    made = {"model_sha256", "train_seed", "label_agreement"}  # of one training alone, or that not all have
    invented = {key for key in pooled if re.search(r"(_floor|_ratio|_subset_std|generated|seen|seeds)_std$", key)}
    assert not (made | invented - {"usefulness_floor_std"}) & set(pooled)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"judge_sha256": "other"}, r"mnist/draw differ in judge_sha256 \(j, other\)"),
        ({"data_digest": "d"}, r"differ in data_digest \(unknown, d\)"),
        ({"train_seed": 1}, r"train_seed of its own .* \[1, 1\]"),
        ({"train_seed": None}, r"train_seed of its own"),
    ],
)
def test_what_does_not_compare_is_not_pooled(change: Card, sentence: str) -> None:
    with pytest.raises(LekhaniError, match=sentence):
        pool_training_seeds([seeded(1, 4.0), {**seeded(2, 5.0), **change}])
