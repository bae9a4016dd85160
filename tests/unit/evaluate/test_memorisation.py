"""Planted copies are found in the right share, and new images are none."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist

from lekhani.data.sources.embedded import devanagari, mnist
from lekhani.errors import LekhaniError
from lekhani.evaluate import memorisation as module
from lekhani.evaluate.memorisation import among_features, closest_figure, descriptors, memorisation

Images = np.ndarray[Any, np.dtype[np.uint8]]


@pytest.fixture(scope="module")
def letters() -> Images:
    """1,610 embedded letters, 35 of each class, in mixed order."""
    drawn = np.asarray(devanagari(seed=7, per_class_train=34, per_class_test=1).images)
    return drawn[np.random.default_rng(0).permutation(len(drawn))]


@pytest.fixture(scope="module")
def train(letters: Images) -> Images:
    return letters[:900]


@pytest.fixture(scope="module")
def test(letters: Images) -> Images:
    return letters[900:1200]


@pytest.fixture(scope="module")
def fresh(letters: Images) -> Images:
    """What a generator draws that copies nothing: letters of neither split."""
    return letters[1200:1600]


def each(images: Images, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Images:
    return np.stack([np.rint(np.clip(change(image.astype(float)), 0, 255)).astype(np.uint8) for image in images])


CHANGES: dict[str, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {
    "exact": lambda image: image,
    "shifted": lambda image: np.roll(image, (1, -1), (0, 1)),
    "blurred": lambda image: ndimage.gaussian_filter(image, 0.6),
    "dimmed": lambda image: image * 0.75,
    "brighter": lambda image: image * 1.2,
    "noisy": lambda image: image + np.random.default_rng(int(image.sum())).normal(0, 12, image.shape),
    "all at once": lambda image: (
        0.85 * ndimage.gaussian_filter(np.roll(image, 1, 1), 0.5) + np.random.default_rng(1).normal(0, 8, image.shape)
    ),
}


def test_new_letters_are_no_copies(train: Images, test: Images, fresh: Images) -> None:
    metrics, pairs = memorisation(fresh, train, test, 1)
    names = {"near_copies", "train_excess", "nearest_train", "nearest_test"}
    assert set(metrics) == {*names, *(f"{name}_floor" for name in names), "train_excess_std"}
    for name in ("nearest_train", "nearest_test"):
        assert metrics[name] == pytest.approx(metrics[f"{name}_floor"], rel=0.1), "as far as other real letters"
    assert max(metrics["near_copies"], metrics["near_copies_floor"]) < 0.01
    assert abs(metrics["train_excess"]) < 3 * metrics["train_excess_std"] < 0.5
    assert len(pairs) == 12


@pytest.mark.parametrize("name", CHANGES)
def test_a_replay_in_other_pixels_is_a_near_copy(train: Images, test: Images, name: str) -> None:
    replayed = np.arange(0, 900, 6)
    metrics, pairs = memorisation(each(train[replayed], CHANGES[name]), train, test, 1)
    assert metrics["near_copies"] >= 0.99
    assert metrics["train_excess"] >= 0.95
    assert all(pair.train == replayed[pair.generated] for pair in pairs)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_share_of_replays_is_found(train: Images, test: Images, fresh: Images, share: float) -> None:
    n = int(share * 400)
    generated = np.concatenate([each(train[:n], CHANGES["all at once"]), fresh[n:]])
    metrics, pairs = memorisation(generated, train, test, 1, closest=n)
    new, _ = memorisation(fresh[n:], train, test, 1)
    assert metrics["near_copies"] == pytest.approx(share, abs=0.005)
    assert metrics["train_excess"] == pytest.approx(share + (1 - share) * new["train_excess"], abs=0.01)
    assert sorted(pair.generated for pair in pairs) == list(range(n))


def test_plain_ones_are_no_copies_of_one_another() -> None:
    """Scanned digits: of all drawings a 1 is the most like another writer's."""
    digits = mnist()
    images = each(np.asarray(digits.images), lambda image: ndimage.zoom(image, 3, order=1))
    train, test, ones = images[:1200], images[1200:1500], images[1500:][digits.labels[1500:] == 1]
    metrics, pairs = memorisation(ones, train, test, 1)
    assert sum(pair.distance < 0.15 for pair in pairs) >= 4, "several lie as close as copies"
    assert metrics["near_copies"] <= 1 / len(ones)
    replays = train[digits.labels[:1200] == 1]
    assert memorisation(each(replays, CHANGES["noisy"]), train, test, 1)[0]["near_copies"] > 0.9


def test_the_floor_of_near_copies_counts_test_images_that_repeat_train(
    train: Images, test: Images, fresh: Images
) -> None:
    leaking = np.concatenate([each(train[:75], CHANGES["noisy"]), test[75:]])
    metrics, _ = memorisation(fresh, train, leaking, 1)
    assert metrics["near_copies"] < 0.01
    assert metrics["near_copies_floor"] == pytest.approx(75 / 300, abs=0.02)


