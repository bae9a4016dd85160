"""DRAW: the paper's filters and bound, computed here once more the slow way."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from small_batches import CPU, K, batch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from lekhani import params
from lekhani.variants.draw import Draw, Grid, Lstm

FORMS = [
    {},
    {"attention": False, "conditional": True},
    {"read_size": 1, "write_size": 40},
]


def draw(**settings: Any) -> Draw:
    small = {"batch_size": 8, "hidden": 16, "steps": 4, "latent_dim": 3, "read_size": 3, "write_size": 4}
    return Draw(params.Draw(**small | settings), 28, K, CPU)


def trained(steps: int = 5, **settings: Any) -> Draw:
    variant = draw(**{"lr": 1e-2, **settings})
    for _ in range(steps):
        variant.step(*batch())
    return variant


def slow_bank(where: Tensor, n: int, side: int) -> tuple[list[list[float]], list[list[float]]]:
    """F_X and F_Y of one image as equations 19 to 26 of the paper say, one number at a time, in Python's doubles."""
    gx, gy, log_variance, log_stride, _ = where.tolist()
    variance, delta = math.exp(log_variance), (max(side, side) - 1) / (n - 1) * math.exp(log_stride)
    banks = []
    for g in ((side + 1) / 2 * (gx + 1), (side + 1) / 2 * (gy + 1)):
        rows = []
        for i in range(1, n + 1):
            mu = g + (i - n / 2 - 0.5) * delta
            row = [math.exp(-((a - mu) ** 2) / (2 * variance)) for a in range(1, side + 1)]
            rows.append([one / sum(row) for one in row])
        banks.append(rows)
    return banks[0], banks[1]


def rows_of(grid: Grid, where: Tensor) -> Tensor:
    """F_X and F_Y, [N, 2, n, side]."""
    columns, rows, gamma = grid.bank(where)
    torch.testing.assert_close(gamma.flatten(), where[:, 4].exp())
    return torch.stack([columns, rows], 1)


# --- the grid ---


@pytest.mark.parametrize(("n", "side"), [(6, 28), (5, 32), (2, 28), (40, 28)])
def test_the_filterbank_is_the_paper_s(n: int, side: int) -> None:
    where = torch.randn(7, 5) * torch.tensor([0.5, 0.5, 0.7, 0.3, 1.0]) + torch.tensor([0.0, 0.0, 0.5, -0.5, 0.0])
    bank = rows_of(Grid(n, side), where)
    assert bank.shape == (7, 2, n, side)
    for one, row in zip(bank, where, strict=True):
        torch.testing.assert_close(one, torch.tensor(slow_bank(row, n, side)), atol=1e-5, rtol=1e-3)


def test_the_window_is_the_square_that_the_filters_look_at() -> None:
    grid = Grid(6, 28)
    torch.testing.assert_close(grid.window(torch.zeros(1, 5)), torch.tensor([[0.5, 0.5, 1.0]]))
    where = torch.tensor([[0.4, -0.3, 0.0, -1.2, 0.0]])  # well inside the image
    for filters, centre in zip(grid.bank(where)[:2], grid.window(where)[0, :2], strict=True):
        places = (filters * (grid.pixels - 0.5)).sum(-1)[0] / 28  # of each filter, in parts of the image's side
        torch.testing.assert_close(places.mean(), centre, atol=1e-3, rtol=0)
        torch.testing.assert_close(places[-1] - places[0] + 1 / 28, grid.window(where)[0, 2], atol=1e-3, rtol=0)
    assert Grid(1, 28).window(where)[0, 2] == pytest.approx(1 / 28)


def test_filters_sum_to_one_wherever_they_are() -> None:
    far = torch.tensor(
        [
            [50.0, -50.0, -30.0, 5.0, 0.0],
            [0.0, 0.0, -60.0, 0.0, 0.0],
            [0.0, 0.0, 20.0, 0.0, 0.0],
            [3.0, 0.0, 0.0, -50.0, 0.0],
        ]
    )
    bank = rows_of(Grid(6, 28), far)
    assert torch.isfinite(bank).all()
    torch.testing.assert_close(bank.sum(-1), torch.ones(4, 2, 6))


def test_a_grid_of_one_filter_looks_at_its_centre() -> None:
    bank = rows_of(Grid(1, 28), torch.tensor([[1 - 2 / 29, -1 + 2 / 29, -9.0, 3.0, 0.0]]))
    assert bank[0].argmax(-1).tolist() == [[27], [0]]


