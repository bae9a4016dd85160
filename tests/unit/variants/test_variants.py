"""What every variant promises the rest of the house, and what is peculiar to each."""

import copy
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lekhani import params
from lekhani.variants import VARIANTS, Variant
from lekhani.variants.dcgan import Dcgan
from lekhani.variants.flow_matching import FlowMatching

K = 3
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(11)


@pytest.fixture(params=[(name, size) for name in VARIANTS for size in (28, 32)], ids=lambda p: f"{p[0]}-{p[1]}")
def built(request: pytest.FixtureRequest, tiny: params.Variants) -> tuple[Variant, int]:
    name, size = request.param
    return VARIANTS[name].build(tiny, size, K, CPU), size


def batch(size: int, n: int = 5) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 1, size, size), torch.arange(n) % K


def weights(variant: Variant) -> list[Tensor]:
    return [value.detach().clone() for value in variant.generator().parameters()]


def dcgan(tiny: params.Variants, **choices: Any) -> Dcgan:
    return Dcgan(tiny.dcgan.model_copy(update=choices), 28, K, CPU)


def flow(tiny: params.Variants, **choices: Any) -> FlowMatching:
    return FlowMatching(tiny.flow_matching.model_copy(update=choices), 28, K, CPU)


# --- every variant ---


def test_the_configuration_covers_every_variant(tiny: params.Variants) -> None:
    assert set(VARIANTS) == set(params.Variants.model_fields)


def test_a_step_tells_finite_numbers_and_changes_weights(built: tuple[Variant, int]) -> None:
    variant, size = built
    before = weights(variant)
    told = variant.step(*batch(size))
    assert told
    for name, value in told.items():
        assert value.shape == (), name
        assert torch.isfinite(value), name
        assert not value.requires_grad, f"{name} would keep the graph of every step alive"
    told = variant.step(*batch(size))
    assert not all(torch.equal(old, new) for old, new in zip(before, weights(variant), strict=True))


def test_half_precision_trains_too(built: tuple[Variant, int]) -> None:
    variant, size = built
    variant.autocast = torch.autocast("cpu", torch.bfloat16)
    before = weights(variant)
    for _ in range(2):
        told = variant.step(*batch(size))
    assert all(torch.isfinite(value) for value in told.values())
    assert not all(torch.equal(old, new) for old, new in zip(before, weights(variant), strict=True))
    assert {weight.dtype for weight in weights(variant)} == {torch.float32}


@pytest.mark.parametrize("n", [1, 4])
def test_the_generator_makes_images(built: tuple[Variant, int], n: int) -> None:
    variant, size = built
    variant.step(*batch(size))
    generator = variant.generator().eval()
    with torch.no_grad():
        images = generator(3 * torch.randn(n, variant.noise_dim), torch.zeros(n, dtype=torch.int64))
    assert images.shape == (n, 1, size, size)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.std() > 0


def test_the_label_steers_the_image_only_where_it_says_so(built: tuple[Variant, int]) -> None:
    variant, size = built
    for _ in range(8):
        variant.progress = 0.1  # past the first steps of a warm-up
        variant.step(*batch(size))
    noise = torch.randn(1, variant.noise_dim).repeat(K, 1)
    with torch.no_grad():
        images = variant.generator().eval()(noise, torch.arange(K))
    spread = float((images - images[:1]).abs().max())
    # Equal rows of one batch may differ in the last bits: a convolution splits the batch over its threads.
    assert spread > 1e-4 if variant.conditional else spread < 1e-6


