"""DRAW: the paper's filters and bound, computed here once more the slow way."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from small_batches import CPU, K, batch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from lekhani import params
from lekhani.export.onnx_file import export_onnx, generator_inputs
from lekhani.variants.draw import Draw, Grid, Lstm, divergence

FORMS = [
    {},
    {"attention": False},
    {"conditional": True},
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


def test_the_grid_counts_pixels_from_one() -> None:
    bank = rows_of(Grid(2, 28), torch.tensor([[0.0, 0.0, -9.0, 0.0, 0.0], [1 - 2 / 29, -1 + 4 / 29, -9.0, -20.0, 0.0]]))
    assert bank[0].argmax(-1).tolist() == [[0, 27], [0, 27]], "at log delta 0 the grid ends at the first and last pixel"
    assert bank[1].argmax(-1).tolist() == [[27, 27], [1, 1]], "g = 28 is the last pixel, g = 2 the second"


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


def test_the_divergence_is_torch_s_own() -> None:
    posteriors = torch.randn(6, 25, 200)
    mean, log_deviation = posteriors[..., :100], posteriors[..., 100:]
    expected = kl_divergence(Normal(mean, log_deviation.exp()), Normal(torch.zeros(()), torch.ones(()))).sum((1, 2))
    torch.testing.assert_close(divergence(posteriors), expected, atol=1e-2, rtol=1e-5)
    assert divergence(torch.zeros(2, 25, 200)).tolist() == [0, 0], "the posterior is the prior"


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


def test_a_step_reports_the_bound_in_nats_per_image() -> None:
    variant = draw()
    images, labels = torch.bernoulli(torch.rand(6, 1, 28, 28)), torch.zeros(6, dtype=torch.int64)
    random = torch.get_rng_state()
    reconstruction, kl = variant.bound(images, labels)
    torch.set_rng_state(random)
    metrics = variant.step(images, labels)
    torch.testing.assert_close(metrics["reconstruction"], reconstruction.mean())
    torch.testing.assert_close(metrics["kl"], kl.mean())
    torch.testing.assert_close(metrics["loss"], metrics["reconstruction"] + metrics["kl"])


def test_gradients_are_clipped_after_their_norm_is_taken() -> None:
    variant = draw(clip_norm=5.0)
    metrics = variant.step(torch.rand(8, 1, 28, 28), torch.zeros(8, dtype=torch.int64))
    norm = torch.stack([p.grad.norm() for p in variant.autoencoder.parameters() if p.grad is not None]).norm()
    assert float(metrics["grad_norm"]) > 5
    assert float(norm) == pytest.approx(5, rel=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_every_weight_learns(form: dict[str, Any]) -> None:
    variant = trained(**form, steps=1)
    for name, weight in variant.autoencoder.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_half_precision_keeps_the_grid_and_the_bound_whole() -> None:
    variant = trained()
    (images, labels), noise = batch(4), torch.randn(4, 4, 3)
    images = images.bernoulli()
    with torch.no_grad():
        whole = variant.autoencoder(images, labels, noise)
        with torch.autocast("cpu", torch.bfloat16):
            half = variant.autoencoder(images, labels, noise)
    for one, other in zip(whole, half, strict=True):
        assert other.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.1)


def test_the_bound_is_in_float32_whatever_training_runs_in() -> None:
    variant = trained()
    images, labels = torch.bernoulli(torch.rand(4, 1, 28, 28)), torch.zeros(4, dtype=torch.int64)
    random = torch.get_rng_state()
    whole = variant.bound(images, labels)
    variant.autocast = torch.autocast("cpu", torch.bfloat16)
    torch.set_rng_state(random)
    again = variant.bound(images, labels)
    for one, other in zip(whole, again, strict=True):
        assert torch.equal(one, other)
        assert one.shape == (4,)


# --- the generator ---


def test_the_generator_keeps_its_encoder_but_no_exported_file_does(tmp_path: Path) -> None:
    variant = trained(conditional=True)
    weights = {name: value.numpy().tobytes() for name, value in variant.generator().state_dict().items()}
    encoder = {name for name in weights if name.startswith("encoder.")}
    assert encoder == {f"encoder.{name}" for name in variant.decoder.encoder.state_dict()}
    assert len(encoder) == 9
    export_onnx(
        variant.generator(), generator_inputs(variant.noise_dim, K), ["images"], tmp_path / "generator.onnx", {}
    )
    exported = (tmp_path / "generator.onnx").read_bytes()
    assert {name for name, content in weights.items() if content in exported} == weights.keys() - encoder


@pytest.mark.parametrize("form", FORMS)
def test_the_trajectory_ends_with_the_images(form: dict[str, Any]) -> None:
    variant = trained(**form)
    assert variant.noise_dim == 12
    noise, labels = torch.randn(3, 12), torch.arange(3)
    with torch.no_grad():
        path, images = variant.decoder.trajectory(noise, labels), variant.decoder(noise, labels)
    assert path.shape == (5, 3, 1, 28, 28)
    assert torch.equal(path[-1], images)
    empty = torch.sigmoid(variant.decoder.canvas.detach()).reshape(1, 1, 28, 28)
    torch.testing.assert_close(path[0], empty.expand(3, -1, -1, -1))
    assert all((before - after).abs().max() > 0 for before, after in pairwise(path))
    assert 0 <= path.min() <= path.max() <= 1


def test_each_step_takes_its_own_share_of_the_noise() -> None:
    variant = trained()
    noise, labels = torch.randn(1, 12), torch.zeros(1, dtype=torch.int64)
    other = noise.clone()
    other[:, 6:9] += 1  # the third step's
    with torch.no_grad():
        one, two = (variant.decoder.trajectory(some, labels) for some in (noise, other))
    difference = (one - two).abs().amax((1, 2, 3, 4))
    assert difference[:3].tolist() == [0, 0, 0]
    assert (difference[3:] > 0).all()


def test_a_label_is_learned() -> None:
    variant = draw(conditional=True, lr=1e-2)
    images, labels = torch.zeros(9, 1, 28, 28), torch.arange(9) % K
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, :, 9 * label : 9 * label + 9] = 1  # a third of the paper for each class
    for _ in range(100):
        variant.step(images, labels)
    wanted = torch.arange(10 * K) % K
    with torch.no_grad():
        painted = variant.decoder(torch.randn(10 * K, 12), wanted)
    ink = painted[:, 0, :, :27].reshape(-1, 28, K, 9).sum((1, 3))
    own = ink.gather(1, wanted[:, None]).sum() / ink.sum()
    assert own > 0.45, "a third by chance, 0.62 and more with eight seeds"
