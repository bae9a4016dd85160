"""The conditional GAN: its recipe's sizes, its losses, and that both players heed the label."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_batches import CPU, K, batch
from torch import Tensor, nn

from lekhani import params
from lekhani.variants.cgan import Cgan


def gan(size: int = 28, n_classes: int = K, **settings: Any) -> Cgan:
    return Cgan(params.Cgan(**{"width": 8, "noise_dim": 6, **settings}), size, n_classes, CPU)


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
    found = variant.discriminator_loss(real, fake, labels)
    a, b = variant.d(real, labels), variant.d(fake, labels)
    torch.testing.assert_close(found.loss, -F.logsigmoid(a).mean() - F.logsigmoid(-b).mean())
    torch.testing.assert_close(found.real, a)
    torch.testing.assert_close(found.fake, b)
    torch.testing.assert_close(variant.generator_loss(real, fake, labels), -F.logsigmoid(b).mean())


def test_the_discriminator_heeds_the_label() -> None:
    variant = gan()
    images = torch.rand(1, 1, 28, 28).repeat(K, 1, 1, 1)
    assert float(variant.d(images, torch.arange(K)).std().detach()) > 1e-3


def test_both_networks_get_the_labels_of_the_batch() -> None:
    variant = gan()
    given: list[Tensor] = []
    for network in (variant.g, variant.d):
        network.register_forward_pre_hook(lambda _, inputs: given.append(inputs[1]))
    images, labels = batch()
    variant.step(images, labels)
    assert len(given) == 4
    assert all(torch.equal(one, labels) for one in given)


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
