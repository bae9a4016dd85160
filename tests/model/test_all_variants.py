"""Every variant goes the whole way: trained for a few steps, exported and scored; and each can learn."""

import json
from collections.abc import Callable
from contextlib import chdir
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lekhani import params
from lekhani.data.spec import Bytes
from lekhani.evaluate.fidelity import Readings
from lekhani.stages.evaluate import evaluate
from lekhani.stages.export import export
from lekhani.stages.fetch import fetch
from lekhani.stages.judge import judge
from lekhani.stages.prepare import prepare
from lekhani.stages.train import train
from lekhani.stages.validate import validate
from lekhani.variants import VARIANTS, Variant

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
Project = tuple[Path, params.Params, str]


@pytest.fixture(scope="module")
def project_of(tmp_path_factory: pytest.TempPathFactory, tiny: params.Variants) -> Callable[[str], Project]:
    """Folders with one validated dataset (28 pixels and 10 classes, or 32 and 46) and its judge, none of it good."""
    shipped = params.load(ROOT / "params.yaml")
    changes = {
        "embedded": params.Embedded(per_class_train=14, per_class_test=10),
        "judge": params.Judge(width=4, images_seen=3000),
        "train": params.Train(
            images_seen=params.Budget(per_class=1, at_least=64),
            log_every=2,
            sample_every=40,
            score_every=40,
            score_images=100,
        ),
        "variants": tiny,
        "evaluate": params.Evaluate(n_generated=120, kid_subset_size=50),
        "tracking": params.Tracking(backend="none"),
    }
    choices = shipped.model_copy(update=changes)

    @cache  # a fixture with params would be made again for every pair of dataset and variant
    def made(name: str) -> Project:
        folder = tmp_path_factory.mktemp(name)
        with chdir(folder):
            for stage in (fetch, prepare, validate, judge):
                stage(choices, name)
            train(choices, name, "flow_matching")  # turbo's teacher
        return folder, choices, name

    return made


@pytest.fixture
def project(
    request: pytest.FixtureRequest, project_of: Callable[[str], Project], monkeypatch: pytest.MonkeyPatch
) -> tuple[params.Params, str]:
    folder, choices, name = project_of(request.param)
    monkeypatch.chdir(folder)
    return choices, name