def test_an_image_depends_on_its_own_noise_alone(built: tuple[Variant, int]) -> None:
    variant, size = built
    variant.step(*batch(size))
    generator, noise, labels = variant.generator().eval(), torch.randn(4, variant.noise_dim), torch.tensor([0, 1, 2, 1])
    with torch.no_grad():
        together = generator(noise, labels)
        alone = torch.cat([generator(noise[i : i + 1], labels[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_state_goes_on_bit_for_bit(built: tuple[Variant, int], tiny: params.Variants) -> None:
    variant, size = built
    data = [batch(size) for _ in range(5)]
    for i in range(3):
        variant.progress = i / 5
        variant.step(*data[i])
    state, random = copy.deepcopy(variant.state_dict()), torch.get_rng_state()

    def go_on(one: Variant) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        torch.set_rng_state(random)
        told = []
        for i in (3, 4):
            one.progress = i / 5
            told.append(one.step(*data[i]))
        return told, one.generator().state_dict()

    expected = go_on(variant)
    fresh = type(variant).build(tiny, size, K, CPU)
    fresh.load_state_dict(state)
    got = go_on(fresh)
    for old, new in zip(expected[0], got[0], strict=True):
        assert {name: float(value) for name, value in old.items()} == {
            name: float(value) for name, value in new.items()
        }
    assert expected[1].keys() == got[1].keys()
    for name, value in expected[1].items():
        assert torch.equal(value, got[1][name]), name


def test_a_state_of_another_variant_is_refused(tiny: params.Variants) -> None:
    with pytest.raises((KeyError, RuntimeError)):
        flow(tiny).load_state_dict(dcgan(tiny).state_dict())


# --- dcgan ---


def test_the_generator_s_step_leaves_the_discriminator_alone(
    tiny: params.Variants, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = dcgan(tiny)
    after_d: dict[str, Any] = {}
    step = variant.optimiser_d.step

    def spy(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        after_d["weights"] = [p.detach().clone() for p in variant.d.parameters()]
        after_d["grads"] = [cast(Tensor, p.grad).clone() for p in variant.d.parameters()]
        return result

    monkeypatch.setattr(variant.optimiser_d, "step", spy)
    variant.step(*batch(28))
    for parameter, weight, grad in zip(variant.d.parameters(), after_d["weights"], after_d["grads"], strict=True):
        assert torch.equal(parameter, weight)
        assert torch.equal(cast(Tensor, parameter.grad), grad)
        assert parameter.requires_grad
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in variant.g.parameters())


def test_the_discriminator_s_step_leaves_the_generator_alone(
    tiny: params.Variants, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = dcgan(tiny)
    before = weights(variant)
    seen: list[bool] = []
    step = variant.optimiser_d.step

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append(all(p.grad is None for p in variant.g.parameters()))
        seen.append(all(torch.equal(old, new) for old, new in zip(before, variant.g.parameters(), strict=True)))
        return step(*args, **kwargs)

    monkeypatch.setattr(variant.optimiser_d, "step", spy)
    variant.step(*batch(28))
    assert seen == [True, True]


@pytest.mark.parametrize(
    ("noise", "progress", "deviation"), [(0.0, 0.0, 0.0), (0.4, 0.0, 0.4), (0.4, 0.75, 0.1), (0.4, 1.0, 0.0)]
)
def test_instance_noise_fades_on_real_and_fake_alike(
    tiny: params.Variants, noise: float, progress: float, deviation: float
) -> None:
    variant = dcgan(tiny, instance_noise=noise)
    inputs: list[Tensor] = []
    made: list[Tensor] = []
    variant.d.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach().clone()))
    variant.g.register_forward_hook(lambda _, __, out: made.append(out.detach().clone()))
    images, labels = batch(28, 16)
    variant.progress = progress
    variant.step(images, labels)
    for given, clean in zip(inputs, (images, made[0], made[0]), strict=True):
        assert float((given - (clean * 2 - 1)).std()) == pytest.approx(deviation, rel=0.05)


def d_loss(tiny: params.Variants, **choices: Any) -> tuple[float, Tensor, Tensor]:
    """The discriminator's loss at the first step, and its logits on real and on generated images."""
    torch.manual_seed(1)
    variant = dcgan(tiny, **{"instance_noise": 0.0, **choices})
    outputs: list[Tensor] = []
    variant.d.register_forward_hook(lambda _, __, out: outputs.append(out.detach()))
    told = variant.step(torch.rand(64, 1, 28, 28), torch.zeros(64, dtype=torch.int64))
    return float(told["loss_d"]), outputs[0], outputs[1]


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


def test_figures_mean_the_same_when_labels_are_inverted(tiny: params.Variants) -> None:
    variant = dcgan(tiny, inverted_labels=True, lr_g=1e-9, lr_d=2e-3, smoothing="none", instance_noise=0.0)
    images = torch.zeros(8, 1, 28, 28)
    images[:, :, 8:20, 12:16] = 1
    told = [variant.step(images, torch.zeros(8, dtype=torch.int64)) for _ in range(60)][-1]
    assert float(told["accuracy_real"]) == float(told["accuracy_fake"]) == 1
    assert float(told["logit_gap"]) > 0


def test_minimax_is_the_game_s_own_loss(tiny: params.Variants) -> None:
    variant = dcgan(tiny, loss="minimax", instance_noise=0.0)
    fake = torch.rand(6, 1, 28, 28) * 2 - 1
    variant.d.eval()
    expected = torch.log(1 - torch.sigmoid(variant.d(fake))).mean()
    torch.testing.assert_close(variant.generator_loss(fake, fake, torch.zeros(6, dtype=torch.int64)), expected)


def test_clipping_bounds_the_gradients_of_both_players(tiny: params.Variants) -> None:
    variant = dcgan(tiny, clip_norm=0.01)
    told = variant.step(*batch(28))
    for name, network in (("grad_norm_d", variant.d), ("grad_norm_g", variant.g)):
        norm = torch.stack([cast(Tensor, p.grad).norm() for p in network.parameters()]).norm()
        assert float(told[name]) > float(norm)
        assert float(norm) == pytest.approx(0.01, rel=1e-3)


def test_noise_on_real_images_alone(tiny: params.Variants) -> None:
    variant = dcgan(tiny, instance_noise=0.4, noise_on="real")
    inputs: list[Tensor] = []
    made: list[Tensor] = []
    variant.d.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach().clone()))
    variant.g.register_forward_hook(lambda _, __, out: made.append(out.detach().clone()))
    images, labels = batch(28, 16)
    variant.step(images, labels)
    assert float((inputs[0] - (images * 2 - 1)).std()) == pytest.approx(0.4, rel=0.05)
    torch.testing.assert_close(inputs[1], made[0] * 2 - 1)


def test_the_discriminator_learns_to_tell_real_from_fake(tiny: params.Variants) -> None:
    variant = dcgan(tiny, lr_g=1e-9, lr_d=2e-3)
    images = torch.zeros(8, 1, 28, 28)
    images[:, :, 8:20, 12:16] = 1
    labels = torch.zeros(8, dtype=torch.int64)
    told = [variant.step(images, labels) for _ in range(60)]
    assert float(told[-1]["accuracy_real"]) == 1
    assert float(told[-1]["accuracy_fake"]) == 1
    assert float(told[-1]["loss_d"]) < 0.6 * float(told[0]["loss_d"])
