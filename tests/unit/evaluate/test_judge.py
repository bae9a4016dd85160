"""The judge learns what can be learnt, counts honestly, and is as confident as it should be."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lekhani import params
from lekhani.data.spec import Bytes, Labels
from lekhani.evaluate import judge
from lekhani.evaluate.judge import (
    Classifier,
    Floats,
    JudgeNet,
    JudgeReport,
    SecondNet,
    augment,
    calibration_error,
    fit_temperature,
    read,
    train_judge,
)
from lekhani.export.weights import save_weights

CPU = torch.device("cpu")
SIZE = 16
Network = Callable[[int, int], Classifier]
NETWORKS = [JudgeNet, SecondNet]
# Unchanged images, so that a test can change one thing.
STILL = params.Judge(width=4, images_seen=1, shift=0, rotation=0, scale=0, shear=0, bend=0, thickness=0)
CHOICE = params.Judge(width=4, images_seen=1600, batch_size=32, shift=1, lr=1e-2)
BRIEF = params.Judge(width=4, images_seen=64, batch_size=32)


def glyphs(n: int, seed: int, noise: int = 60) -> tuple[Bytes, Labels]:
    """Class 0 has a bar on top, class 1 one at the bottom, class 2 one on the left."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 3).astype(np.int64)
    images = rng.integers(0, noise, (n, SIZE, SIZE))
    for image, label in zip(images, labels, strict=True):
        where = [np.s_[2:5, :], np.s_[11:14, :], np.s_[:, 2:5]][label]
        image[where] += 180
    return images.astype(np.uint8), labels


def mislabelled(n: int, seed: int) -> tuple[Bytes, Labels]:
    """Glyphs of which one in twelve carries another's label."""
    images, labels = glyphs(n, seed)
    wrong = np.random.default_rng([seed, 1]).random(n) < 1 / 12
    return images, np.where(wrong, (labels + 1) % 3, labels)


def trained(
    choice: params.Judge,
    train: tuple[Bytes, Labels],
    test: tuple[Bytes, Labels],
    seed: int = 5,
    network: Network = JudgeNet,
    on_progress: Callable[[float, float], None] = lambda *_: None,
) -> tuple[Classifier, JudgeReport]:
    return train_judge(choice, train, test, 3, seed, CPU, on_progress, network)


