"""How sure a classifier is: the one softmax of the project."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from lekhani.data.spec import Labels

AnyFloat = TypeVar("AnyFloat", np.float32, np.float64)


def softmax(logits: npt.NDArray[AnyFloat]) -> npt.NDArray[AnyFloat]:
    """Probabilities [N,K] of logits [N,K], in their own precision; a logit of -inf has probability 0."""
    odds = np.exp(logits - logits.max(1, keepdims=True))
    probabilities: npt.NDArray[AnyFloat] = odds / odds.sum(1, keepdims=True)
    return probabilities


def confidences(logits: npt.NDArray[AnyFloat]) -> tuple[Labels, npt.NDArray[AnyFloat]]:
    """The predicted labels, int64 [N], and their probabilities, [N] in [0,1], of logits [N,K]."""
    return logits.argmax(1), softmax(logits).max(1)
