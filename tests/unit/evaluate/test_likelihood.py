"""The bound of what ships, computed here once more in NumPy, and what a seed decides of it."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import bernoulli, sem
from torch import Tensor, nn

from lekhani import params
from lekhani.data.spec import Bytes, Labels
from lekhani.evaluate.likelihood import binarised, nats
from lekhani.export.weights import load_weights, save_weights
from lekhani.train.loop import Trainer, TrainerConfig
from lekhani.variants import VARIANTS
from lekhani.variants.base import Variant
from lekhani.variants.dcgan import Dcgan
from lekhani.variants.draw import Draw

CPU = torch.device("cpu")
SIZE, K, N, T, Z = 12, 3, 60, 4, 3
FORMS = [{}, {"attention": False}, {"conditional": True}]
NAMES = {"nats_per_image", "nats_per_image_se", "nats_per_image_floor", "nats_reconstruction", "nats_kl"}
Doubles = npt.NDArray[np.float64]
Images = tuple[Bytes, Labels]


def draw(**form: Any) -> Draw:
    torch.manual_seed(1)
    return Draw(
        params.Draw(
            **{"batch_size": 16, "hidden": 10, "steps": T, "latent_dim": Z, "read_size": 3, "write_size": 4, **form}
        ),
        SIZE,
        K,
        CPU,
    )


@pytest.fixture(scope="module")
def images() -> Images:
    """Grey bars, black paper and a white edge; class k's bar is as wide as its label says."""
    rng = np.random.default_rng(2)
    labels = (np.arange(N) % K).astype(np.int64)
    made = np.zeros((N, SIZE, SIZE), np.uint8)
    made[:, :, 0] = 255
    for image, label in zip(made, labels, strict=True):
        at = int(rng.integers(2, 6))
        image[:, at : at + 1 + label] = rng.integers(60, 250)
    return made, labels