def test_metrics_by_brute_force(train: Images, test: Images, fresh: Images) -> None:
    train, test, fresh = train[:120], test[:60], fresh[:200]
    metrics, found = memorisation(fresh, train, test, 1, closest=200)
    drawn, known, unseen = map(descriptors, (fresh, train, test))
    pairs = {"nearest_train": (drawn, known), "nearest_test": (drawn, unseen)}
    pairs |= {"nearest_train_floor": (unseen, known), "nearest_test_floor": (known, unseen)}
    for name, (one, other) in pairs.items():
        assert metrics[name] == pytest.approx(np.median(cdist(one, other).min(1)), abs=1e-3), name
    real = np.concatenate([known, unseen])
    chance = 120 / 180
    of_train = (cdist(drawn, real).argmin(1) < 120).mean()
    assert metrics["train_excess"] == pytest.approx((of_train - chance) / (1 - chance))
    among = cdist(known, real)
    np.fill_diagonal(among, np.inf)
    chance = 119 / 179
    of_train = (among.argmin(1) < 120).mean()
    assert metrics["train_excess_floor"] == pytest.approx((of_train - chance) / (1 - chance))
    ordered = np.sort(cdist(drawn, known), axis=1)
    for pair in found:
        nearest, *others = ordered[pair.generated, :10]
        assert pair.distance == pytest.approx(nearest, abs=1e-3)
        assert pair.closeness == pytest.approx(nearest / np.median(others), abs=1e-2)


def test_a_replay_lies_on_train_among_features_as_well() -> None:
    rng = np.random.default_rng(3)
    train, test, other = (rng.standard_normal((n, 12)).astype(np.float32) for n in (80, 60, 50))
    replay, new = among_features(7 * train[:50], train, test), among_features(other, train, test)
    assert replay["nearest_train_judge"] < 0.01, "the length of a feature does not count"
    assert new["nearest_train_judge"] > 0.02
    unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (other, train, test)]
    pairs = {"nearest_test_judge": (0, 2), "nearest_train_judge_floor": (2, 1), "nearest_test_judge_floor": (1, 2)}
    for name, (i, j) in pairs.items():
        assert new[name] == pytest.approx(np.median(cdist(unit[i], unit[j]).min(1)), abs=1e-3)


def test_pairs_are_ordered_and_name_a_training_image_once(train: Images, test: Images, fresh: Images) -> None:
    """A generator that draws three training images over and over shows them once each."""
    collapsed = np.concatenate([fresh[:50], *[each(train[:3], CHANGES["noisy"])] * 30])
    metrics, pairs = memorisation(collapsed, train, test, 1, closest=5)
    assert metrics["near_copies"] == pytest.approx(90 / 140)
    assert len(pairs) == 5
    assert {pair.train for pair in pairs[:3]} == {0, 1, 2}
    assert len({pair.train for pair in pairs}) == 5
    assert [pair.closeness for pair in pairs] == sorted(pair.closeness for pair in pairs)
    assert [pair.near_copy for pair in pairs] == [True, True, True, False, False]
    figure = closest_figure(pairs, collapsed, train)
    assert [axes.title.get_color() for axes in figure.axes] == ["tab:red"] * 3 + ["black"] * 2
    for axes, pair in zip(figure.axes, pairs, strict=True):
        shown = np.asarray(axes.images[0].get_array())
        assert np.array_equal(shown[:, :32], collapsed[pair.generated])
        assert np.array_equal(shown[:, -32:], train[pair.train])


def test_the_same_seed_gives_the_same_and_another_only_other_floors(
    train: Images, test: Images, fresh: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FLOOR", 41)
    test = np.concatenate([test, train[:100]])
    first, again, other = (memorisation(fresh, train, test, seed) for seed in (1, 1, 2))
    assert first == again
    assert first[1] == other[1]
    assert {name for name in first[0] if first[0][name] != other[0][name]} == {
        f"{name}_floor" for name in ("near_copies", "train_excess", "nearest_train", "nearest_test")
    }


@pytest.mark.parametrize("size", [12, 33])
def test_descriptors_see_the_drawing_and_neither_its_place_nor_its_brightness(size: int) -> None:
    image = np.zeros((1, size, size), np.uint8)
    image[0, size // 3 : 2 * size // 3, size // 3 : size // 2] = 200
    image[0, size // 2 : size // 2 + 2, size // 3 : 2 * size // 3] = 240
    found = descriptors(image)
    assert (found.shape, found.dtype) == ((1, 256), np.float32)
    assert float(found.mean()) == pytest.approx(0, abs=1e-6)
    assert float(np.linalg.norm(found)) == pytest.approx(1, rel=1e-5)
    for other in (np.roll(image, (1, -2), (1, 2)), (image * 0.5).astype(np.uint8)):
        assert np.linalg.norm(found - descriptors(other)) < 0.01
    assert np.linalg.norm(found - descriptors(image.transpose(0, 2, 1).copy())) > 0.3


@pytest.mark.parametrize(("n_generated", "n_train", "n_test"), [(1, 1, 1), (1, 2, 1), (2, 5, 3)])
def test_few_images_give_numbers(letters: Images, n_generated: int, n_train: int, n_test: int) -> None:
    generated, train, test = letters[:n_generated], letters[10 : 10 + n_train], letters[30 : 30 + n_test]
    metrics, pairs = memorisation(generated, train, test, 1)
    assert all(math.isfinite(value) for value in metrics.values())
    assert ("train_excess_floor" in metrics) == (n_train > 1), "a metric that does not apply is absent"
    assert metrics["near_copies"] == 0
    assert len(pairs) == len({pair.train for pair in pairs}) <= min(n_generated, n_train)
    assert memorisation(train[:1], train, test, 1)[0]["near_copies"] == 1
    with pytest.raises(LekhaniError, match="The train split holds no image"):
        memorisation(generated, letters[:0], test, 1)
