"""The backward pass by hand against autograd, and NumPy and torch on one memory."""

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lekhani import params
from lekhani.variants import Variant, bare_bones
from lekhani.variants.bare_bones import BareBones, NumpyMlp, discriminator_gradients, generator_gradients, numpy_view

N, SIZE = 64, 28


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(11)


def gan(size: int = SIZE, **choices: float) -> BareBones:
    return BareBones(params.BareBones.model_validate(choices), size, 3, torch.device("cpu"))


def batch(n: int = N, size: int = SIZE) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 1, size, size), torch.arange(n) % 3


def flat(images: Tensor) -> Tensor:
    return images.flatten(1) * 2 - 1


def drawn_by(variant: BareBones, noise: Tensor) -> Tensor:
    return flat(variant.g(noise, torch.zeros(len(noise), dtype=torch.int64)))


def close(mine: tuple[np.ndarray, ...], parameters: list[Tensor], relative: float) -> None:
    """Each gradient within `relative` of its own largest entry."""
    for got, parameter in zip(mine, parameters, strict=True):
        assert parameter.grad is not None
        expected = parameter.grad.numpy()
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= relative * np.abs(expected).max()


def trained(dtype: torch.dtype) -> BareBones:
    """Past the start, where biases are no longer zero."""
    variant = gan()
    for _ in range(5):
        variant.step(*batch())
    variant.g.to(dtype)
    variant.d.to(dtype)
    return variant


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_gradients_of_the_discriminator(dtype: torch.dtype, relative: float) -> None:
    variant = trained(dtype)
    real, fake = flat(batch()[0]).to(dtype), drawn_by(variant, torch.randn(N, 100, dtype=dtype)).detach()
    on_real, on_fake = variant.d(real).squeeze(1), variant.d(fake).squeeze(1)
    (F.softplus(-on_real).sum() + F.softplus(on_fake).sum()).backward()
    d = numpy_view(variant.d)
    close(
        discriminator_gradients(d, d.forward(real.numpy()), d.forward(fake.numpy())),
        list(variant.d.parameters()),
        relative,
    )


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_gradients_of_the_generator(dtype: torch.dtype, relative: float) -> None:
    variant = trained(dtype)
    noise = torch.randn(N, 100, dtype=dtype)
    F.softplus(-variant.d(drawn_by(variant, noise))).sum().backward()
    g, d = numpy_view(variant.g.layers), numpy_view(variant.d)
    drawn = g.forward(noise.numpy())
    close(generator_gradients(g, d, drawn, d.forward(np.tanh(drawn.out))), list(variant.g.parameters()), relative)


def test_activations_of_the_wrong_pass_would_be_noticed() -> None:
    """The original kept one set of activations, so that the gradient on real images saw those of generated ones."""
    variant = trained(torch.float64)
    real, fake = flat(batch()[0]).double(), drawn_by(variant, torch.randn(N, 100, dtype=torch.float64)).detach()
    d = numpy_view(variant.d)
    on_real, on_fake = d.forward(real.numpy()), d.forward(fake.numpy())
    right = discriminator_gradients(d, on_real, on_fake)
    wrong = discriminator_gradients(d, on_fake._replace(x=on_real.x, out=on_real.out), on_fake)
    for name, one, other in zip(NumpyMlp._fields, right, wrong, strict=False):
        if name == "b2":  # no activation stands between this bias and the loss
            assert np.array_equal(one, other)
        else:
            assert np.abs(one - other).max() > 0.05 * np.abs(one).max(), name


