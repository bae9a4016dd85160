"""The conditional GAN: its recipe's sizes, its losses, and that both players heed the label."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lekhani import params
from lekhani.variants import Variant
from lekhani.variants.cgan import Cgan

CPU = torch.device("cpu")
K = 3


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(11)


def gan(size: int = 28, n_classes: int = K, **choices: Any) -> Cgan:
    return Cgan(params.Cgan(**{"width": 8, "noise_dim": 6, **choices}), size, n_classes, CPU)


def batch(n: int = 8, size: int = 28) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 1, size, size), torch.arange(n) % K


def dense(network: nn.Module) -> list[tuple[int, int]]:
    return [(layer.in_features, layer.out_features) for layer in network.modules() if isinstance(layer, nn.Linear)]


def test_the_recipe_as_it_stands() -> None:
    variant = Cgan(params.Cgan(), 32, 46, CPU)
    assert tuple(variant.g.label.weight.shape) == (46, 100)
    assert tuple(variant.d.label.weight.shape) == (46, 1024)
    assert dense(variant.g) == [(200, 256), (256, 512), (512, 1024), (1024, 1024)]
    assert dense(variant.d) == [(2048, 512), (512, 256), (256, 1)]
    assert [type(layer).__name__ for layer in variant.g.layers] == ["Linear", "LeakyReLU", "BatchNorm1d"] * 3 + [
        "Linear"
    ]
    assert {(layer.momentum, layer.eps) for layer in variant.g.modules() if isinstance(layer, nn.BatchNorm1d)} == {
        (0.2, 1e-3)
    }
    leaky = [
        layer.negative_slope
        for network in (variant.g, variant.d)
        for layer in network.modules()
        if isinstance(layer, nn.LeakyReLU)
    ]
    assert leaky == [0.2] * 5
    for optimiser in (variant.optimiser_g, variant.optimiser_d):
        assert (optimiser.param_groups[0]["lr"], tuple(optimiser.param_groups[0]["betas"])) == (2e-4, (0.5, 0.999))
    assert variant.settings.batch_size == 128


def test_the_embedding_is_a_dense_layer_on_the_one_hot_label() -> None:
    label = gan(n_classes=10).g.label
    labels = torch.tensor([3, 0, 9])
    torch.testing.assert_close(label(labels), F.one_hot(labels, 10).float() @ label.weight)


def test_weights_start_as_in_keras() -> None:
    variant = gan(n_classes=46, width=64)
    for layer in (
        m for network in (variant.g, variant.d) for m in network.modules() if isinstance(m, nn.Linear | nn.Embedding)
    ):
        bound = (6 / sum(layer.weight.shape)) ** 0.5
        largest = float(layer.weight.detach().abs().max())
        assert 0.85 * bound < largest <= bound
        if isinstance(layer, nn.Linear):
            assert not layer.bias.any()


def test_losses_by_hand() -> None:
    variant = gan()
    real, fake, labels = torch.rand(5, 1, 28, 28) * 2 - 1, torch.rand(5, 1, 28, 28) * 2 - 1, torch.arange(5) % K
    verdict = variant.discriminator_loss(real, fake, labels)
    a, b = variant.d(real, labels), variant.d(fake, labels)
    torch.testing.assert_close(verdict.loss, -F.logsigmoid(a).mean() - F.logsigmoid(-b).mean())
    torch.testing.assert_close(verdict.real, a)
    torch.testing.assert_close(verdict.fake, b)
    torch.testing.assert_close(variant.generator_loss(real, fake, labels), -F.logsigmoid(b).mean())


def test_the_discriminator_heeds_the_label() -> None:
    variant = gan()
    images = torch.rand(1, 1, 28, 28).repeat(K, 1, 1, 1)
    assert float(variant.d(images, torch.arange(K)).std().detach()) > 1e-3


def test_both_players_are_told_the_labels_of_the_batch() -> None:
    variant = gan()
    told: list[Tensor] = []
    for network in (variant.g, variant.d):
        network.register_forward_pre_hook(lambda _, given: told.append(given[1]))
    images, labels = batch()
    variant.step(images, labels)
    assert len(told) == 4
    assert all(torch.equal(one, labels) for one in told)


def test_the_generator_learns_which_label_is_dark() -> None:
    """Class k is a grey of its own; a generator that ignores its label cannot draw it."""
    variant = gan(8, 2, width=32, lr_g=1e-3, lr_d=1e-3)
    labels = torch.arange(64) % 2
    images = (0.2 + 0.6 * labels.float())[:, None, None, None].expand(64, 1, 8, 8)
    for _ in range(300):
        variant.step(images, labels)
    with torch.no_grad():
        drawn = variant.generator().eval()(torch.randn(64, 6), labels)
    assert float(drawn[labels == 0].mean()) == pytest.approx(0.2, abs=0.15)
    assert float(drawn[labels == 1].mean()) == pytest.approx(0.8, abs=0.15)


def test_a_batch_of_one_trains() -> None:
    variant = gan()
    for _ in range(2):
        assert all(torch.isfinite(value) for value in variant.step(*batch(1)).values())


@pytest.mark.parametrize("size", [28, 32])
def test_what_is_exported_computes_the_same(size: int, exported_difference: Callable[[Variant, int], float]) -> None:
    variant = gan(size)
    variant.step(*batch(8, size))
    assert exported_difference(variant, K) < 1e-5
