"""Losses against numbers worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from lekhani.variants.losses import cross_entropy


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def logits(*probabilities: float) -> Tensor:
    return torch.tensor([logit(p) for p in probabilities], dtype=torch.float64, requires_grad=True)


def test_cross_entropy_by_hand() -> None:
    assert cross_entropy(logits(0.8, 0.5), torch.ones(2, dtype=torch.float64)).item() == pytest.approx(
        -(math.log(0.8) + math.log(0.5)) / 2
    )
    assert cross_entropy(logits(0.25), torch.zeros(1, dtype=torch.float64)).item() == pytest.approx(-math.log(0.75))


def test_a_smoothed_target_is_the_best_answer() -> None:
    sure = logits(0.9)
    cross_entropy(sure, torch.tensor([0.9], dtype=torch.float64)).backward()
    assert sure.grad is not None
    assert float(sure.grad.abs()) < 1e-9


def test_the_non_saturating_loss_keeps_its_gradient_while_the_discriminator_wins() -> None:
    lost, won = (torch.tensor([value], requires_grad=True) for value in (-30.0, 30.0))
    cross_entropy(lost, torch.ones(1)).backward()
    cross_entropy(won, torch.ones(1)).backward()
    assert float(lost.grad) == pytest.approx(-1.0)  # type: ignore[arg-type]
    assert abs(float(won.grad)) < 1e-9  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1e3, 1e30])
@pytest.mark.parametrize("target", [0.0, 0.1, 1.0])
def test_extreme_logits_stay_finite(size: float, target: float) -> None:
    assert torch.isfinite(cross_entropy(torch.tensor([-size, size]), torch.full((2,), target)))
