"""The bound of the weights that are exported, its mean and standard error, and what a seed decides of it."""

from pathlib import Path
from typing import Any, cast

import numpy as np
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
from lekhani.variants.draw import Draw

CPU = torch.device("cpu")
SIZE, K, N, T, Z = 12, 3, 60, 4, 3
FORMS = [{}, {"attention": False}, {"conditional": True}]
NAMES = {"nats_per_image", "nats_per_image_se", "nats_per_image_floor", "nats_reconstruction", "nats_kl"}
Images = tuple[Bytes, Labels]


def draw(**form: Any) -> Draw:
    torch.manual_seed(1)
    small = {"batch_size": 16, "hidden": 10, "steps": T, "latent_dim": Z, "read_size": 3, "write_size": 4}
    return Draw(params.Draw(**{**small, **form}), SIZE, K, CPU)


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


class FakeVariant:
    """Its bound is known: an image's white pixels, and its label. Keeps the images that it got."""

    def __init__(self) -> None:
        self.net, self.seen = nn.Sequential(nn.Linear(1, 1), nn.Dropout()), list[Tensor]()

    def bound(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        assert not self.net.training
        self.seen.append(images[:, 0])
        torch.randn(7)
        return images.sum((1, 2, 3)), labels.float()

    def generator(self) -> nn.Module:
        return self.net


# --- the bound of what is exported ---


@pytest.mark.parametrize("form", FORMS)
def test_the_weights_that_training_leaves_are_measured(form: dict[str, Any], images: Images, tmp_path: Path) -> None:
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
    found = nats(fresh, *images, seed=5)
    torch.manual_seed(5)
    binary = torch.from_numpy(binarised(images[0], 5)).unsqueeze(1).float()
    with torch.no_grad():
        reconstruction, kl = fresh.bound(binary, torch.from_numpy(images[1]))  # type: ignore[misc]
    assert found["nats_reconstruction"] == pytest.approx(float(reconstruction.mean()), rel=1e-5)
    assert found["nats_kl"] == pytest.approx(float(kl.mean()), rel=1e-5)
    assert found["nats_per_image"] < 0.8 * before["nats_per_image"]
    live = nats(trained.variant, *images, seed=5)
    assert live["nats_per_image"] != pytest.approx(found["nats_per_image"], rel=1e-3), "the live weights are others"


def test_only_variants_with_a_likelihood_have_a_bound(tiny: params.Variants) -> None:
    images, labels = np.zeros((4, 28, 28), np.uint8), np.zeros(4, np.int64)
    found = {name: nats(kind.build(tiny, 28, K, CPU), images, labels, seed=1) for name, kind in VARIANTS.items()}
    assert {name for name, bound in found.items() if bound} == {"draw"}
    assert found["dcgan"] == {}


# --- means and their errors ---


@pytest.mark.parametrize("batch_size", [7, 1000])
def test_means_and_standard_error_over_all_images(images: Images, batch_size: int) -> None:
    variant = FakeVariant()
    found = nats(cast(Variant, variant), *images, seed=4, batch_size=batch_size)
    binary = np.concatenate([seen.numpy() for seen in variant.seen])
    np.testing.assert_array_equal(binary, binarised(images[0], 4), "the same binary images whatever the batches")
    white = binary.sum((1, 2), dtype=np.float64)
    assert found == {
        "nats_per_image": pytest.approx((white + images[1]).mean()),
        "nats_per_image_se": pytest.approx(sem(white + images[1])),
        "nats_per_image_floor": pytest.approx(bernoulli(images[0] / 255).entropy().sum((1, 2)).mean()),
        "nats_reconstruction": pytest.approx(white.mean()),
        "nats_kl": pytest.approx(images[1].mean()),
    }


# --- seeds ---


def test_a_seed_decides_the_figures(images: Images) -> None:
    variant = draw()
    first = nats(variant, *images, seed=3)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert nats(variant, *images, seed=3) == first
    assert torch.equal(torch.get_rng_state(), before), "torch's own random state stays as it was"
    assert set(first) == NAMES
    assert first["nats_reconstruction"] + first["nats_kl"] == pytest.approx(first["nats_per_image"])
    other = nats(variant, *images, seed=4)
    assert all(other[name] != first[name] for name in NAMES - {"nats_per_image_floor"})
    assert other["nats_per_image"] == pytest.approx(first["nats_per_image"], abs=4 * first["nats_per_image_se"])


# --- binary images ---


@pytest.mark.parametrize("grey", [0, 1, 64, 254, 255])
def test_a_grey_pixel_is_white_as_often_as_it_is_bright(grey: int) -> None:
    binary = binarised(np.full((1000, 20, 20), grey, np.uint8), 1)
    assert binary.dtype == np.uint8
    assert set(np.unique(binary)) <= {0, 1}
    p = grey / 255
    assert binary.mean() == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / binary.size))


def test_pixels_and_seeds_are_binarised_on_their_own() -> None:
    grey = np.full((2, 60, 60), 128, np.uint8)
    first, other = binarised(grey, 1), binarised(grey, 2)
    np.testing.assert_array_equal(binarised(grey, 1), first)
    assert np.mean(first != other) == pytest.approx(0.5, abs=0.05)
    assert np.mean(first[0] != first[1]) == pytest.approx(0.5, abs=0.05)
