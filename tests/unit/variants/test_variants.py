"""What every variant promises the rest of the house, and what is peculiar to each."""

import copy
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lekhani import params
from lekhani.variants import VARIANTS, Variant
from lekhani.variants.dcgan import Dcgan
from lekhani.variants.flow_matching import FlowMatching, Sampler, Velocity

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
    return Dcgan(tiny.dcgan.model_copy(update=choices), 28, CPU)


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
        assert {name: float(value) for name, value in old.items()} == {name: float(value) for name, value in new.items()}
    assert expected[1].keys() == got[1].keys()
    for name, value in expected[1].items():
        assert torch.equal(value, got[1][name]), name


def test_a_state_of_another_variant_is_refused(tiny: params.Variants) -> None:
    with pytest.raises((KeyError, RuntimeError)):
        flow(tiny).load_state_dict(dcgan(tiny).state_dict())


# --- dcgan ---


def test_the_generator_s_step_leaves_the_discriminator_alone(tiny: params.Variants, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_discriminator_s_step_leaves_the_generator_alone(tiny: params.Variants, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize(("noise", "progress", "deviation"), [(0.0, 0.0, 0.0), (0.4, 0.0, 0.4), (0.4, 0.75, 0.1), (0.4, 1.0, 0.0)])
def test_instance_noise_fades_on_real_and_fake_alike(tiny: params.Variants, noise: float, progress: float, deviation: float) -> None:
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


def test_label_smoothing_reaches_the_loss(tiny: params.Variants) -> None:
    images, labels = batch(28)
    losses, reals = [], []
    for smoothing in (0.0, 0.2):
        torch.manual_seed(1)
        variant = dcgan(tiny, label_smoothing=smoothing, instance_noise=0.0)
        outputs: list[Tensor] = []
        variant.d.register_forward_hook(lambda _, __, out, outputs=outputs: outputs.append(out.detach()))
        losses.append(float(variant.step(images, labels)["loss_d"]))
        reals.append(outputs[0])
    assert torch.equal(*reals)
    assert losses[1] - losses[0] == pytest.approx(0.2 * float(reals[0].mean()), abs=1e-6)


def test_the_discriminator_learns_to_tell_real_from_fake(tiny: params.Variants) -> None:
    variant = dcgan(tiny, lr_g=1e-9, lr_d=2e-3)
    images = torch.zeros(8, 1, 28, 28)
    images[:, :, 8:20, 12:16] = 1
    labels = torch.zeros(8, dtype=torch.int64)
    told = [variant.step(images, labels) for _ in range(60)]
    assert float(told[-1]["accuracy_real"]) == 1
    assert float(told[-1]["accuracy_fake"]) == 1
    assert float(told[-1]["loss_d"]) < 0.6 * float(told[0]["loss_d"])


# --- flow matching ---


class Gaussian(nn.Module):
    """The exact velocity of the straight path from N(0, 1) to N(mu, s^2) in every pixel."""

    def __init__(self, mu: float, s: float) -> None:
        super().__init__()
        self.mu, self.s = mu, s

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        t = t[:, None, None, None]
        variance = (1 - t) ** 2 + (t * self.s) ** 2
        return self.mu + (t * self.s**2 - (1 - t)) / variance * (x - t * self.mu)


class ByLabel(nn.Module):
    """A constant velocity per label: labels 0..K-1 move by 0.1 to 0.3, `not told` by -0.2; asks for [N] times."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        assert t.shape == labels.shape == x.shape[:1]
        return torch.tensor([0.1, 0.2, 0.3, -0.2])[labels][:, None, None, None].expand_as(x)


def sampler(velocity: nn.Module, steps: int = 4, guidance: float = 1.0) -> Sampler:
    return Sampler(cast(Velocity, velocity), 8, K, steps, guidance)


def velocity_at(one: Sampler, x: Tensor, time: float, labels: Tensor) -> Tensor:
    """What one step of the sampler takes for the velocity."""
    return (one.advance(x, torch.tensor([time]), labels) - x) * one.steps


@pytest.mark.parametrize("steps", [1, 8])
def test_euler_arrives_at_the_mean(steps: int) -> None:
    noise = torch.randn(2000, 64)
    images = sampler(Gaussian(0.3, 0.1), steps)(noise, torch.zeros(2000, dtype=torch.int64)) * 2 - 1
    assert float(images.mean()) == pytest.approx(0.3, abs=2e-3)


def test_many_euler_steps_arrive_at_the_spread() -> None:
    noise, labels = torch.randn(1000, 64), torch.zeros(1000, dtype=torch.int64)
    spread = [float((sampler(Gaussian(-0.2, 0.1), steps)(noise, labels) * 2 - 1).std()) for steps in (1, 8, 300)]
    assert spread[2] == pytest.approx(0.1, rel=0.02)
    assert spread[0] < spread[1] < spread[2], "few steps are too tame, and get better"


def test_the_path_is_clipped_to_an_image() -> None:
    labels = torch.zeros(1, dtype=torch.int64)
    assert float(sampler(Gaussian(5.0, 0.1))(torch.randn(1, 64), labels).min()) == 1
    assert float(sampler(Gaussian(-5.0, 0.1))(torch.randn(1, 64), labels).max()) == 0


@pytest.mark.parametrize(("guidance", "moves"), [(0.0, [-0.2] * 3), (1.0, [0.1, 0.2, 0.3]), (2.0, [0.4, 0.6, 0.8]), (1.5, [0.25, 0.4, 0.55])])
def test_guidance_by_hand(guidance: float, moves: list[float]) -> None:
    x = torch.randn(3, 1, 8, 8)
    got = velocity_at(sampler(ByLabel(), guidance=guidance), x, 0.5, torch.arange(3))
    torch.testing.assert_close(got, torch.tensor(moves)[:, None, None, None].expand_as(x), atol=1e-5, rtol=1e-5)


def test_guidance_of_one_and_zero_on_the_real_network(tiny: params.Variants) -> None:
    variant = flow(tiny)
    for _ in range(5):
        variant.progress = 0.2
        variant.step(*batch(28))
    x, labels = torch.randn(3, 1, 28, 28), torch.arange(3)
    told, untold, near_one = (velocity_at(Sampler(variant.velocity, 28, K, 2, g), x, 0.5, labels) for g in (1.0, 0.0, 1.0 + 1e-7))
    t = torch.full((3,), 0.5)
    with torch.no_grad():
        torch.testing.assert_close(told, variant.velocity(x, t, labels), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(untold, variant.velocity(x, t, torch.full((3,), K)), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(near_one, told, atol=1e-5, rtol=1e-5)
    assert (told - untold).abs().max().item() > 1e-4, "the label must matter for this to mean something"


def test_the_loss_is_the_velocity_s_squared_error(tiny: params.Variants) -> None:
    variant = flow(tiny, label_dropout=0.0)
    variant.progress = 0.2
    for _ in range(4):
        variant.step(*batch(28))
    calls: list[tuple[Any, Tensor]] = []
    variant.velocity.register_forward_hook(lambda _, given, out: calls.append((given, out.detach().clone())))
    images, labels = batch(28, 8)
    loss = variant.step(images, labels)["loss"]
    ((x, t, told), velocity) = calls[0]
    assert torch.equal(told, labels)
    assert ((t > 0) & (t < 1)).all()
    t = t[:, None, None, None]
    target = images * 2 - 1
    noise = (x - t * target) / (1 - t)
    assert float(noise.mean()) == pytest.approx(0, abs=0.05)
    assert float(noise.std()) == pytest.approx(1, abs=0.05)
    assert float(loss) == pytest.approx(float(F.mse_loss(velocity, target - noise)), rel=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_labels_are_hidden_now_and_then(tiny: params.Variants, dropout: float) -> None:
    variant = flow(tiny, label_dropout=dropout)
    told: list[Tensor] = []
    variant.velocity.register_forward_pre_hook(lambda _, given: told.append(given[2]))
    images, labels = torch.rand(200, 1, 28, 28), torch.arange(200) % K
    variant.step(images, labels)
    hidden = told[0] == K
    assert float(hidden.float().mean()) == pytest.approx(dropout, abs=0.12)
    assert torch.equal(told[0][~hidden], labels[~hidden])


def test_the_learning_rate_warms_up_and_falls_to_nothing(tiny: params.Variants) -> None:
    variant = flow(tiny)
    rates = []
    for progress in (0.0, 0.01, 0.02, 0.5, 1.0):
        variant.progress = progress
        variant.step(*batch(28, 2))
        rates.append(variant.optimiser.param_groups[0]["lr"] / tiny.flow_matching.lr)
    assert rates[0] == pytest.approx(0.02, rel=0.01)
    assert rates[1] == pytest.approx(0.52, rel=0.01)
    assert rates[2] == pytest.approx(1, rel=0.01)
    assert rates[3] == pytest.approx(0.5)
    assert rates[4] == pytest.approx(0, abs=1e-9)
