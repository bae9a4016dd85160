"""How sure a classifier is, by the one softmax of the project, and when it is too weak to measure others."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from lekhani.data.spec import Labels

AnyFloat = TypeVar("AnyFloat", np.float32, np.float64)
TRUSTED = 0.95  # share of real test images that a judge has to read right


def softmax(logits: npt.NDArray[AnyFloat]) -> npt.NDArray[AnyFloat]:
    """Probabilities [N,K] of logits [N,K], in their own precision; a logit of -inf has probability 0."""
    odds = np.exp(logits - logits.max(1, keepdims=True))
    probabilities: npt.NDArray[AnyFloat] = odds / odds.sum(1, keepdims=True)
    return probabilities


def confidences(logits: npt.NDArray[AnyFloat]) -> tuple[Labels, npt.NDArray[AnyFloat]]:
    """The predicted labels, int64 [N], and their probabilities, [N] in [0,1], of logits [N,K]."""
    return logits.argmax(1), softmax(logits).max(1)


def weak_judge(accuracy: float) -> str:
    """What follows from a judge that reads a share `accuracy` in [0,1], below TRUSTED, of real test images right."""
    return (
        f"The judge reads only {accuracy:.1%} of the real test images right, so its figures are rough and no variant's "
        "agreement can be much higher; confusion.png shows which classes it mixes up, and more images of those, or a "
        "higher judge.images_seen, help."
    )
