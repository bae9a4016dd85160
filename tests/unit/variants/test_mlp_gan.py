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


def test_spectral_norm_holds_every_layer_at_one() -> None:
    variant = gan(spectral_norm=True, lr_d=1e-2)
    for _ in range(50):
        variant.step(*batch())
    variant.d.eval()
    layers = [m for m in variant.d.modules() if isinstance(m, nn.Linear)]
    # One power iteration per pass runs after weights that the large rate moves fast.
    assert [float(torch.linalg.matrix_norm(m.weight.detach(), 2)) for m in layers] == pytest.approx([1.0] * 3, rel=0.2)