class Known(Variant):
    """Its bound is known: an image's white pixels, and its label. Keeps what it was asked."""

    name, conditional, noise_dim = "known", True, 1

    def __init__(self) -> None:
        self.net, self.asked = nn.Sequential(nn.Linear(1, 1), nn.Dropout()), list[Tensor]()

    def bound(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        assert not self.net.training
        assert images.dtype == torch.float32
        self.asked.append(images[:, 0])
        torch.randn(7)
        return images.sum((1, 2, 3)), labels.float()

    def generator(self) -> nn.Module:
        return self.net

    def build(self) -> None: ...
    def step(self) -> None: ...
    def _parts(self) -> None: ...


def sigmoid(x: Doubles) -> Doubles:
    return 1 / (1 + np.exp(-x))


def slow_bound(
    weights: dict[str, Tensor], choice: params.Draw, binary: Doubles, labels: Labels, noise: Doubles
) -> tuple[Doubles, Doubles]:
    """Reconstruction and KL [N] of binary images [N,H*W], from a generator's weights alone, in NumPy's doubles."""
    w = {name: value.double().numpy() for name, value in weights.items()}
    n = len(binary)

    def linear(name: str, x: Doubles) -> Doubles:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def begin(name: str) -> tuple[Doubles, Doubles]:
        return np.tile(w[f"{name}.output"], (n, 1)), np.tile(w[f"{name}.cell"], (n, 1))

    def lstm(name: str, label: str, x: Doubles, output: Doubles, cell: Doubles) -> tuple[Doubles, Doubles]:
        gates = linear(name, np.concatenate([x, output], 1)) + (
            w[f"{label}.weight"][labels] if choice.conditional else 0
        )
        into, keep, out, candidate = np.split(gates, 4, 1)
        cell = sigmoid(keep) * cell + sigmoid(into) * np.tanh(candidate)
        return sigmoid(out) * np.tanh(cell), cell

    def bank(g: Doubles, told: Doubles, size: int) -> Doubles:
        """Equations 19 to 26 of the paper; [N, size, SIZE]."""
        places = (SIZE + 1) / 2 * (g + 1) + (SIZE - 1) / (size - 1) * np.exp(told[:, 3]) * (
            np.arange(1, size + 1)[:, None] - size / 2 - 0.5
        )
        rows = np.exp(-((np.arange(1, SIZE + 1) - places.T[..., None]) ** 2) / (2 * np.exp(told[:, 2]))[:, None, None])
        return rows / rows.sum(-1, keepdims=True)

    def read(pixels: Doubles, told: Doubles) -> Doubles:
        fx, fy = (bank(told[:, i], told, choice.read_size) for i in (0, 1))
        return np.exp(told[:, 4])[:, None, None] * np.einsum("nyh,nhw,nxw->nyx", fy, pixels.reshape(n, SIZE, SIZE), fx)

    def write(patch: Doubles, told: Doubles) -> Doubles:
        fx, fy = (bank(told[:, i], told, choice.write_size) for i in (0, 1))
        return (np.einsum("nyh,nyx,nxw->nhw", fy, patch, fx) / np.exp(told[:, 4])[:, None, None]).reshape(n, -1)

    (seen, seen_cell), (output, cell) = begin("encoder.lstm"), begin("lstm")
    canvas, kl = np.tile(w["canvas"], (n, 1)), np.zeros(n)
    for t in range(T):
        pictures = binary, binary - sigmoid(canvas)
        if choice.attention:  # rows of the one picture and of the other take turns
            glimpse = np.stack([read(pixels, linear("encoder.glance", output)) for pixels in pictures], 2).reshape(
                n, -1
            )
        else:
            glimpse = np.concatenate(pictures, 1)
        seen, seen_cell = lstm("encoder.lstm", "encoder.label", np.concatenate([glimpse, output], 1), seen, seen_cell)
        mean, log_deviation = np.split(linear("encoder.posterior", seen), 2, 1)
        kl += 0.5 * (mean**2 + np.exp(log_deviation) ** 2 - 2 * log_deviation - 1).sum(1)
        output, cell = lstm("lstm", "label", mean + np.exp(log_deviation) * noise[t], output, cell)
        stroke = linear("brush", output)
        canvas = canvas + (
            write(stroke[:, :-5].reshape(n, choice.write_size, -1), stroke[:, -5:]) if choice.attention else stroke
        )
    likely = np.where(binary == 1, sigmoid(canvas), 1 - sigmoid(canvas))
    return -np.log(likely).sum(1), kl


def slow_nats(generator: nn.Module, choice: params.Draw, images: Images, seed: int) -> dict[str, float]:
    """What `nats` is to tell of images in one batch."""
    torch.manual_seed(seed)
    noise = torch.randn(T, N, Z).double().numpy()
    reconstruction, kl = slow_bound(
        generator.state_dict(), choice, binarised(images[0], seed).reshape(N, -1).astype(np.float64), images[1], noise
    )
    total = reconstruction + kl
    return {
        "nats_per_image": total.mean(),
        "nats_per_image_se": sem(total),
        "nats_per_image_floor": bernoulli(images[0] / 255).entropy().sum((1, 2)).mean(),
        "nats_reconstruction": reconstruction.mean(),
        "nats_kl": kl.mean(),
    }


# --- the bound of what ships ---


@pytest.mark.parametrize("form", FORMS)
def test_the_file_that_training_leaves_has_the_bound_that_numpy_finds(
    form: dict[str, Any], images: Images, tmp_path: Path
) -> None:
    config = TrainerConfig(
        build=lambda _: draw(lr=2e-2, **form),
        images=images[0],
        labels=images[1],
        images_seen=40 * 16,
        batch_size=16,
        ema_decay=0.9,
        seed=1,
        settings=params.Train(images_seen=params.Budget(per_class=1), score_every=320),
        device=CPU,
        score=lambda variant, _: {"judge_fid": float(variant.progress)},  # the first score is the best
    )
    trained = Trainer(config).fit()
    assert trained.best_step == 20
    save_weights(trained.generator, tmp_path / "generator.safetensors")
    fresh = draw(**form)
    before = nats(fresh, *images, seed=5)
    load_weights(fresh.generator(), tmp_path / "generator.safetensors")
    told = nats(fresh, *images, seed=5)
    assert told == pytest.approx(slow_nats(trained.generator, fresh.settings, images, 5), rel=1e-5)
    assert told["nats_per_image"] < 0.8 * before["nats_per_image"]
    live = nats(trained.variant, *images, seed=5)
    assert live["nats_per_image"] != pytest.approx(told["nats_per_image"], rel=1e-3), "the live weights are others"


def test_the_parts_sum_to_the_whole(images: Images) -> None:
    told = nats(draw(), *images, seed=3)
    assert set(told) == NAMES
    assert told["nats_reconstruction"] + told["nats_kl"] == pytest.approx(told["nats_per_image"])
    assert all(type(value) is float and value > 0 for value in told.values())


def test_training_s_half_precision_has_no_say(images: Images) -> None:
    variant = draw()
    expected = nats(variant, *images, seed=3)
    variant.autocast = torch.autocast("cpu", torch.bfloat16)
    assert nats(variant, *images, seed=3) == expected


def test_only_variants_with_a_likelihood_have_a_bound(tiny: params.Variants) -> None:
    images, labels = np.zeros((4, 28, 28), np.uint8), np.zeros(4, np.int64)
    assert {
        name for name, variant in VARIANTS.items() if nats(variant.build(tiny, 28, K, CPU), images, labels, seed=1)
    } == {"draw"}
    assert nats(VARIANTS["dcgan"].build(tiny, 28, K, CPU), images, labels, seed=1) == {}


# --- means and their errors ---


@pytest.mark.parametrize("batch_size", [1, 7, N, 1000])
def test_means_and_standard_error_over_all_images(images: Images, batch_size: int) -> None:
    variant = Known()
    told = nats(variant, *images, seed=4, batch_size=batch_size)
    binary = np.concatenate([asked.numpy() for asked in variant.asked])
    np.testing.assert_array_equal(binary, binarised(images[0], 4), "the same binary images whatever the batches")
    white = binary.sum((1, 2), dtype=np.float64)
    assert told == pytest.approx(
        {
            "nats_per_image": (white + images[1]).mean(),
            "nats_per_image_se": sem(white + images[1]),
            "nats_per_image_floor": bernoulli(images[0] / 255).entropy().sum((1, 2)).mean(),
            "nats_reconstruction": white.mean(),
            "nats_kl": images[1].mean(),
        },
        rel=1e-9,
    )


def test_the_standard_error_is_how_far_the_means_of_samples_spread() -> None:
    grey, labels = np.full((200, SIZE, SIZE), 100, np.uint8), np.zeros(200, np.int64)
    told = [nats(Known(), grey, labels, seed) for seed in range(300)]
    spread = np.std([one["nats_per_image"] for one in told])
    assert np.mean([one["nats_per_image_se"] for one in told]) == pytest.approx(spread, rel=0.15)


def test_a_set_s_name_follows_each_metric_s(images: Images) -> None:
    plain, named = nats(Known(), *images, seed=4), nats(Known(), *images, seed=4, suffix="_train")
    assert set(named) == {
        "nats_per_image_train",
        "nats_per_image_train_se",
        "nats_per_image_train_floor",
        "nats_reconstruction_train",
        "nats_kl_train",
    }
    assert list(named.values()) == list(plain.values())


# --- seeds ---


def test_a_seed_decides_the_figures(images: Images) -> None:
    variant = draw()
    first = nats(variant, *images, seed=3)
    torch.manual_seed(99)
    assert nats(variant, *images, seed=3) == first
    other = nats(variant, *images, seed=4)
    assert all(other[name] != first[name] for name in NAMES - {"nats_per_image_floor"})
    assert other["nats_per_image"] == pytest.approx(first["nats_per_image"], abs=4 * first["nats_per_image_se"])


def test_the_noise_is_the_seed_s_too(images: Images) -> None:
    """Where binary images leave nothing else to chance."""
    variant, binary = draw(), (images[0] > 100).astype(np.uint8) * 255
    first, other = (nats(variant, binary, images[1], seed) for seed in (3, 4))
    assert nats(variant, binary, images[1], 3) == first
    assert other["nats_reconstruction"] != first["nats_reconstruction"]


def test_torch_s_random_state_stays_as_it_was(images: Images, tiny: params.Variants) -> None:
    variant, none = draw(), Dcgan(tiny.dcgan, SIZE, 3, CPU)
    before = torch.get_rng_state()
    assert nats(variant, *images, seed=3)
    assert not nats(none, *images, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


# --- binary images ---


def test_black_and_white_stay_what_they_are() -> None:
    rng = np.random.default_rng(0)
    black_and_white = (rng.random((50, 28, 28)) < 0.5).astype(np.uint8) * 255
    for seed in range(5):
        np.testing.assert_array_equal(binarised(black_and_white, seed), black_and_white // 255)


@pytest.mark.parametrize("grey", [1, 64, 128, 254])
def test_a_grey_pixel_is_white_as_often_as_it_is_bright(grey: int) -> None:
    binary = binarised(np.full((1000, 20, 20), grey, np.uint8), 1)
    assert binary.dtype == np.uint8
    assert set(np.unique(binary)) == {0, 1}
    p = grey / 255
    assert binary.mean() == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / binary.size))


def test_pixels_and_seeds_are_binarised_on_their_own() -> None:
    grey = np.full((2, 60, 60), 128, np.uint8)
    first, other = binarised(grey, 1), binarised(grey, 2)
    np.testing.assert_array_equal(binarised(grey, 1), first)
    assert np.mean(first != other) == pytest.approx(0.5, abs=0.05)
    assert np.mean(first[0] != first[1]) == pytest.approx(0.5, abs=0.05)
