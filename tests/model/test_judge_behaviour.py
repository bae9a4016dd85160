"""Trained judges read glyphs however these are written, and are unsure of anything else.

The bounds lie far from what any seed and processor yields: readings nearly all right, confidence halved at least.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from letters import Judged, Letters
from scipy import ndimage
from sklearn.metrics import recall_score

from lekhani.data.spec import Bytes, Labels
from lekhani.evaluate.judge import Classifier, read
from lekhani.inference.confidence import softmax


@pytest.fixture(params=[0, 1], ids=["judge", "second"])
def judged(request: pytest.FixtureRequest, judges: tuple[Judged, Judged]) -> Judged:
    chosen: Judged = judges[request.param]
    return chosen


def confidence(net: Classifier, images: Bytes) -> float:
    """Softmax's largest share, as the mean over the images."""
    return float(softmax(read(net, images)[1]).max(1).mean())


def accuracy(net: Classifier, images: Bytes, labels: Labels) -> float:
    return float((read(net, images)[1].argmax(1) == labels).mean())


def test_it_reads_what_it_has_not_seen_and_knows_how_well(judged: Judged, letters: Letters) -> None:
    _, report = judged
    assert report.accuracy > 0.9
    assert recall_score(letters.test[1], report.predicted, average=None).min() > 0.7
    assert report.ece < 0.1
    assert 0.3 < report.temperature < 3


@pytest.mark.parametrize(
    "rewrite",
    [
        pytest.param(lambda x: ndimage.shift(x, (0, -1, 1), order=0), id="shifted"),
        pytest.param(lambda x: ndimage.grey_dilation(x, (1, 2, 2)), id="thicker"),
        pytest.param(lambda x: x // 2 + ndimage.grey_erosion(x, (1, 2, 2)) // 2, id="thinner"),
        pytest.param(lambda x: np.clip(x + np.random.default_rng(0).normal(0, 12, x.shape), 0, 255), id="noisy"),
        pytest.param(lambda x: ndimage.rotate(x, 6, (1, 2), reshape=False, order=1), id="turned"),
    ],
)
def test_another_pen_or_scanner_changes_little(
    judged: Judged, letters: Letters, rewrite: Callable[[Bytes], npt.NDArray[np.generic]]
) -> None:
    images, labels = letters.test
    assert accuracy(judged[0], rewrite(images).astype(np.uint8), labels) > 0.8


def test_confidence_falls_on_what_is_no_glyph(judged: Judged, letters: Letters) -> None:
    images, _ = letters.test
    rng = np.random.default_rng(0)
    no_glyphs = {
        "salt": np.where(rng.random(images.shape) < 0.15, 255, 0).astype(np.uint8),
        "noise": rng.integers(0, 256, images.shape, dtype=np.uint8),
        "blank": np.zeros_like(images),
        "scrambled": rng.permuted(images.reshape(len(images), -1), axis=1).reshape(images.shape),  # as much ink
    }
    net, _ = judged
    assert {
        name for name, strange in no_glyphs.items() if confidence(net, strange) > 0.75 * confidence(net, images)
    } == set()


def test_both_agree_on_nearly_all_that_is_real(judges: tuple[Judged, Judged], letters: Letters) -> None:
    (first, report), (second, other) = judges
    assert (report.predicted == other.predicted).mean() > 0.85
    features = [read(net, letters.test[0])[0] for net in (first, second)]
    assert np.abs(np.corrcoef(features[0].mean(0), features[1].mean(0))[0, 1]) < 0.7, "they look at other things"


def test_they_differ_where_an_image_is_made_to_fool_one(judges: tuple[Judged, Judged], letters: Letters) -> None:
    """Images changed along the judge's gradient fool it, and far less often the second one: that is what it is for."""
    (first, _), (second, _) = judges
    images, labels = (part[::2] for part in letters.test)
    target = torch.from_numpy((labels + 1) % len(letters.classes))
    start = torch.from_numpy(images)[:, None].float() / 255
    x = start.clone()
    for _ in range(10):
        x.requires_grad_(True)
        (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(first(x)[1], target), x)
        x = (start + (x.detach() - 0.03 * gradient.sign() - start).clamp(-0.15, 0.15)).clamp(0, 1)
    made = (x[:, 0] * 255).round().byte().numpy()
    fooled, confirmed = (accuracy(net, made, target.numpy()) for net in (first, second))
    assert fooled > 0.4
    assert confirmed < 0.5 * fooled
