"""Synthetic images help when they are good; nothing but the data differs between trainings."""

import io
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch

from lekhani.data.spec import Bytes, Labels
from lekhani.errors import LekhaniError
from lekhani.evaluate import usefulness as module
from lekhani.evaluate.usefulness import Labelled, Point, Trainings, metrics, mix, subset, usefulness_figure
from lekhani.params import Usefulness

CPU = torch.device("cpu")
K, SIZE = 6, 16
PLAIN = dict.fromkeys(("shift", "rotation", "scale", "shear", "bend", "thickness", "nonsense", "held_out"), 0.0)
CHOICE = Usefulness(width=4, images_seen=1600, batch_size=32, lr=1e-2, seeds=2, shares=(0.01, 1.0), **PLAIN)
THREE = (0.01, 0.1, 1.0)
BARS = [np.s_[2:5, :], np.s_[7:10, :], np.s_[11:14, :], np.s_[:, 2:5], np.s_[:, 7:10], np.s_[:, 11:14]]


def glyphs(n: int, seed: int) -> Labelled:
    """Six classes of faint bars in strong noise, so that one example of each does not tell them apart."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % K).astype(np.int64)
    images = rng.integers(0, 200, (n, SIZE, SIZE))
    for image, label in zip(images, labels, strict=True):
        image[BARS[label]] += 45
    return images.astype(np.uint8), labels


TRAIN, TEST, HELD_OUT = glyphs(600, 1), glyphs(300, 2), glyphs(600, 3)


def trainings(
    choice: Usefulness = CHOICE, seed: int = 7, on_point: Callable[[Point], None] = lambda _: None
) -> Trainings:
    return Trainings(TRAIN, TEST, K, choice, seed, CPU, on_point)


@cache
def real() -> list[Point]:
    return trainings().on_real()


@cache
def perfect() -> list[Point]:
    return trainings().on_synthetic(HELD_OUT)


def test_a_perfect_generator_is_worth_as_much_as_real_images() -> None:
    card = metrics([*real(), *perfect()])
    assert card["usefulness_floor"] > 0.85, "the task can be learnt"
    assert abs(card["usefulness"] - card["usefulness_floor"]) < 0.08
    assert card["usefulness_gain_1"] > 0.4, "one real image a class is little"
    assert abs(card["usefulness_gain_100"]) < 0.08


def test_a_generator_that_ignores_labels_teaches_nothing() -> None:
    shuffled = (HELD_OUT[0], np.random.default_rng(5).permutation(HELD_OUT[1]))
    card = metrics([*real(), *trainings().on_synthetic(shuffled)])
    assert abs(card["usefulness"] - 1 / K) < 0.12
    assert card["usefulness_ratio"] < 0.4
    assert card["usefulness_gain_1"] < 0.2
    assert card["usefulness_gain_100"] < 0.06


def test_the_same_seed_gives_the_same_figures_and_another_seed_others() -> None:
    choice = CHOICE.model_copy(update={"images_seen": 640, "shares": (0.1,)})
    torch.manual_seed(99)
    first, again, other = (trainings(choice, seed).on_synthetic(HELD_OUT) for seed in (1, 1, 5))
    assert first == again
    assert first != other
    assert len(set(first[0].accuracies)) > 1, "trainings differ from each other"


def test_trainings_differ_in_their_data_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind has the same choice, seeds, test split and batch size, and the same real images."""
    calls: list[tuple[Usefulness, Labelled, Labelled, int]] = []

    class Report:
        accuracy = 0.5

    def spy(
        choice: Usefulness, data: Labelled, test: Labelled, n_classes: int, seed: int, *_: object
    ) -> tuple[None, Report]:
        calls.append((choice, data, test, seed))
        assert n_classes == K
        return None, Report()

    monkeypatch.setattr(module, "train_judge", spy)
    choice = CHOICE.model_copy(update={"shares": THREE, "seeds": 3})
    reported: list[Point] = []
    ours = trainings(choice, on_point=reported.append)
    points = ours.on_real() + ours.on_synthetic(HELD_OUT)
    assert [seed for *_, seed in calls] == [7, 8, 9] * 7
    assert reported == points
    assert [(p.kind, p.share, p.n_real, p.n_synthetic) for p in points] == [
        ("real", 0.01, K, 0),
        ("real", 0.1, 60, 0),
        ("real", 1.0, 600, 0),
        ("synthetic", 0.0, 0, 600),
        ("real+synthetic", 0.01, K, 600),
        ("real+synthetic", 0.1, 60, 600),
        ("real+synthetic", 1.0, 600, 600),
    ]
    assert all(used is choice and test is TEST for used, _, test, _ in calls)
    assert min(len(data[0]) for _, data, _, _ in calls) >= CHOICE.batch_size, "train_judge would take smaller batches"

    def unique(data: Labelled) -> set[bytes]:
        assert len(data[0]) == len(data[1])
        return {image.tobytes() + bytes([label]) for image, label in zip(*data, strict=True)}

    seen = [unique(data) for _, data, _, _ in calls]
    every = unique(TRAIN)
    for i in range(9):
        assert seen[i] <= every
        assert seen[12 + i] == seen[i] | unique(HELD_OUT)
    assert seen[9] == seen[10] == seen[11] == unique(HELD_OUT)
    assert seen[0] < seen[3] < seen[6] == every, "the smaller share lies within the larger"
    assert seen[0] != seen[1], "each seed draws a subset of its own"


