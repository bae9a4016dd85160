"""WGAN-GP: the penalty and the distance against critics whose slope is known."""

import pytest
import torch
from small_batches import CPU
from torch import Tensor, nn

from lekhani import params
from lekhani.variants.wgan_gp import WganGp


class Linear(nn.Module):
    """The critic w x: its gradient is w everywhere."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images: Tensor) -> Tensor:
        return (images * self.weight).flatten(1).sum(1)


def wgan(**settings: object) -> WganGp:
    return WganGp(
        params.WganGp.model_validate({"batch_size": 8, "noise_dim": 6, "channels": 4, "n_dis": 1, **settings}),
        28,
        3,
        CPU,
    )


def picture(value: float, n: int = 4) -> Tensor:
    return torch.full((n, 1, 28, 28), value)


NO_LABELS = torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize("slope", [0.25, 1.0, 3.0])
def test_loss_by_hand(slope: float) -> None:
    variant = wgan()
    weight = torch.randn(1, 1, 28, 28)
    variant.d = Linear(slope * weight / weight.norm())
    real, fake = torch.rand(4, 1, 28, 28), torch.rand(4, 1, 28, 28)
    found = variant.discriminator_loss(real, fake, NO_LABELS)
    distance = (variant.d(real) - variant.d(fake)).mean().item()
    assert found.loss.item() == pytest.approx(-distance + 10 * (slope - 1) ** 2, abs=1e-4)
    assert float(found.metrics["distance"]) == pytest.approx(distance, abs=1e-5)
    assert float(found.metrics["slope"]) == pytest.approx(slope, rel=1e-5)
    assert variant.generator_loss(real, fake, NO_LABELS).item() == pytest.approx(
        -variant.d(fake).mean().item(), abs=1e-6
    )


def test_the_penalty_s_gradient_reaches_the_critic() -> None:
    variant = wgan()
    variant.d = Linear(torch.full((1, 1, 28, 28), 3 / 28))  # its norm is 3
    same = picture(0.5)
    variant.discriminator_loss(same, same, NO_LABELS).loss.backward()  # type: ignore[no-untyped-call]
    # d/dw 10 (|w| - 1)^2 = 20 (|w| - 1) w / |w|; real and fake are equal, so that the distance has no gradient.
    weight = variant.d.weight
    assert isinstance(weight, nn.Parameter)
    torch.testing.assert_close(weight.grad, 40 * weight.detach() / 3)


def test_a_flat_critic_has_a_finite_gradient() -> None:
    variant = wgan()
    variant.d = Linear(torch.zeros(1, 1, 28, 28))
    found = variant.discriminator_loss(picture(1.0), picture(-1.0), NO_LABELS)
    found.loss.backward()  # type: ignore[no-untyped-call]
    assert found.loss.item() == pytest.approx(10, rel=1e-4)
    assert torch.isfinite(variant.d.weight.grad).all()  # type: ignore[arg-type]


def test_the_penalty_is_taken_between_real_and_fake() -> None:
    variant = wgan()
    seen: list[Tensor] = []
    variant.d.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    variant.discriminator_loss(picture(1.0, 200), picture(-1.0, 200), torch.zeros(200, dtype=torch.int64))
    shares = (seen[2] + 1) / 2
    assert torch.equal(shares.amin(dim=(1, 2, 3)), shares.amax(dim=(1, 2, 3))), "one draw per image"
    each = shares[:, 0, 0, 0]
    assert 0 <= float(each.min()) < 0.05
    assert 0.95 < float(each.max()) <= 1
    assert float(each.mean()) == pytest.approx(0.5, abs=0.07)