@pytest.mark.parametrize("network", NETWORKS)
def test_separable_classes_are_separated_and_counted(network: Network) -> None:
    progress: list[tuple[float, float]] = []
    images, labels = glyphs(50, 2)
    net, report = trained(
        CHOICE, glyphs(150, 1), (images, labels), network=network, on_progress=lambda *step: progress.append(step)
    )
    assert report.accuracy > 0.95
    assert report.accuracy == pytest.approx((report.predicted == labels).mean())
    assert report.predicted.tolist() == read(net, images)[1].argmax(1).tolist()
    assert report.seconds > 0
    shares = [done for done, _ in progress]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert progress[-1][1] < 0.7 * progress[0][1]
    assert not net.training
    for one, other in zip(read(net, images, batch_size=4), read(net, images), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_same_seed_trains_the_same_bytes(network: Network, tmp_path: Path) -> None:
    written = []
    for i, seed in enumerate((1, 1, 2)):
        net, _ = trained(BRIEF.model_copy(update={"held_out": 0.2}), glyphs(60, 1), glyphs(9, 2), seed, network)
        save_weights(net, tmp_path / str(i))
        written.append((tmp_path / str(i)).read_bytes())
    assert written[0] == written[1] != written[2]


# --- augmentation ---


def one_dot(n: int = 4000, side: int = 15) -> torch.Tensor:
    """`n` images with a round dot, four pixels to the right of the middle."""
    images = torch.zeros(n, side, side, dtype=torch.uint8)
    dot = torch.tensor([60, 120, 60])
    middle = side // 2
    images[:, middle - 1 : middle + 2, middle + 3 : middle + 6] = (dot[:, None] * dot / 60).byte()
    return images


def centres(moved: torch.Tensor) -> torch.Tensor:
    """Where the ink of [N,1,H,W] lies: [N,2], x and y from the middle, in pixels."""
    ink = moved[:, 0]
    steps = torch.arange(ink.shape[1]) - ink.shape[1] // 2
    return torch.stack([(ink.sum(1) * steps).sum(1), (ink.sum(2) * steps).sum(1)], 1) / ink.sum((1, 2))[:, None]


def augmented(images: torch.Tensor, **changes: float) -> torch.Tensor:
    torch.manual_seed(0)
    return augment(images, STILL.model_copy(update=changes))


def test_augmenting_by_nothing_is_the_image_itself() -> None:
    images = torch.randint(0, 256, (5, 20, 20), dtype=torch.uint8)
    torch.testing.assert_close(augmented(images), images[:, None].float() / 255, atol=1e-5, rtol=0)


@pytest.mark.parametrize("most", [1, 2])
def test_a_shift_reaches_every_place_and_no_other(most: int) -> None:
    places = centres(augmented(one_dot(), shift=most)) - torch.tensor([4.0, 0.0])
    assert places.abs().max() <= most + 1e-3
    for axis in range(2):
        assert np.histogram(places[:, axis], bins=8, range=(-most, most))[0].min() > 350, "uniform, 500 each are due"
    assert np.corrcoef(places.T.numpy())[0, 1] == pytest.approx(0, abs=0.06)


def test_a_turn_keeps_the_distance_from_the_middle() -> None:
    x, y = centres(augmented(one_dot(), rotation=30.0)).T
    angle = torch.rad2deg(torch.atan2(y, x))
    assert angle.abs().max() == pytest.approx(30, abs=1.5)
    assert angle.mean() == pytest.approx(0, abs=1.5)
    assert angle.std() == pytest.approx(30 / 3**0.5, abs=1), "uniform"
    torch.testing.assert_close(torch.hypot(x, y), torch.full_like(x, 4), atol=0.3, rtol=0)


def test_a_stretch_moves_away_from_the_middle_and_a_slant_along_the_line() -> None:
    x, y = centres(augmented(one_dot(), scale=0.2)).T
    assert y.abs().max() < 1e-3
    assert (float(x.min()), float(x.max())) == pytest.approx((4 * np.exp(-0.2), 4 * np.exp(0.2)), abs=0.1)
    below = one_dot().transpose(1, 2)
    x, y = centres(augmented(below, shear=0.25)).T
    torch.testing.assert_close(y, torch.full_like(y, 4), atol=1e-3, rtol=0)
    assert (float(x.min()), float(x.max())) == pytest.approx((-1, 1), abs=0.1)


def test_images_are_augmented_in_training_and_never_in_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, kept_back = [], []
    original = judge.read

    def augment_spy(images: torch.Tensor, choice: params.Judge) -> torch.Tensor:
        seen.append(images[:, 0, 0].numpy())
        return augment(images, choice)

    def read_spy(net: Classifier, images: Bytes, batch_size: int = 512) -> tuple[Floats, Floats]:
        kept_back.append(images[:, 0, 0])
        return original(net, images, batch_size)

    monkeypatch.setattr(judge, "augment", augment_spy)
    monkeypatch.setattr(judge, "read", read_spy)
    images, labels = glyphs(100, 1)
    images[:, 0, 0] = np.arange(100)  # a number on every image
    test = glyphs(12, 2)
    test[0][:, 0, 0] = 200 + np.arange(12)
    trained(params.Judge(width=4, images_seen=400, batch_size=20, held_out=0.15), (images, labels), test)
    held, tested = (set(part.tolist()) for part in kept_back)
    assert len(held) == 15
    assert held | set(np.concatenate(seen).tolist()) == set(range(100))
    assert not held & set(np.concatenate(seen).tolist()), "what calibrates is not trained on"
    assert tested == set(range(200, 212)), "the test split is read once, whole, and by itself"


def test_training_ends_calmly(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[params.Classifier] = []

    def spy(images: torch.Tensor, choice: params.Classifier) -> torch.Tensor:
        given.append(choice)
        return augment(images, choice)

    monkeypatch.setattr(judge, "augment", spy)
    choice = params.Judge(width=4, images_seen=400, batch_size=20, calm=0.27)
    trained(choice, glyphs(60, 1), glyphs(12, 2))
    assert given[:15] == [choice] * 15, "27% of 20 steps are 5"
    assert len(given) == 20
    for calmer in given[15:]:
        assert calmer.rotation == pytest.approx(choice.rotation / 5)
        assert calmer.thickness == pytest.approx(choice.thickness / 5)
        assert calmer.nonsense == choice.nonsense


def test_nonsense_teaches_to_be_unsure() -> None:
    blank = np.zeros((1, SIZE, SIZE), np.uint8)
    confidence = []
    for share in (0.0, 0.2):
        net, report = trained(CHOICE.model_copy(update={"nonsense": share}), glyphs(150, 1), glyphs(30, 2))
        assert report.accuracy > 0.9
        confidence.append(torch.from_numpy(read(net, blank)[1]).softmax(1).amax().item())
    assert confidence[1] < 0.45, "a blank is no glyph of the three"
    assert confidence[1] < confidence[0] - 0.03


def test_rounds_follow_until_the_images_kept_from_training_are_read() -> None:
    few = CHOICE.model_copy(update={"images_seen": 100, "held_out": 0.3})
    train, test = glyphs(300, 1), glyphs(150, 2)
    once = trained(few, train, test)[1]
    often = trained(few.model_copy(update={"rounds": 6}), train, test)[1]
    assert once.images_seen == 100
    assert once.accuracy < 0.9, "this is too short"
    assert often.accuracy > 0.95
    assert often.images_seen in {100 * (2**n - 1) for n in range(2, 7)}
    enough = trained(few.model_copy(update={"rounds": 6, "enough": 0.1}), train, test)[1]
    assert enough.images_seen == 100


# --- calibration ---


def test_calibration_error_of_a_worked_example() -> None:
    # Two classes. Of fifteen bins, confidences fall into (8/15, 9/15], (9/15, 10/15] and (13/15, 14/15].
    confidence = np.array([0.54, 0.59, 0.59, 0.59, 0.61, 0.66, 0.90, 0.90])
    right = np.array([0, 1, 1, 1, 0, 0, 1, 0])
    logits = np.stack([np.log(confidence), np.log1p(-confidence)], 1).astype(np.float32)
    by_hand = 4 / 8 * abs(3 / 4 - 2.31 / 4) + 2 / 8 * abs(0 - 1.27 / 2) + 2 / 8 * abs(1 / 2 - 0.90)
    assert calibration_error(logits, 1 - right) == pytest.approx(by_hand, abs=1e-6)
    # In one bin the gaps of opposite sign cancel in part.
    assert calibration_error(logits, 1 - right, bins=1) == pytest.approx(abs(4 / 8 - 5.38 / 8), abs=1e-6)
    sure = np.array([[60.0, -60.0]] * 3, np.float32)
    assert calibration_error(sure, np.ones(3, np.int64)) == pytest.approx(1), "wrong and sure of it"


@pytest.mark.parametrize("planted", [0.5, 1.0, 2.5])
def test_a_planted_temperature_is_found(planted: float) -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 3, (4000, 5)).astype(np.float32)
    probabilities = torch.from_numpy(logits / planted).softmax(1).numpy()
    labels = (probabilities.cumsum(1) < rng.random((4000, 1))).sum(1)
    assert fit_temperature(logits, labels) == pytest.approx(planted, rel=0.15)
    assert calibration_error(logits / planted, labels) < 0.03
    if planted != 1:
        assert calibration_error(logits, labels) > 0.05


def test_few_images_all_read_right_do_not_make_confident() -> None:
    def fit(n: int) -> float:
        return fit_temperature(np.eye(4, dtype=np.float32)[np.arange(n) % 4] * 5, np.arange(n) % 4)

    share = np.exp(5 / fit(12)) / (np.exp(5 / fit(12)) + 3)
    assert share == pytest.approx(1 - 3 / 4 / 14, abs=1e-3), "the label 13/14 and its part of the rest, 1/14 over four"
    assert fit(1200) < fit(12)


def test_confidence_is_calibrated_on_images_kept_from_training() -> None:
    test = mislabelled(2000, 2)
    uncertain = {"label_smoothing": 0.3, "held_out": 0.3, "shift": 0, "rotation": 0}
    choice = params.Judge(width=4, images_seen=4000, batch_size=50, lr=1e-2, **uncertain)
    net, report = trained(choice, mislabelled(600, 1), test)
    assert report.ece_unscaled > 0.1, "so much label smoothing makes uncertain"
    assert report.ece < 0.5 * report.ece_unscaled
    assert report.temperature < 0.9
    logits = read(net, test[0])[1]
    assert calibration_error(logits, test[1]) == pytest.approx(report.ece, abs=1e-4), "the weights carry it"
    assert calibration_error(logits * report.temperature, test[1]) == pytest.approx(report.ece_unscaled, abs=1e-4)