# --- subset and mix ---


def unbalanced() -> Labels:
    return np.repeat([0, 2, 3, 7], [1, 4, 40, 150]).astype(np.int64)


@pytest.mark.parametrize("share", [0.001, 0.1, 1.0])
def test_a_subset_holds_its_share_of_each_class_and_at_least_one(share: float) -> None:
    labels = unbalanced()
    rows = subset(labels, share, 3)
    assert len(set(rows.tolist())) == len(rows)
    classes, counts = np.unique(labels[rows], return_counts=True)
    assert classes.tolist() == [0, 2, 3, 7], "a class without images adds none"
    for got, there in zip(counts, (1, 4, 40, 150), strict=True):
        assert got == max(1, round(share * there))


def marked(n: int, mark: int) -> Labelled:
    images: Bytes = np.full((n, 2, 2), mark, np.uint8)
    images[:, 0, 0] = np.arange(n)
    return images, np.arange(n, dtype=np.int64)


@pytest.mark.parametrize(("n_real", "n_synthetic"), [(1, 1), (40, 100), (100, 10)])
def test_real_images_are_half_of_a_mixture_or_their_natural_share(n_real: int, n_synthetic: int) -> None:
    images, labels = mix(marked(n_real, 200), marked(n_synthetic, 100))
    is_real = images[:, 1, 1] == 200
    assert is_real.sum() == max(n_real, n_synthetic)
    assert (~is_real).sum() == n_synthetic, "no synthetic image is repeated or left out"
    times = np.bincount(labels[is_real], minlength=n_real)
    assert len(times) == n_real
    assert times.max() - times.min() <= 1
    assert (images[:, 0, 0] == labels).all(), "labels stay with their images"


def test_no_class_is_repeated_more_than_others() -> None:
    labels = np.repeat(np.arange(10), 100).astype(np.int64)  # in class order, as prepared data may be
    rows = subset(labels, 0.4, 1)
    _, mixed = mix((np.zeros((400, 2, 2), np.uint8), labels[rows]), (np.zeros((600, 2, 2), np.uint8), np.full(600, 10)))
    counts = np.bincount(mixed)[:10]
    assert counts.sum() == 600
    assert counts.max() < 75, "in class order the first five classes would count 80 and the others 40"


# --- figures ---


def point(kind: str, share: float, accuracies: list[float], n_synthetic: int = 0) -> Point:
    return Point(kind, share, round(1000 * share), n_synthetic, accuracies)  # type: ignore[arg-type]


HAND = [
    point("real", 0.01, [0.2, 0.4, 0.6]),
    point("real", 1.0, [0.8, 0.8, 0.8]),
    point("synthetic", 0.0, [0.3, 0.4, 0.5], 50),
    point("real+synthetic", 0.01, [0.3, 0.5, 0.7], 50),
    point("real+synthetic", 1.0, [0.7, 0.8, 0.6], 50),
]


def test_metrics_by_hand() -> None:
    assert metrics(HAND) == pytest.approx(
        {
            "usefulness": 0.4,
            "usefulness_std": 0.1,
            "usefulness_floor": 0.8,
            "usefulness_floor_std": 0,
            "usefulness_ratio": 0.5,
            "usefulness_gain_1": 0.1,
            "usefulness_gain_1_std": 0,  # every pair gains the same, however far the pairs lie apart
            "usefulness_gain_100": -0.1,
            "usefulness_gain_100_std": 0.1,
        }
    )


def test_a_single_training_has_no_deviation_and_no_full_share_no_floor() -> None:
    points = [
        point("real", 0.025, [0.2]),
        point("synthetic", 0.0, [0.4], 50),
        point("real+synthetic", 0.025, [0.3], 50),
    ]
    assert metrics(points) == pytest.approx({"usefulness": 0.4, "usefulness_gain_2.5": 0.1})
    assert points[0].row()["accuracy_std"] is None
    usefulness_figure(points, "one training").savefig(io.BytesIO(), format="png")


@pytest.mark.parametrize("real", [[point("real", 0.01, [0.2, 0.4]), HAND[1]], [HAND[1]]])
def test_halves_that_were_measured_otherwise_are_not_compared(real: list[Point]) -> None:
    with pytest.raises(LekhaniError, match=r"1% of the real images .*`dvc repro`"):
        metrics([*real, *HAND[2:]])
