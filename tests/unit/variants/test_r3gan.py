"""R3GAN: the relativistic loss by hand, R1 and R2 against gradients in closed form, and how the networks start."""

import math
from typing import Any

import pytest
import torch
from small_batches import CPU, K
from torch import Tensor, nn

from lekhani import params
from lekhani.variants.r3gan import Block, R3gan


def r3gan(**settings: Any) -> R3gan:
    return R3gan(params.R3gan(**{"batch_size": 8, "noise_dim": 6, "channels": 4, **settings}), 28, K, CPU)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


class Quadratic(nn.Module):
    """D(x) = a |x|^2 / 2 has the gradient a x."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.a * images.square().flatten(1).sum(1) / 2


def two(first: float, second: float) -> Tensor:
    """Two images of 28 x 28 whose squared norms are `first` and `second`."""
    return (torch.tensor([first, second]) / 28**2).sqrt()[:, None, None, None].expand(2, 1, 28, 28).clone()


LABELS = torch.zeros(2, dtype=torch.int64)


def test_losses_by_hand() -> None:
    variant = r3gan(gamma=0.5)
    variant.d = Quadratic(2.0)
    real, fake = two(1.0, 4.0), two(2.0, 0.5)  # logits are the squared norms, and squared gradients four times those
    found = variant.discriminator_loss(real, fake, LABELS)
    relativistic = (softplus(2.0 - 1.0) + softplus(0.5 - 4.0)) / 2
    assert float(found.metrics["r1"]) == pytest.approx(4 * 2.5, rel=1e-4)
    assert float(found.metrics["r2"]) == pytest.approx(4 * 1.25, rel=1e-4)
    assert found.loss.item() == pytest.approx(relativistic + 0.25 * (10 + 5), rel=1e-4)
    assert (found.real - found.fake).mean().item() == pytest.approx(2.5 - 1.25, rel=1e-4)
    opposite = (softplus(1.0 - 2.0) + softplus(4.0 - 0.5)) / 2
    assert variant.generator_loss(real, fake, LABELS).item() == pytest.approx(opposite, rel=1e-4)


def test_the_penalties_gradient_reaches_the_discriminator() -> None:
    variant = r3gan(gamma=0.5)
    variant.d = Quadratic(2.0)
    same = two(1.0, 4.0)
    variant.discriminator_loss(same, same, LABELS).loss.backward()  # type: ignore[no-untyped-call]
    # Equal pairs say nothing, and d/da gamma/2 (a^2 |x|^2 + a^2 |x|^2) = 2 gamma a |x|^2.
    assert float(variant.d.a.grad) == pytest.approx(2 * 0.5 * 2.0 * 2.5, rel=1e-4)  # type: ignore[arg-type]


def test_blocks_start_as_the_identity_and_scaled_by_depth() -> None:
    shallow, deep = Block(64, 1), Block(64, 16)
    x = torch.randn(2, 64, 8, 8)
    assert torch.equal(deep(x), x)
    assert (shallow.expand.weight.std() / deep.expand.weight.std()).item() == pytest.approx(
        2, rel=0.05
    )  # the fourth root of 16
    hidden = nn.functional.leaky_relu(shallow.mix(nn.functional.leaky_relu(shallow.expand(x), 0.2)), 0.2)
    assert hidden.square().mean().item() == pytest.approx(1, abs=0.4), "the variance is kept"
