"""Flow matching: the loss by hand, the solvers against paths whose end is known, and where guidance acts."""

from itertools import pairwise
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from small_batches import CPU, K, batch
from torch import Tensor, nn

from lekhani import params
from lekhani.variants.flow_matching import FlowMatching, Sampler, Velocity


def flow(tiny: params.Variants, **settings: Any) -> FlowMatching:
    return FlowMatching(tiny.flow_matching.model_copy(update=settings), 28, K, CPU)


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
    """A constant velocity per label: labels 0..K-1 move by 0.1 to 0.3, no label by -0.2; asks for [N] times."""

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        assert t.shape == labels.shape == x.shape[:1]
        return torch.tensor([0.1, 0.2, 0.3, -0.2])[labels][:, None, None, None].expand_as(x)


class Counting(nn.Module):
    """Wraps a velocity and notes the number of rows and the time of each call."""

    def __init__(self, velocity: nn.Module) -> None:
        super().__init__()
        self.velocity = velocity
        self.calls: list[tuple[int, float]] = []

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        assert bool((t == t[0]).all())
        self.calls.append((len(x), round(float(t[0]), 4)))
        return self.velocity(x, t, labels)  # type: ignore[no-any-return]


def sampler(velocity: nn.Module, steps: int = 4, guidance: float = 1.0, size: int = 8, **settings: Any) -> Sampler:
    how = params.FlowMatching(channels=(8,)).model_copy(update={"steps": steps, "guidance": guidance, **settings})
    return Sampler(cast(Velocity, velocity), size, K, how)


def velocity_at(one: Sampler, x: Tensor, time: float, labels: Tensor) -> Tensor:
    """What one step of the sampler takes for the velocity."""
    return (one.move(0)(x, torch.tensor([time]), labels) - x) * one.steps


def calls(steps: int, guidance: float = 2.0, **settings: Any) -> list[tuple[int, float]]:
    """Rows and times at which the sampler asks for a velocity when it makes two images."""
    counting = Counting(ByLabel())
    sampler(counting, steps, guidance, **settings)(torch.randn(2, 64), torch.zeros(2, dtype=torch.int64))
    return counting.calls


# --- solvers ---


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_the_error_falls_by_the_solver_s_order(solver: str, order: int) -> None:
    velocity, x, labels = (
        Gaussian(0.2, 0.5).double(),
        torch.linspace(-2, 2, 64, dtype=torch.float64).reshape(1, 1, 8, 8),
        torch.zeros(1).long(),
    )
    exact = 0.2 + 0.5 * x  # a quantile of N(0, 1) is carried to the same quantile of N(mu, s^2)
    errors = []
    for steps in (8, 16, 32):
        one, state = sampler(velocity, steps, solver=solver), x
        for i in range(steps):
            state = one.move(i)(state, torch.tensor([i / steps], dtype=torch.float64), labels)
        errors.append(float((state - exact).abs().max()))
    orders = [torch.tensor(a / b).log2().item() for a, b in pairwise(errors)]
    assert orders == pytest.approx([order, order], abs=0.25)
    assert errors[-1] < (0.05 if order == 1 else 0.005)


@pytest.mark.parametrize(
    ("steps", "guidance", "settings", "asked"),
    [
        (3, 1.0, {"solver": "euler"}, [(2, 0), (2, 0.3333), (2, 0.6667)]),
        (3, 1.0, {"solver": "heun"}, [(2, 0), (2, 0.3333), (2, 0.3333), (2, 0.6667), (2, 0.6667)]),
        (4, 2.0, {"guidance_from": 0.25, "guidance_to": 0.75}, [(2, 0), (4, 0.25), (4, 0.5), (2, 0.75)]),
        (2, 2.0, {"solver": "heun", "guidance_from": 0.3}, [(2, 0), (2, 0.5), (4, 0.5)]),
    ],
)
def test_heun_looks_twice_and_guidance_costs_twice_inside_its_interval(
    steps: int, guidance: float, settings: dict[str, Any], asked: list[tuple[int, float]]
) -> None:
    assert calls(steps, guidance, **settings) == asked