@pytest.mark.parametrize(
    ("project", "variant"),
    [
        *(("mnist", variant) for variant in VARIANTS),
        *(pytest.param("devanagari", variant, marks=pytest.mark.slow) for variant in ("dcgan", "flow_matching")),
    ],
    indirect=["project"],
)
def test_from_training_to_a_scorecard(project: tuple[params.Params, str], variant: str) -> None:
    choices, dataset = project
    train(choices, dataset, variant)
    export(choices, dataset, variant)
    evaluate(choices, dataset, variant)
    training = json.loads(Path(f"models/{dataset}/{variant}/training.json").read_text())
    assert training["steps"] == -(-64 // getattr(choices.variants, variant).batch_size)
    card = json.loads(Path(f"reports/{dataset}/{variant}/measurements.json").read_text())
    assert card["fid"] > 0
    assert card["parity_max_abs"] < choices.evaluate.parity_tolerance
    assert ("label_agreement" in card) == training["conditional"]
    assert len(Path(f"reports/{dataset}/{variant}/scores.csv").read_text().splitlines()) >= 2
    assert list(Path(f"reports/{dataset}/{variant}/samples").glob("*.png"))
    assert not Path(f"checkpoints/{dataset}/{variant}").exists()


class FakeInception:
    """In the place of Inception-v3, whose weights are 96 MB: two plain features."""

    sha256 = "ab"

    def __init__(self, weights: Path | None, device: torch.device) -> None:
        assert weights == Path("weights.pth")

    def read(self, images: Bytes) -> Readings:
        features = np.stack([images.mean((1, 2)), images.std((1, 2))], 1).astype(np.float32)
        return features, np.repeat(features, 3, 1) / 100


@pytest.mark.parametrize("project", ["mnist"], indirect=True)
def test_inception_adds_its_own_figures(project: tuple[params.Params, str], monkeypatch: pytest.MonkeyPatch) -> None:
    choices, dataset = project
    for stage in (train, export, evaluate):
        stage(choices, dataset, "cgan")
    path = Path(f"reports/{dataset}/cgan/measurements.json")
    alone = json.loads(path.read_text())
    monkeypatch.setattr("lekhani.evaluate.score.Inception", FakeInception)
    changes = {"extractors": ("judge", "inception"), "inception_weights": "weights.pth"}
    evaluate(choices.model_copy(update={"evaluate": choices.evaluate.model_copy(update=changes)}), dataset, "cgan")
    card = json.loads(path.read_text())
    assert {key: card[key] for key in alone} == alone, "the judge's figures are what they were"
    names = [f"{name}_inception" for name in ("fid", "kid", "inception_score", "precision", "recall")]
    assert {
        *names,
        *(f"{name}_floor" for name in names),
        *(f"{name}_std" for name in names),
        "inception_sha256",
    } <= set(card)
    assert card["fid_inception"] > card["fid_inception_floor"]
    assert Path(f"cache/{dataset}/inception.npz").exists()


def handful() -> tuple[Tensor, Tensor]:
    """Sixteen pictures of two kinds: a bar on the left with label 0, one on the right with label 1."""
    images = torch.zeros(16, 1, 28, 28)
    images[::2, :, 4:24, 6:10] = 1
    images[1::2, :, 4:24, 18:22] = 1
    return images, torch.arange(16) % 2


def far(variant: Variant, images: Tensor) -> float:
    """Mean distance of generated images to the nearest of the handful, in parts of the handful's own brightness."""
    torch.manual_seed(3)
    labels = torch.arange(32) % 2
    with torch.no_grad():
        made = variant.generator().eval()(torch.randn(32, variant.noise_dim), labels)
    variant.generator().train()
    distances = (made[:, None] - images[None, :2]).abs().mean((2, 3, 4)).amin(1)
    return float(distances.mean() / images.mean())


# Learning rates that suit so small a task, and steps until it must be done; another variant has its defaults and 400.
EAGER: dict[str, tuple[dict[str, Any], int]] = {
    "bare_bones": ({"lr": 1e-2, "hidden": 64}, 400),
    "mlp_gan": ({"lr_g": 1e-3, "lr_d": 1e-3, "width": 32}, 200),
    "cgan": ({"lr_g": 1e-3, "lr_d": 1e-3, "width": 32}, 200),
    "dcgan": ({"lr_g": 1e-3, "lr_d": 1e-3, "channels": 16}, 150),
    "wgan_gp": ({"lr_g": 1e-3, "lr_d": 1e-3, "channels": 8, "n_dis": 1}, 200),
    "sngan": ({"lr_g": 1e-3, "lr_d": 1e-3, "channels": 8, "n_dis": 1}, 200),
    "r3gan": ({"lr_g": 1e-3, "lr_d": 1e-3, "channels": 8, "gamma": 0.1, "schedule": "constant"}, 200),
    "draw": ({"lr": 5e-3, "hidden": 48}, 150),
    "flow_matching": ({"lr": 3e-3, "channels": (16, 32)}, 150),
}


@pytest.mark.parametrize("name", [name for name, settings in params.VARIANT_SETTINGS.items() if not settings.teacher])
def test_a_single_small_batch_can_be_learned(name: str, tiny: params.Variants) -> None:
    changes, steps = EAGER.get(name, ({}, 400))
    choices = tiny.model_copy(update={name: getattr(tiny, name).model_copy(update=changes)})
    torch.manual_seed(5)
    variant = VARIANTS[name].build(choices, 28, 2, CPU)
    images, labels = handful()
    before = far(variant, images)
    for step in range(steps):
        variant.progress = step / steps
        told = variant.step(images, labels)
    assert all(np.isfinite(float(value)) for value in told.values())
    assert far(variant, images) < 0.5 * before
