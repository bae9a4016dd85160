"""What a trained judge does with images that it was not trained on: it reads them however they are written, and knows when it cannot."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import recall_score

from lekhani import params
from lekhani.data.sources.embedded import devanagari
from lekhani.data.spec import Bytes, Labels
from lekhani.evaluate.judge import Classifier, JudgeNet, JudgeReport, SecondNet, read, train_judge

CPU = torch.device("cpu")
CLASSES = 8
Judged = tuple[Classifier, JudgeReport]


@pytest.fixture(scope="module")
def glyphs() -> tuple[tuple[Bytes, Labels], tuple[Bytes, Labels]]:
    """The first classes of the embedded Devanagari: train and test split."""
    raw = devanagari(11, 70, 30)
    images, splits = np.array(raw.images), np.array(raw.splits)
    train, test = (np.flatnonzero((splits == split) & (raw.labels < CLASSES)) for split in ("train", "test"))
    return (images[train], raw.labels[train]), (images[test], raw.labels[test])


@pytest.fixture(scope="module")
def judges(glyphs: tuple[tuple[Bytes, Labels], tuple[Bytes, Labels]]) -> tuple[Judged, Judged]:
    """The judge and the second one, each trained for seconds."""
    choice = params.Judge(width=8, images_seen=9000, batch_size=48, lr=5e-3, held_out=0.1)
    first, second = (
        train_judge(choice, *glyphs, CLASSES, seed, CPU, lambda *_: None, network)
        for seed, network in ((3, JudgeNet), (4, SecondNet))
    )
    return first, second


@pytest.fixture(params=[0, 1], ids=["judge", "second"])
def judged(request: pytest.FixtureRequest, judges: tuple[Judged, Judged]) -> Judged:
    chosen: Judged = judges[request.param]
    return chosen


def confidence(net: Classifier, images: Bytes) -> npt.NDArray[np.float64]:
    """Softmax's largest share for each image."""
    logits = read(net, images)[1].astype(np.float64)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(shares.max(1) / shares.sum(1))


def accuracy(net: Classifier, images: Bytes, labels: Labels) -> float:
    return float((read(net, images)[1].argmax(1) == labels).mean())


def test_it_reads_what_it_has_not_seen(
    judged: Judged, glyphs: tuple[tuple[Bytes, Labels], tuple[Bytes, Labels]]
) -> None:
    assert judged[1].accuracy > 0.97
    assert recall_score(glyphs[1][1], judged[1].predicted, average=None).min() > 0.85


@pytest.mark.parametrize(("dy", "dx"), [(1, 0), (0, -1), (-1, 1), (2, 0), (0, 2), (-2, -2)])
def test_a_shift_changes_little(
    judged: Judged, glyphs: tuple[tuple[Bytes, Labels], tuple[Bytes, Labels]], dy: int, dx: int
) -> None:
    images, labels = glyphs[1]
    assert accuracy(judged[0], ndimage.shift(images, (0, dy, dx), order=0), labels) > judged[1].accuracy - 0.04


@pytest.mark.parametrize(
    "rewrite",
    [
        pytest.param(lambda x: ndimage.grey_dilation(x, (1, 2, 2)), id="thicker"),
        pytest.param(lambda x: x // 2 + ndimage.grey_erosion(x, (1, 2, 2)) // 2, id="thinner"),
        pytest.param(lambda x: ndimage.gaussian_filter(x, (0, 0.7, 0.7)), id="blurred"),
        pytest.param(lambda x: np.clip(x + np.random.default_rng(0).normal(0, 12, x.shape), 0, 255), id="noisy"),
        pytest.param(lambda x: ndimage.rotate(x, 6, (1, 2), reshape=False, order=1), id="turned"),
    ],
)
def test_another_pen_or_scanner_changes_little(
    judged: Judged,
    glyphs: tuple[tuple[Bytes, Labels], tuple[Bytes, Labels]],
    rewrite: Callable[[Bytes], npt.NDArray[np.generic]],
) -> None:
    images, labels = glyphs[1]
    assert accuracy(judged[0], rewrite(images).astype(np.uint8), labels) > judged[1].accuracy - 0.05


def test_confidence_falls_on_what_is_no_glyph(
    judged: Judged, glyphs: tuple[tuple[Bytes, Labels], tuple[Bytes, Labels]]
) -> None:
    images, _ = glyphs[1]
    rng = np.random.default_rng(0)
    real = confidence(judged[0], images)
    scrambled = rng.permuted(images.reshape(len(images), -1), axis=1).reshape(
        images.shape
    )  # as much ink, and no strokes
    salt = np.where(rng.random(images.shape) < 0.15, 255, 0).astype(np.uint8)
    for name, strange in (
        ("salt", salt),
        ("noise", rng.integers(0, 256, images.shape, dtype=np.uint8)),
        ("blank", np.zeros_like(images)),
        ("scrambled", scrambled),
    ):
        assert confidence(judged[0], strange).mean() < 0.8 * real.mean(), name


def test_it_is_right_as_often_as_it_is_sure(judged: Judged) -> None:
    report = judged[1]
    assert report.ece < 0.05
    assert report.ece < report.ece_unscaled, "label smoothing makes unsure, and the temperature mends it"


def test_reading_is_deterministic(judged: Judged, glyphs: tuple[tuple[Bytes, Labels], tuple[Bytes, Labels]]) -> None:
    images, _ = glyphs[1]
    torch.manual_seed(1)
    first = read(judged[0], images)
    torch.manual_seed(2)
    for one, again in zip(first, read(judged[0], images), strict=True):
        assert one.tobytes() == again.tobytes()
    alone = read(judged[0], images[5:6])
    np.testing.assert_allclose(alone[1][0], first[1][5], atol=1e-4)


def test_both_agree_on_nearly_all_that_is_real(
    judges: tuple[Judged, Judged], glyphs: tuple[tuple[Bytes, Labels], tuple[Bytes, Labels]]
) -> None:
    (first, report), (second, other) = judges
    assert (report.predicted == other.predicted).mean() > 0.95
    images, _ = glyphs[1]
    features = [read(net, images)[0] for net in (first, second)]
    assert np.abs(np.corrcoef(features[0].mean(0), features[1].mean(0))[0, 1]) < 0.9, "they look at other things"


def test_they_differ_where_an_image_is_made_to_fool_one(
    judges: tuple[Judged, Judged], glyphs: tuple[tuple[Bytes, Labels], tuple[Bytes, Labels]]
) -> None:
    """Images changed along the judge's own gradient are read as asked by it, and by the second far less often: that is what it is for."""
    (first, _), (second, _) = judges
    images, labels = (part[::2] for part in glyphs[1])
    wanted = torch.from_numpy((labels + 1) % CLASSES)
    x = torch.from_numpy(images)[:, None].float() / 255
    start = x.clone()
    for _ in range(10):
        x.requires_grad_(True)
        loss = torch.nn.functional.cross_entropy(first(x)[1], wanted)
        (gradient,) = torch.autograd.grad(loss, x)
        x = (start + (x.detach() - 0.03 * gradient.sign() - start).clamp(-0.1, 0.1)).clamp(0, 1)
    made = (x[:, 0] * 255).round().byte().numpy()
    fooled, confirmed = (accuracy(net, made, wanted.numpy()) for net in (first, second))
    assert fooled > 0.7
    assert confirmed < fooled - 0.3