@pytest.mark.parametrize(
    ("guidance", "moves"), [(0.0, [-0.2] * 3), (1.0, [0.1, 0.2, 0.3]), (2.0, [0.4, 0.6, 0.8]), (1.5, [0.25, 0.4, 0.55])]
)
def test_guidance_by_hand(guidance: float, moves: list[float]) -> None:
    x = torch.randn(3, 1, 8, 8)
    got = velocity_at(sampler(ByLabel(), guidance=guidance), x, 0.5, torch.arange(3))
    torch.testing.assert_close(got, torch.tensor(moves)[:, None, None, None].expand_as(x), atol=1e-5, rtol=1e-5)


def test_the_loss_is_the_velocity_s_squared_error(tiny: params.Variants) -> None:
    variant = flow(tiny, label_dropout=0.0)
    variant.progress = 0.2
    for _ in range(4):
        variant.step(*batch(5))
    calls: list[tuple[Any, Tensor]] = []
    variant.velocity.register_forward_hook(lambda _, given, out: calls.append((given, out.detach().clone())))
    images, labels = batch(8)
    loss = variant.step(images, labels)["loss"]
    ((x, t, given), velocity) = calls[0]
    assert torch.equal(given, labels)
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
    given: list[Tensor] = []
    variant.velocity.register_forward_pre_hook(lambda _, inputs: given.append(inputs[2]))
    images, labels = torch.rand(200, 1, 28, 28), torch.arange(200) % K
    variant.step(images, labels)
    hidden = given[0] == K
    assert float(hidden.float().mean()) == pytest.approx(dropout, abs=0.12)
    assert torch.equal(given[0][~hidden], labels[~hidden])


def test_the_learning_rate_warms_up_and_falls_to_nothing(tiny: params.Variants) -> None:
    variant = flow(tiny)
    rates = []
    for progress in (0.0, 0.01, 0.02, 0.5, 1.0):
        variant.progress = progress
        variant.step(*batch(2))
        rates.append(variant.optimiser.param_groups[0]["lr"] / tiny.flow_matching.lr)
    assert rates[0] == pytest.approx(0.02, rel=0.01)
    assert rates[1] == pytest.approx(0.52, rel=0.01)
    assert rates[2] == pytest.approx(1, rel=0.01)
    assert rates[3] == pytest.approx(0.5)
    assert rates[4] == pytest.approx(0, abs=1e-9)


# --- the network ---


@pytest.mark.parametrize(("blocks", "counts"), [(3, [3, 3, 3, 3, 3]), ((1, 2, 4), [1, 2, 4, 1, 2])])
def test_blocks_per_resolution_and_direction(blocks: int | tuple[int, ...], counts: list[int]) -> None:
    net = Velocity(K, (8, 16, 16), blocks)
    assert [len(one) for one in (*net.encoder.down, *net.up)] == counts
    x, t, labels = torch.randn(2, 1, 28, 28), torch.rand(2), torch.tensor([0, K])
    assert net(x, t, labels).shape == x.shape
    assert [tuple(features.shape) for features in net.encoder(x, t, labels)[1]] == [
        (2, 8, 14, 14),
        (2, 16, 7, 7),
        (2, 16, 4, 4),
    ]


def test_blocks_must_be_as_many_as_resolutions() -> None:
    with pytest.raises(ValueError, match="blocks has 2 numbers and channels 3; give one for each"):
        params.FlowMatching(channels=(8, 16, 16), blocks=(1, 2))


def test_the_networks_run_in_the_precision_the_loop_chose(tiny: params.Variants) -> None:
    variant = flow(tiny)
    seen: list[torch.dtype] = []
    variant.velocity.leave.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    variant.autocast = torch.autocast("cpu", torch.bfloat16)
    metrics = variant.step(*batch(2))
    assert seen == [torch.bfloat16]
    assert metrics["loss"].dtype == torch.float32
