"""DCGAN: each of its stabilising tricks, by hand."""

from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from small_batches import CPU, K, batch
from torch import Tensor

from lekhani import params
from lekhani.variants.dcgan import Dcgan


def dcgan(tiny: params.Variants, **settings: Any) -> Dcgan:
    return Dcgan(tiny.dcgan.model_copy(update=settings), 28, K, CPU)


def test_each_step_leaves_the_other_network_alone(tiny: params.Variants, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = dcgan(tiny)
    g_at_start = [p.detach().clone() for p in variant.g.parameters()]
    after_d: list[tuple[Tensor, Tensor]] = []
    step = variant.optimiser_d.step

    def spy(*args: Any, **kwargs: Any) -> Any:
        assert all(p.grad is None for p in variant.g.parameters())
        assert all(torch.equal(old, new) for old, new in zip(g_at_start, variant.g.parameters(), strict=True))
        result = step(*args, **kwargs)
        after_d.extend((p.detach().clone(), cast(Tensor, p.grad).clone()) for p in variant.d.parameters())
        return result

    monkeypatch.setattr(variant.optimiser_d, "step", spy)
    variant.step(*batch())
    for parameter, (weight, grad) in zip(variant.d.parameters(), after_d, strict=True):
        assert torch.equal(parameter, weight)
        assert torch.equal(cast(Tensor, parameter.grad), grad)
        assert parameter.requires_grad
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in variant.g.parameters())


@pytest.mark.parametrize(
    ("settings", "progress", "on_real", "on_fake"),
    [
        ({"instance_noise": 0.0}, 0.0, 0.0, 0.0),
        ({"instance_noise": 0.4}, 0.0, 0.4, 0.4),
        ({"instance_noise": 0.4}, 0.75, 0.1, 0.1),
        ({"instance_noise": 0.4}, 1.0, 0.0, 0.0),
        ({"instance_noise": 0.4, "noise_on": "real"}, 0.0, 0.4, 0.0),
    ],
)
def test_instance_noise_fades(
    tiny: params.Variants, settings: dict[str, Any], progress: float, on_real: float, on_fake: float
) -> None:
    variant = dcgan(tiny, **settings)
    inputs: list[Tensor] = []
    made: list[Tensor] = []
    variant.d.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach().clone()))
    variant.g.register_forward_hook(lambda _, __, out: made.append(out.detach().clone()))
    images, labels = batch(16)
    variant.progress = progress
    variant.step(images, labels)
    clean = (images, made[0], made[0])  # D's step sees both, G's the generated ones
    deviations = [float((given - (image * 2 - 1)).std()) for given, image in zip(inputs, clean, strict=True)]
    assert deviations == pytest.approx([on_real, on_fake, on_fake], rel=0.05)


def d_loss(tiny: params.Variants, **settings: Any) -> tuple[float, Tensor, Tensor]:
    """The discriminator's loss at the first step, and its logits on real and on generated images."""
    torch.manual_seed(1)
    variant = dcgan(tiny, **{"instance_noise": 0.0, **settings})
    outputs: list[Tensor] = []
    variant.d.register_forward_hook(lambda _, __, out: outputs.append(out.detach()))
    metrics = variant.step(torch.rand(64, 1, 28, 28), torch.zeros(64, dtype=torch.int64))
    return float(metrics["loss_d"]), outputs[0], outputs[1]


@pytest.mark.parametrize(
    ("smoothing", "real", "fake"), [("none", 1.0, 0.0), ("one_sided", 0.8, 0.0), ("two_sided", 0.8, 0.2)]
)
def test_smoothing_draws_targets_between_its_bounds(
    tiny: params.Variants, smoothing: str, real: float, fake: float
) -> None:
    loss, on_real, on_fake = d_loss(tiny, smoothing=smoothing, smoothing_width=0.4)
    # The cross entropy is linear in its target, so that on average a random one acts as its mean.
    expected = F.softplus(on_real).mean() - real * on_real.mean() + F.softplus(on_fake).mean() - fake * on_fake.mean()
    assert loss == pytest.approx(float(expected), abs=0.02)


def test_inverted_labels_swap_the_answers(tiny: params.Variants) -> None:
    loss, on_real, on_fake = d_loss(tiny, smoothing="none", inverted_labels=True)
    assert loss == pytest.approx(float(F.softplus(on_real).mean() + F.softplus(-on_fake).mean()), abs=1e-5)


def test_minimax_is_the_game_s_own_loss(tiny: params.Variants) -> None:
    variant = dcgan(tiny, loss="minimax", instance_noise=0.0)
    fake = torch.rand(6, 1, 28, 28) * 2 - 1
    variant.d.eval()
    expected = torch.log(1 - torch.sigmoid(variant.d(fake))).mean()
    torch.testing.assert_close(variant.generator_loss(fake, fake, torch.zeros(6, dtype=torch.int64)), expected)


def test_clipping_bounds_the_gradients_of_both_players(tiny: params.Variants) -> None:
    variant = dcgan(tiny, clip_norm=0.01)
    metrics = variant.step(*batch())
    for name, network in (("grad_norm_d", variant.d), ("grad_norm_g", variant.g)):
        norm = torch.stack([cast(Tensor, p.grad).norm() for p in network.parameters()]).norm()
        assert float(metrics[name]) > float(norm)
        assert float(norm) == pytest.approx(0.01, rel=1e-3)
