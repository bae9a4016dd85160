"""The conditional GAN: its recipe's sizes, its losses, and that both players heed the label."""

from typing import Any

import torch
import torch.nn.functional as F
from small_batches import CPU, K, batch
from torch import Tensor

from lekhani import params
from lekhani.variants.cgan import Cgan


def gan(size: int = 28, n_classes: int = K, **settings: Any) -> Cgan:
    return Cgan(params.Cgan(**{"width": 8, "noise_dim": 6, **settings}), size, n_classes, CPU)


def test_losses_by_hand() -> None:
    variant = gan()
    real, fake, labels = torch.rand(5, 1, 28, 28) * 2 - 1, torch.rand(5, 1, 28, 28) * 2 - 1, torch.arange(5) % K
    found = variant.discriminator_loss(real, fake, labels)
    a, b = variant.d(real, labels), variant.d(fake, labels)
    torch.testing.assert_close(found.loss, -F.logsigmoid(a).mean() - F.logsigmoid(-b).mean())
    torch.testing.assert_close(found.real, a)
    torch.testing.assert_close(found.fake, b)
    torch.testing.assert_close(variant.generator_loss(real, fake, labels), -F.logsigmoid(b).mean())


def test_both_networks_get_the_labels_of_the_batch() -> None:
    variant = gan()
    given: list[Tensor] = []
    for network in (variant.g, variant.d):
        network.register_forward_pre_hook(lambda _, inputs: given.append(inputs[1]))
    images, labels = batch()
    variant.step(images, labels)
    assert len(given) == 4
    assert all(torch.equal(one, labels) for one in given)
