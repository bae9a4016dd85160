"""The fully connected GAN: its recipe's sizes, its losses, and each of its switches."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_batches import CPU, batch
from torch import nn

from lekhani import params
from lekhani.variants.mlp_gan import MlpGan


def gan(size: int = 28, **settings: Any) -> MlpGan:
    return MlpGan(params.MlpGan(**{"width": 8, "noise_dim": 6, **settings}), size, 3, CPU)


def dense(network: nn.Module) -> list[tuple[int, int]]:
    return [(layer.in_features, layer.out_features) for layer in network.modules() if isinstance(layer, nn.Linear)]


def test_the_recipe_as_it_stands() -> None:
    variant = MlpGan(params.MlpGan(), 28, 3, CPU)
    assert dense(variant.g) == [(100, 256), (256, 512), (512, 1024), (1024, 784)]
    assert dense(variant.d) == [(784, 512), (512, 256), (256, 1)]
    assert [type(layer).__name__ for layer in variant.g.layers] == ["Linear", "BatchNorm1d", "ReLU"] * 3 + ["Linear"]
    assert [layer.p for layer in variant.d.modules() if isinstance(layer, nn.Dropout)] == [0.3, 0.3]
    assert [layer.negative_slope for layer in variant.d.modules() if isinstance(layer, nn.LeakyReLU)] == [0.2, 0.2]
    for optimiser in (variant.optimiser_g, variant.optimiser_d):
        assert (optimiser.param_groups[0]["lr"], tuple(optimiser.param_groups[0]["betas"])) == (2e-4, (0.5, 0.999))
    assert variant.settings.batch_size == 64


@pytest.mark.parametrize("width", [0.0, 0.1])
def test_losses_by_hand(width: float) -> None:
    variant = gan(smoothing_width=width, dropout=0.0)
    real, fake, labels = (
        torch.rand(5, 1, 28, 28) * 2 - 1,
        torch.rand(5, 1, 28, 28) * 2 - 1,
        torch.zeros(5, dtype=torch.int64),
    )
    found = variant.discriminator_loss(real, fake, labels)
    a, b = variant.d(real), variant.d(fake)
    log_yes, log_no = F.logsigmoid(a), F.logsigmoid(-a)
    torch.testing.assert_close(found.loss, -((1 - width) * log_yes + width * log_no).mean() - F.logsigmoid(-b).mean())
    torch.testing.assert_close(found.real, a)
    torch.testing.assert_close(found.fake, b)
    torch.testing.assert_close(variant.generator_loss(real, fake, labels), -F.logsigmoid(b).mean())


def test_smoothing_is_one_sided() -> None:
    variant = gan(smoothing_width=0.4, dropout=0.0)
    images, labels = torch.zeros(4, 1, 28, 28), torch.zeros(4, dtype=torch.int64)
    with torch.no_grad():
        for layer in (m for m in variant.d.modules() if isinstance(m, nn.Linear)):
            layer.weight.zero_()
            layer.bias.fill_(-20.0)  # sure of "generated"
    loss = variant.discriminator_loss(images, images, labels).loss
    assert float(loss.detach()) == pytest.approx(0.6 * 20, rel=1e-3), (
        "only the answer on real images costs, and 0.6 as much"
    )


def test_dropout_acts_in_training_alone() -> None:
    variant = gan(dropout=0.5)
    images = torch.rand(4, 1, 28, 28)
    assert not torch.equal(variant.d(images), variant.d(images))
    variant.d.eval()
    assert torch.equal(variant.d(images), variant.d(images))


def test_spectral_norm_holds_every_layer_at_one() -> None:
    def norms(variant: MlpGan) -> list[float]:
        variant.d.eval()
        return [
            float(torch.linalg.matrix_norm(m.weight.detach(), 2))
            for m in variant.d.modules()
            if isinstance(m, nn.Linear)
        ]

    variant = gan(spectral_norm=True, lr_d=1e-2)
    for _ in range(50):
        metrics = variant.step(*batch())
    assert all(torch.isfinite(value) for value in metrics.values())
    # One power iteration per pass runs after weights that the large rate moves fast.
    assert norms(variant) == pytest.approx([1.0] * 3, rel=0.1)
    free = gan(lr_d=1e-2)
    for _ in range(50):
        free.step(*batch())
    assert max(norms(free)) > 1.3
