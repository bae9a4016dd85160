"""Losses against numbers worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from lekhani.variants.losses import discriminator_loss, non_saturating_loss


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def logits(*probabilities: float) -> Tensor:
    return torch.tensor([logit(p) for p in probabilities], dtype=torch.float64, requires_grad=True)


def test_discriminator_loss_by_hand() -> None:
    loss = discriminator_loss(logits(0.8, 0.5), logits(0.25))
    assert loss.item() == pytest.approx(-(math.log(0.8) + math.log(0.5)) / 2 - math.log(0.75))


def test_an_undecided_discriminator_pays_two_log_two() -> None:
    assert float(discriminator_loss(torch.zeros(4), torch.zeros(3))) == pytest.approx(2 * math.log(2))


def test_smoothing_is_one_sided() -> None:
    plain, smooth = (discriminator_loss(logits(0.8), logits(0.25), s).item() for s in (0.0, 0.1))
    assert smooth == pytest.approx(-0.9 * math.log(0.8) - 0.1 * math.log(0.2) - math.log(0.75))
    assert smooth - plain == pytest.approx(0.1 * logit(0.8)), "the fake side pays the same"


@pytest.mark.parametrize(("smoothing", "best"), [(0.0, None), (0.1, 0.9), (0.3, 0.7)])
def test_smoothing_moves_the_best_answer_for_real_images(smoothing: float, best: float | None) -> None:
    sure = logits(best or 0.999999)
    discriminator_loss(sure, logits(0.5), smoothing).backward()
    assert sure.grad is not None
    assert float(sure.grad.abs()) < 1e-5


def test_discriminator_loss_pushes_real_up_and_fake_down() -> None:
    real, fake = logits(0.5, 0.4), logits(0.5, 0.6)
    discriminator_loss(real, fake).backward()
    assert real.grad is not None
    assert fake.grad is not None
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()


def test_generator_loss_by_hand() -> None:
    assert non_saturating_loss(logits(0.5, 0.1)).item() == pytest.approx(-(math.log(0.5) + math.log(0.1)) / 2)


def test_generator_loss_keeps_its_gradient_while_the_discriminator_wins() -> None:
    lost, won = (torch.tensor([value], requires_grad=True) for value in (-30.0, 30.0))
    non_saturating_loss(lost).backward()
    non_saturating_loss(won).backward()
    assert float(lost.grad) == pytest.approx(-1.0)  # type: ignore[arg-type]
    assert abs(float(won.grad)) < 1e-9  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1e3, 1e30])
def test_extreme_logits_stay_finite(size: float) -> None:
    extreme = torch.tensor([-size, size])
    assert torch.isfinite(discriminator_loss(extreme, extreme, 0.1))
    assert torch.isfinite(non_saturating_loss(extreme))