def test_reading_and_writing_by_hand() -> None:
    grid = Grid(4, 12)
    where, pictures, patch = torch.randn(2, 5) * 0.3, torch.rand(2, 2, 12, 12), torch.randn(2, 4, 4)
    seen, painted = (
        grid.read(pictures.transpose(1, 2), where).reshape(2, 4, 2, 4),
        grid.write(patch, where).reshape(2, 12, 12),
    )
    for i in range(2):
        fx, fy = (torch.tensor(bank) for bank in slow_bank(where[i], 4, 12))
        gamma = where[i, 4].exp()
        for k in range(2):
            torch.testing.assert_close(seen[i, :, k], gamma * fy @ pictures[i, k] @ fx.T, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(painted[i], fy.T @ patch[i] @ fx / gamma, atol=1e-5, rtol=1e-4)


def test_the_lstm_is_torch_s() -> None:
    mine, theirs = Lstm(5, 7), nn.LSTMCell(5, 7)
    i, f, o, g = mine.weight.detach().chunk(4)
    weight = torch.cat([i, f, g, o])  # torch's order of the gates
    theirs.weight_ih.data, theirs.weight_hh.data = weight[:, :5], weight[:, 5:]
    i, f, o, g = mine.bias.detach().chunk(4)
    theirs.bias_ih.data, theirs.bias_hh.data = torch.cat([i, f, g, o]), torch.zeros(28)
    inputs, output, cell = torch.randn(3, 5), torch.randn(3, 7), torch.randn(3, 7)
    got = mine.advance(torch.cat([inputs, output], 1), cell, mine.bias.expand(3, -1))
    for one, other in zip(got, theirs(inputs, (output, cell)), strict=True):
        torch.testing.assert_close(one, other)


# --- the bound ---


@pytest.mark.parametrize("form", FORMS)
def test_the_bound_is_the_slow_one(form: dict[str, Any]) -> None:
    variant = trained(**form)
    images, labels, noise = torch.bernoulli(torch.rand(5, 1, 28, 28)), torch.arange(5) % K, torch.randn(4, 5, 3)
    posteriors: list[Normal] = []
    variant.decoder.encoder.posterior.register_forward_hook(
        lambda _, __, out: posteriors.append(Normal(out[:, :3], out[:, 3:].exp()))
    )
    with torch.no_grad():
        reconstruction, kl = variant.autoencoder(images, labels, noise)
        # Samples of the posteriors lead the generator to the same canvas.
        painted = variant.decoder(
            torch.cat([q.mean + q.stddev * e for q, e in zip(posteriors, noise, strict=True)], 1), labels
        )
    assert reconstruction.shape == kl.shape == (5,)
    expected = -Bernoulli(probs=painted.double().clamp(1e-9, 1 - 1e-9)).log_prob(images.double()).sum((1, 2, 3))
    torch.testing.assert_close(reconstruction.double(), expected, atol=1e-2, rtol=1e-4)
    prior = Normal(torch.zeros(()), torch.ones(()))
    torch.testing.assert_close(
        kl, torch.stack([kl_divergence(q, prior).sum(1) for q in posteriors]).sum(0), atol=1e-3, rtol=1e-4
    )


def test_the_learning_rate_may_fall_along_a_cosine() -> None:
    for schedule, rates in (("constant", [1e-2, 1e-2]), ("cosine", [0.55e-2, 1e-3])):
        variant = draw(lr=1e-2, schedule=schedule)
        for variant.progress, rate in zip((0.5, 1.0), rates, strict=True):
            variant.step(*batch())
            assert variant.optimiser.param_groups[0]["lr"] == pytest.approx(rate)


def test_images_are_binarised_anew_each_time() -> None:
    variant = draw()
    seen: list[Tensor] = []
    variant.autoencoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    grey, labels = torch.full((40, 1, 28, 28), 0.3), torch.zeros(40, dtype=torch.int64)
    variant.step(grey, labels)
    variant.step(grey, labels)
    variant.bound(grey, labels)
    variant.bound(seen[0], labels)
    for one in seen:
        assert set(one.unique().tolist()) == {0, 1}
        assert float(one.mean()) == pytest.approx(0.3, abs=0.02)
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[3]), "binary images stay as they are"


# --- the generator ---


@pytest.mark.parametrize("form", FORMS)
def test_the_generator_begins_with_an_empty_canvas_and_changes_it_at_each_step(form: dict[str, Any]) -> None:
    variant = trained(**form)
    assert variant.noise_dim == 12
    noise, labels = torch.randn(3, 12), torch.arange(3)
    with torch.no_grad():
        path = [variant.decoder.finish(state) for state in variant.decoder.states(noise, labels)]
    empty = torch.sigmoid(variant.decoder.canvas.detach()).reshape(1, 1, 28, 28)
    torch.testing.assert_close(path[0], empty.expand(3, -1, -1, -1))
    assert len(path) == 5
    assert all((before - after).abs().max() > 0 for before, after in pairwise(path))