def test_a_step_is_gradient_descent_of_both_players_in_turn() -> None:
    """The whole step written in torch: D on real and generated images, then G against the D that has moved, on the
    same noise."""
    variant, lr = gan(lr=1e-2), 1e-2
    twin = copy.deepcopy(variant)
    images, labels = batch()
    random = torch.get_rng_state()
    told = variant.step(images, labels)
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
    assert float(told["loss_d"]) == pytest.approx(
        (F.softplus(-on_real).mean() + F.softplus(on_fake).mean()).item(), rel=1e-5
    )
    assert float(told["accuracy_real"]) == pytest.approx(float((on_real > 0).float().mean()))
    assert float(told["accuracy_fake"]) == pytest.approx(float((on_fake < 0).float().mean()))
    assert float(told["logit_gap"]) == pytest.approx((on_real.mean() - on_fake.mean()).item(), rel=1e-4)
    norm = descend(F.softplus(-on_real).sum() + F.softplus(on_fake).sum(), twin.d)
    assert float(told["grad_norm_d"]) == pytest.approx(norm, rel=1e-4)
    judged = twin.d(drawn_by(twin, noise))
    assert float(told["loss_g"]) == pytest.approx(F.softplus(-judged).mean().item(), rel=1e-4)
    assert float(told["grad_norm_g"]) == pytest.approx(descend(F.softplus(-judged).sum(), twin.g), rel=1e-4)
    for mine, torchs in ((variant.g, twin.g), (variant.d, twin.d)):
        for one, other in zip(mine.parameters(), torchs.parameters(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_training_uses_no_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("autograd was called")

    variant = gan()
    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    monkeypatch.setattr(torch.autograd, "backward", refuse)
    monkeypatch.setattr(bare_bones.Mlp, "forward", refuse)
    variant.step(*batch())
    assert all(p.grad is None for network in (variant.g, variant.d) for p in network.parameters())
    assert variant.optimisers() == [], "several processes would have no gradients to share"


def test_numpy_and_torch_share_their_memory() -> None:
    variant = gan()
    w1 = numpy_view(variant.g.layers).w1
    assert w1.dtype == np.float32
    assert np.shares_memory(w1, variant.generator().layers.first.weight.detach().numpy())
    w1[0, 0] = 42.0
    assert variant.generator().layers.first.weight[0, 0].item() == 42.0


def test_weights_that_moved_are_still_trained() -> None:
    variant = gan()
    variant.g.layers.first.weight.data = variant.g.layers.first.weight.data.clone()
    before = variant.g.layers.first.weight.detach().clone()
    variant.step(*batch())
    assert not torch.equal(before, variant.g.layers.first.weight)


def test_the_averaged_copy_stays_behind() -> None:
    variant = gan()
    average = copy.deepcopy(variant.generator())
    before = [p.detach().clone() for p in average.parameters()]
    variant.step(*batch())
    assert all(torch.equal(old, new) for old, new in zip(before, average.parameters(), strict=True))


def test_the_rate_falls_by_epochs_of_sixty_thousand_images(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    monkeypatch.setattr(NumpyMlp, "descend", lambda self, gradients, rate: rates.append(rate))
    variant = gan(lr=1e-3, lr_decay=0.5)
    for seen in (0, 59_999, 60_000, 600_000):
        variant.seen.images = seen
        variant.step(*batch(2))
        assert variant.seen.images == seen + 2
    assert rates[::2] == rates[1::2], "both players alike"
    assert rates[::2] == pytest.approx([1e-3, 1e-3, 1e-3 / 1.5, 1e-3 / 6])


def test_images_seen_are_part_of_the_state() -> None:
    one, other = gan(), gan()
    one.step(*batch(7))
    other.load_state_dict(one.state_dict())
    assert other.seen.images == 7
    assert torch.equal(one.d.first.weight, other.d.first.weight)


def test_weights_start_as_the_original_s() -> None:
    variant = gan()
    for network in (variant.g.layers, variant.d):
        for layer in (network.first, network.second):
            assert float(layer.weight.std()) == pytest.approx(math.sqrt(2 / layer.in_features), rel=0.2)
            assert not layer.bias.any()
    sizes = [tuple(p.shape) for p in (*variant.g.parameters(), *variant.d.parameters())]
    assert sizes == [(128, 100), (128,), (784, 128), (784,), (128, 784), (128,), (1, 128), (1,)]
    assert (variant.g.layers.slope, variant.d.slope) == (0.0, 0.01)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_lost_game_stays_finite() -> None:
    variant = gan()
    with torch.no_grad():
        variant.d.second.bias.fill_(1e4)
        variant.d.second.weight.mul_(1e4)
    assert all(torch.isfinite(value) for value in variant.step(*batch()).values())


def test_the_discriminator_learns_to_tell_real_from_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    variant = gan()
    monkeypatch.setattr(bare_bones, "generator_gradients", lambda g, *_: (np.zeros_like(g.w1), 0, 0, 0))
    images = torch.zeros(N, 1, SIZE, SIZE)
    images[:, :, 8:20, 12:16] = 1
    told = [variant.step(images, torch.zeros(N, dtype=torch.int64)) for _ in range(60)]
    assert float(told[-1]["accuracy_real"]) == float(told[-1]["accuracy_fake"]) == 1
    assert float(told[-1]["loss_d"]) < 0.3 * float(told[0]["loss_d"])


def test_the_generator_learns_a_simple_picture() -> None:
    """One constant picture; gradients of the wrong sign would lead away from it."""
    variant = gan(8)
    picture = torch.zeros(1, 1, 8, 8)
    picture[:, :, 2:6, 2:6] = 1
    noise, labels = torch.randn(64, 100), torch.zeros(64, dtype=torch.int64)

    def error() -> float:
        with torch.no_grad():
            return float((variant.g(noise, labels) - picture).abs().mean())

    before = error()
    for _ in range(400):
        variant.step(picture.repeat(64, 1, 1, 1), labels)
    assert error() < 0.5 * before


@pytest.mark.parametrize("size", [28, 32])
def test_what_is_exported_computes_the_same(size: int, exported_difference: Callable[[Variant, int], float]) -> None:
    variant = gan(size)
    variant.step(*batch(8, size))
    assert exported_difference(variant, 3) < 1e-5
