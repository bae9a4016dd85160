"""SNGAN: spectral norms against an SVD, the hinge loss and the projection by hand, labels in the generator's norms."""

from typing import Any, Literal

import pytest
import torch
from small_batches import CPU, K, batch
from torch import Tensor, nn

from lekhani import params
from lekhani.variants.nets import Projection, pyramid
from lekhani.variants.sngan import ConditionalNorm, Sngan

Blocks = Literal["residual", "plain"]
BLOCKS: tuple[Blocks, ...] = ("residual", "plain")


def sngan(**settings: Any) -> Sngan:
    return Sngan(params.Sngan(**{"batch_size": 8, "noise_dim": 6, "channels": 4, "n_dis": 1, **settings}), 28, K, CPU)


def layers(network: nn.Module) -> dict[str, nn.Module]:
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding)
    }


@pytest.mark.parametrize("blocks", BLOCKS)
def test_every_layer_of_the_discriminator_has_spectral_norm_one(blocks: Blocks) -> None:
    variant = sngan(blocks=blocks, lr_d=2e-3)
    for _ in range(3):
        variant.step(*batch())
    images, labels = batch()
    with torch.no_grad():
        for _ in range(300):  # weights stand still, and each forward pass is one step of the power iteration
            variant.d(images, labels)
    variant.d.eval()
    found = layers(variant.d)
    assert len(found) > 5
    for name, layer in found.items():
        assert float(torch.linalg.svdvals(layer.weight.detach().flatten(1))[0]) == pytest.approx(1, abs=2e-3), name  # type: ignore[operator]


class Scores(nn.Module):
    """A discriminator that reads its logit off the first pixel."""

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return images[:, 0, 0, 0]


def with_first_pixels(*values: float) -> Tensor:
    images = torch.zeros(len(values), 1, 28, 28)
    images[:, 0, 0, 0] = torch.tensor(values)
    return images


def test_hinge_by_hand() -> None:
    variant = sngan()
    variant.d = Scores()
    real, fake = with_first_pixels(2.0, 0.5, -1.0), with_first_pixels(-3.0, -0.5, 1.0)
    labels = torch.zeros(3, dtype=torch.int64)
    found = variant.discriminator_loss(real, fake, labels)
    assert found.loss.item() == pytest.approx((0 + 0.5 + 2) / 3 + (0 + 0.5 + 2) / 3)
    assert found.real.tolist() == [2.0, 0.5, -1.0]
    assert found.fake.tolist() == [-3.0, -0.5, 1.0]
    assert variant.generator_loss(real, fake, labels).item() == pytest.approx((3 + 0.5 - 1) / 3)


def test_projection_by_hand() -> None:
    head = Projection(2, 3)
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[1.0, -1.0]]))
        head.linear.bias.fill_(0.5)
        head.label.weight.copy_(torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]]))
    features = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    assert head(features, torch.tensor([0, 1, 2])).tolist() == [-0.5, 1.5, 5.5]


def test_conditional_norm_by_hand() -> None:
    norm = ConditionalNorm(2, 2)
    with torch.no_grad():
        norm.scale.weight.copy_(torch.tensor([[1.0, 1.0], [3.0, 0.5]]))
        norm.shift.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, -2.0]]))
    x, labels = torch.randn(6, 2, 4, 4) * 5 + 2, torch.tensor([0, 1, 0, 1, 1, 0])
    out = norm(x, labels)
    plain = (x - x.mean(dim=(0, 2, 3), keepdim=True)) / x.std(dim=(0, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(out[0], plain[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out[1, 0], 3 * plain[1, 0] + 1, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out[4, 1], 0.5 * plain[4, 1] - 2, atol=1e-4, rtol=1e-4)


def test_the_pyramid_s_foot() -> None:
    assert pyramid(28, 8) == (7, [16, 8])
    assert pyramid(32, 8) == (4, [32, 16, 8])
    assert pyramid(64, 8) == (8, [32, 16, 8])
