"""What all GANs share: whose turn it is, learning rates over the budget, and augmentations that gradients pass."""

from typing import Any

import pytest
import torch
from small_batches import CPU, batch
from torch import Tensor

from lekhani import params
from lekhani.variants.dcgan import Dcgan
from lekhani.variants.gan import diff_augment


def gan(**settings: Any) -> Dcgan:
    return Dcgan(params.Dcgan(**{"batch_size": 8, "noise_dim": 6, "channels": 4, **settings}), 28, 3, CPU)


def weights(network: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_the_generator_moves_at_every_nth_turn() -> None:
    variant, moved = gan(n_dis=3), []
    for _ in range(7):
        before_g, before_d = weights(variant.g), weights(variant.d)
        metrics = variant.step(*batch())
        moved.append(not torch.equal(before_g, weights(variant.g)))
        assert not torch.equal(before_d, weights(variant.d))
        assert set(metrics) == {
            "loss_d",
            "loss_g",
            "accuracy_real",
            "accuracy_fake",
            "logit_gap",
            "grad_norm_d",
            "grad_norm_g",
        }
    assert moved == [False, False, True, False, False, True, False]


@pytest.mark.parametrize(
    ("schedule", "progress", "share"),
    [("constant", 0.7, 1.0), ("cosine", 0.0, 1.0), ("cosine", 0.5, 0.55), ("cosine", 1.0, 0.1)],
)
def test_learning_rates_run_over_the_budget(schedule: str, progress: float, share: float) -> None:
    variant = gan(schedule=schedule, lr_g=1e-3, lr_d=4e-3)
    variant.progress = progress
    variant.step(*batch())
    assert variant.optimiser_g.param_groups[0]["lr"] == pytest.approx(1e-3 * share)
    assert variant.optimiser_d.param_groups[0]["lr"] == pytest.approx(4e-3 * share)


def test_augmentation_reaches_both_players_but_not_the_generator_s_output() -> None:
    variant = gan(augment=("cutout",), instance_noise=0.0)
    inputs: list[Tensor] = []
    made: list[Tensor] = []
    variant.d.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach().clone()))
    variant.g.register_forward_hook(lambda _, __, out: made.append(out.detach().clone()))
    variant.step(torch.ones(8, 1, 28, 28), torch.zeros(8, dtype=torch.int64))
    assert all((image == -1).any() for image in inputs[0]), "real images lose a square"
    assert not torch.equal(inputs[1], made[0] * 2 - 1)
    assert len(inputs) == 3


def picture(n: int = 64) -> Tensor:
    images = torch.full((n, 1, 28, 28), -1.0)
    images[:, :, 12:16, 10:14] = 1.0
    return images


def test_translation_moves_the_whole_picture_and_fills_with_paper() -> None:
    moved = diff_augment(picture(), ["translation"])
    assert torch.equal(moved.sum(dim=(1, 2, 3)), picture().sum(dim=(1, 2, 3))), (
        "nothing is lost, since it stays inside the frame"
    )
    tops = {int((image[0] > 0).any(1).nonzero()[0]) for image in moved}
    lefts = {int((image[0] > 0).any(0).nonzero()[0]) for image in moved}
    assert tops <= set(range(8, 17))
    assert lefts <= set(range(6, 15))
    assert len(tops) > 4
    assert len(lefts) > 4
    edge = torch.full((64, 1, 28, 28), -1.0)
    edge[:, :, 0, :] = 1.0
    assert not (diff_augment(edge, ["translation"])[:, :, 8:] > -1).any(), "what leaves the frame does not come back"


def test_cutout_leaves_paper() -> None:
    cut = diff_augment(torch.ones(64, 1, 28, 28), ["cutout"])
    holes = (cut == -1).sum(dim=(1, 2, 3))
    assert set(cut.unique().tolist()) == {-1.0, 1.0}
    assert holes.max() == 14 * 14
    assert holes.min() >= 7 * 7


def test_brightness_and_contrast_keep_their_bounds() -> None:
    bright = diff_augment(picture(256), ["brightness"]) - picture(256)
    assert float(bright.amax(dim=(1, 2, 3)).sub(bright.amin(dim=(1, 2, 3))).abs().max()) < 1e-6
    assert -0.5 <= float(bright.min()) < -0.4
    assert 0.4 < float(bright.max()) <= 0.5
    flat = diff_augment(picture(256), ["contrast"])
    torch.testing.assert_close(flat.mean(dim=(1, 2, 3)), picture(256).mean(dim=(1, 2, 3)))
    ratio = flat.std(dim=(1, 2, 3)) / picture(256).std(dim=(1, 2, 3))
    assert 0.5 <= float(ratio.min()) < 0.6
    assert 1.4 < float(ratio.max()) <= 1.5


@pytest.mark.parametrize("name", ["brightness", "contrast", "translation", "cutout"])
def test_gradients_pass(name: str) -> None:
    images = picture(8).requires_grad_()
    diff_augment(images, [name]).square().sum().backward()
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0
