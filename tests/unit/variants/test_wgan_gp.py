"""WGAN-GP: the penalty and the distance against critics whose slope is known."""

import pytest
import torch
from small_batches import CPU
from torch import Tensor, nn

from lekhani import params
from lekhani.variants.losses import squared_gradient_norm
from lekhani.variants.wgan_gp import Critic, WganGp


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


def test_the_squared_norm_is_each_image_s_own() -> None:
    images = torch.tensor([1.0, -2.0, 0.5]).reshape(3, 1, 1, 1).expand(3, 1, 2, 2).clone().requires_grad_()
    # D(x) = sum of x^2 / 2 has the gradient x; four pixels each.
    torch.testing.assert_close(
        squared_gradient_norm(images.square().flatten(1).sum(1) / 2, images), torch.tensor([4.0, 16.0, 1.0])
    )


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


def test_the_critic_finds_the_distance() -> None:
    variant = wgan(lr_d=2e-3, lr_g=1e-9)
    gap = 0.05
    real, fake = picture(gap / 2, 8), picture(-gap / 2, 8)
    labels = torch.zeros(8, dtype=torch.int64)
    metrics = []
    for _ in range(150):
        found = variant.discriminator_loss(real, fake, labels)
        variant.optimiser_d.zero_grad()
        found.loss.backward()  # type: ignore[no-untyped-call]
        variant.optimiser_d.step()
        metrics.append(found)
    # All mass moves by `gap` in each of 28 x 28 pixels; the penalised critic overshoots the slope of 1 a little:
    # the best s of -s L + 10 (s - 1)^2 is 1 + L / 20.
    length = gap * 28
    settled = torch.stack([found.metrics["distance"] for found in metrics[-50:]]).mean()
    assert float(settled) == pytest.approx(length * (1 + length / 20), rel=0.1)
    assert float((metrics[-1].real > 0).float().mean()) == float((metrics[-1].fake < 0).float().mean()) == 1


@pytest.mark.parametrize("size", [28, 32, 36])
def test_the_critic_normalises_nothing_across_images(size: int) -> None:
    critic = Critic(4, size)
    images = torch.rand(5, 1, size, size)
    torch.testing.assert_close(critic(images)[:1], critic(images[:1]))
    assert not any("Norm" in type(layer).__name__ for layer in critic.modules())


def test_the_authors_defaults() -> None:
    choice = params.WganGp(channels=64)
    assert (choice.lr_g, choice.lr_d, choice.betas, choice.n_dis, choice.gp_weight) == (1e-4, 1e-4, (0.0, 0.9), 5, 10.0)


def test_the_critic_is_not_compiled() -> None:
    variant = wgan()
    assert variant.networks() == [variant.g]
