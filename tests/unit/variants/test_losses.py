"""Losses against numbers worked out by hand."""

import math

import pytest
import torch

from lekhani.variants.losses import cross_entropy, squared_gradient_norm


@pytest.mark.parametrize(("target", "expected"), [(1.0, -math.log(0.8)), (0.0, -math.log(0.2))])
def test_cross_entropy_by_hand(target: float, expected: float) -> None:
    logits = torch.tensor([math.log(0.8 / 0.2)] * 2)
    assert cross_entropy(logits, torch.full((2,), target)).item() == pytest.approx(expected, rel=1e-5)


def test_the_squared_norm_is_each_image_s_own() -> None:
    images = torch.tensor([1.0, -2.0, 0.5]).reshape(3, 1, 1, 1).expand(3, 1, 2, 2).clone().requires_grad_()
    # D(x) = sum of x^2 / 2 has the gradient x; four pixels each.
    torch.testing.assert_close(
        squared_gradient_norm(images.square().flatten(1).sum(1) / 2, images), torch.tensor([4.0, 16.0, 1.0])
    )


@pytest.mark.parametrize("size", [1e3, 1e30])
@pytest.mark.parametrize("target", [0.0, 0.1, 1.0])
def test_extreme_logits_stay_finite(size: float, target: float) -> None:
    assert torch.isfinite(cross_entropy(torch.tensor([-size, size]), torch.full((2,), target)))
