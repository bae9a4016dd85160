"""Softmax and the confidence of a prediction."""

import numpy as np

from lekhani.inference.confidence import confidences, softmax


def test_predictions_come_with_their_probabilities() -> None:
    labels, probabilities = confidences(np.log(np.array([[1, 3], [9, 1]], np.float32)) + 500)
    assert labels.tolist() == [1, 0]
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, [0.75, 0.9], rtol=1e-4)


def test_softmax_survives_large_logits_and_leaves_out_excluded_classes() -> None:
    probabilities = softmax(np.array([[1000.0, 1000.0, -np.inf]]))
    assert probabilities.dtype == np.float64
    assert probabilities.tolist() == [[0.5, 0.5, 0.0]]
