"""The judge learns what can be learnt, and counts honestly."""

import numpy as np
import pytest
import torch

from lekhani import params
from lekhani.data.spec import Bytes, Labels
from lekhani.evaluate.judge import FEATURES, JudgeNet, JudgeReport, read, shift, train_judge

CPU = torch.device("cpu")
SIZE = 16


def glyphs(n: int, seed: int, noise: int = 60) -> tuple[Bytes, Labels]:
    """Class 0 has a bar on top, class 1 one at the bottom, class 2 one on the left."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 3).astype(np.int64)
    images = rng.integers(0, noise, (n, SIZE, SIZE))
    for image, label in zip(images, labels, strict=True):
        where = [np.s_[2:5, :], np.s_[11:14, :], np.s_[:, 2:5]][label]
        image[where] += 180
    return images.astype(np.uint8), labels


CHOICE = params.Judge(width=4, images_seen=1600, batch_size=32, shift=1, lr=1e-2)


@pytest.fixture(scope="module")
def trained() -> tuple[JudgeNet, JudgeReport, list[tuple[float, float]]]:
    heard: list[tuple[float, float]] = []
    net, report = train_judge(CHOICE, glyphs(150, 1), glyphs(50, 2), 3, 5, CPU, lambda done, loss: heard.append((done, loss)))
    return net, report, heard


def test_separable_classes_are_separated(trained: tuple[JudgeNet, JudgeReport, list[tuple[float, float]]]) -> None:
    _, report, heard = trained
    assert report.accuracy > 0.95
    assert heard[-1][0] == pytest.approx(1)
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    assert heard[-1][1] < 0.6 * heard[0][1]
    assert report.seconds > 0


def test_the_report_counts_the_test_split(trained: tuple[JudgeNet, JudgeReport, list[tuple[float, float]]]) -> None:
    net, report, _ = trained
    images, labels = glyphs(50, 2)
    assert report.confusion.sum(axis=1).tolist() == np.bincount(labels).tolist(), "rows are true classes"
    predicted = read(net, images)[1].argmax(1)
    assert report.confusion.sum(axis=0).tolist() == np.bincount(predicted, minlength=3).tolist(), "columns are what was read"
    assert report.accuracy == pytest.approx(report.confusion.trace() / 50)
    np.testing.assert_allclose(report.per_class, report.confusion.diagonal() / np.bincount(labels), rtol=1e-6)


def test_mistakes_stand_in_their_cell() -> None:
    train, (images, labels) = glyphs(150, 1), glyphs(30, 2)
    wrong = labels.copy()
    wrong[labels == 0] = 2  # the test split calls every bar on top a bar on the left
    _, report = train_judge(CHOICE, train, (images, wrong), 3, 5, CPU, lambda *_: None)
    assert report.confusion[2, 0] >= 9
    assert report.confusion[0].sum() == 0
    assert report.per_class[0] == 0, "a class without test images scores nothing, not NaN"


def test_the_same_seed_trains_the_same_judge() -> None:
    choice = params.Judge(width=4, images_seen=64, batch_size=32)
    first, again, other = (train_judge(choice, glyphs(60, 1), glyphs(9, 2), 3, seed, CPU, lambda *_: None)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("images_seen", [1, 33, 320, 700])
def test_any_budget_trains_and_ends_at_all_of_it(images_seen: int) -> None:
    heard: list[tuple[float, float]] = []
    choice = params.Judge(width=4, images_seen=images_seen, batch_size=32)
    train_judge(choice, glyphs(20, 1), glyphs(6, 2), 3, 1, CPU, lambda *told: heard.append(told))
    assert heard
    assert all(0 < done <= 1 for done, _ in heard)
    assert all(np.isfinite(loss) for _, loss in heard)


def test_reading_goes_in_batches_without_changing_anything(trained: tuple[JudgeNet, JudgeReport, list[tuple[float, float]]]) -> None:
    images, _ = glyphs(11, 3)
    features, logits = read(trained[0], images)
    assert features.shape == (11, FEATURES)
    assert logits.shape == (11, 3)
    assert features.dtype == logits.dtype == np.float32
    for one, other in zip(read(trained[0], images, batch_size=4), (features, logits), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_reading_does_not_learn(trained: tuple[JudgeNet, JudgeReport, list[tuple[float, float]]]) -> None:
    assert not trained[0].training
    before = {key: value.clone() for key, value in trained[0].state_dict().items()}
    read(trained[0], glyphs(20, 4)[0])
    assert all(torch.equal(value, trained[0].state_dict()[key]) for key, value in before.items())


# --- shift ---


@pytest.mark.parametrize("most", [1, 2, 5])
def test_shift_reaches_every_place_and_no_other(most: int) -> None:
    torch.manual_seed(0)
    images = torch.zeros(3000, 13, 13, dtype=torch.uint8)
    images[:, 6, 6] = 200
    moved = shift(images, most)
    assert moved.dtype == torch.uint8
    assert moved.shape == images.shape
    places = {(y - 6, x - 6) for _, y, x in moved.nonzero().tolist()}
    span = range(-most, most + 1)
    assert places == {(y, x) for y in span for x in span}
    assert (moved.flatten(1).sum(1) == 200).all()


def test_shift_fills_with_black_and_never_wraps() -> None:
    torch.manual_seed(0)
    images = torch.zeros(400, 8, 10, dtype=torch.uint8)
    images[:, :, 9] = 255
    images[:, 0, :] = 255
    moved = shift(images, 3)
    assert not moved[:, 4:, :6].any(), "what leaves on one side must not come in on the other"
    assert (moved.flatten(1) > 0).sum(1).max() <= 17


def test_shift_by_nothing_is_the_image_itself() -> None:
    images = torch.randint(0, 256, (2, 5, 5), dtype=torch.uint8)
    assert torch.equal(shift(images, 0), images)
