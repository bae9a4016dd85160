"""The backward pass by hand against autograd, and NumPy and torch on one memory."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from small_batches import CPU, K, batch
from torch import Tensor

from lekhani import params
from lekhani.variants import bare_bones
from lekhani.variants.bare_bones import BareBones, NumpyMlp

N = 64


def gan(size: int = 28, **settings: float) -> BareBones:
    return BareBones(params.BareBones.model_validate(settings), size, K, CPU)


def flat(images: Tensor) -> Tensor:
    return images.flatten(1) * 2 - 1


def drawn_by(variant: BareBones, noise: Tensor) -> Tensor:
    return flat(variant.g(noise, torch.zeros(len(noise), dtype=torch.int64)))


def test_a_step_is_gradient_descent_of_d_and_then_of_g() -> None:
    """The whole step written in torch: D on real and generated images, then G against the new D, on the same noise."""
    variant, lr = gan(lr=1e-2), 1e-2
    twin = copy.deepcopy(variant)
    images, labels = batch(N)
    random = torch.get_rng_state()
    metrics = variant.step(images, labels)
    torch.set_rng_state(random)
    noise = torch.randn(N, 100)

    def descend(loss: Tensor, network: torch.nn.Module) -> float:
        parameters = list(network.parameters())
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(lr * gradient)
        return math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients)) / N

    on_real, on_fake = twin.d(flat(images)), twin.d(drawn_by(twin, noise).detach())
    assert float(metrics["loss_d"]) == pytest.approx(
        (F.softplus(-on_real).mean() + F.softplus(on_fake).mean()).item(), rel=1e-5
    )
    norm = descend(F.softplus(-on_real).sum() + F.softplus(on_fake).sum(), twin.d)
    assert float(metrics["grad_norm_d"]) == pytest.approx(norm, rel=1e-4)
    on_fake = twin.d(drawn_by(twin, noise))
    assert float(metrics["loss_g"]) == pytest.approx(F.softplus(-on_fake).mean().item(), rel=1e-4)
    assert float(metrics["grad_norm_g"]) == pytest.approx(descend(F.softplus(-on_fake).sum(), twin.g), rel=1e-4)
    for mine, theirs in ((variant.g, twin.g), (variant.d, twin.d)):
        for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_training_uses_no_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("autograd was called")

    variant = gan()
    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    monkeypatch.setattr(torch.autograd, "backward", refuse)
    monkeypatch.setattr(bare_bones.Mlp, "forward", refuse)
    variant.step(*batch(N))
    assert all(p.grad is None for network in (variant.g, variant.d) for p in network.parameters())
    assert variant.optimisers() == [], "several processes would have no gradients to share"


def test_weights_that_moved_in_memory_are_still_trained() -> None:
    variant = gan()
    variant.g.layers.first.weight.data = variant.g.layers.first.weight.data.clone()
    before = variant.g.layers.first.weight.detach().clone()
    variant.step(*batch(N))
    assert not torch.equal(before, variant.g.layers.first.weight)


def test_the_rate_falls_by_epochs_of_sixty_thousand_images(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    monkeypatch.setattr(NumpyMlp, "descend", lambda self, gradients, lr: rates.append(lr))
    variant = gan(lr=1e-3, lr_decay=0.5)
    for seen in (0, 59_999, 60_000, 600_000):
        variant.seen.images = seen
        variant.step(*batch(2))
        assert variant.seen.images == seen + 2
    assert rates[::2] == rates[1::2], "that of D and of G alike"
    assert rates[::2] == pytest.approx([1e-3, 1e-3, 1e-3 / 1.5, 1e-3 / 6])


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_sure_discriminator_leaves_figures_finite() -> None:
    variant = gan()
    with torch.no_grad():
        variant.d.second.bias.fill_(1e4)
        variant.d.second.weight.mul_(1e4)
    assert all(torch.isfinite(value) for value in variant.step(*batch(N)).values())
