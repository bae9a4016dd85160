"""A project after its stages, by hand: the files that stages leave for one another."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lekhani import files, params
from lekhani.data.spec import DatasetInfo, GlyphClass, digest
from lekhani.evaluate.per_class import ClassScore, table
from lekhani.export.weights import save_weights
from lekhani.variants.flow_matching import FlowMatching

CLASSES = tuple(GlyphClass(i, name, name) for i, name in enumerate("abc"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: params.Variants) -> Path:
    """The dataset `own`, and `flow_matching` trained on it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data/prepared/own"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28)).astype(np.uint8)
    labels, counts = np.arange(30) % 3, {"train": 20, "test": 10}
    info = DatasetInfo("own", "Latin", 28, CLASSES, counts, {"name": "local"}, digest(images, labels, counts), ("a",))
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    files.write_json(folder / "dataset.json", info.to_dict())
    stamp = {"dataset": "own", "digest": info.digest, "passed": True}
    files.write_json(tmp_path / "reports/own/validated.json", stamp)
    _train(tmp_path, tiny, info)
    _score(tmp_path, info)
    return tmp_path


def _train(root: Path, tiny: params.Variants, info: DatasetInfo) -> None:
    weights = root / "models/own/flow_matching/generator.safetensors"
    save_weights(FlowMatching.build(tiny, 28, 3, torch.device("cpu")).generator(), weights)
    facts: dict[str, Any] = {"dataset": "own", "variant": "flow_matching", "image_size": 28, "n_classes": 3}
    facts |= {"noise_dim": 784, "conditional": True, "parameters": 1, "seed": 7, "profile": "quick"}
    facts |= {"choices": {"flow_matching": tiny.flow_matching.model_dump()}, "data_digest": info.digest}
    facts |= {"generator_sha256": files.sha256(weights), "images_seen": 64, "steps": 8, "best_step": 8}
    facts |= {"findings": [{"name": "a", "sentence": "b"}], "device": "cpu", "torch": "2"}
    files.write_json(weights.with_name("training.json"), facts)
    timing = {"train_seconds": 1.5, "images_per_second": 2.0, "peak_memory_mb": 100}
    files.write_json(root / "reports/own/flow_matching/train_timing.json", timing)


def _score(root: Path, info: DatasetInfo) -> None:
    reports, scored = root / "reports/own/flow_matching", root / "reports/scorecards/own-flow_matching"
    sha = "0" * 64
    exported = {"parity_max_abs": 1e-6, "size_mb": 0.5, "model_sha256": sha}
    files.write_json(reports / "export.json", exported)
    files.write_json(reports / "export_timing.json", {"latency_ms": 1.0})
    files.write_json(reports / "usefulness.json", {"usefulness": 0.5})
    point = {"kind": "real", "share": 1.0, "n_real": 20, "n_synthetic": 0, "accuracies": [0.5, 0.75]}
    files.write_json(root / "reports/own/usefulness_real.json", {"points": [point]})
    card = {"dataset": "own", "variant": "flow_matching", "model_sha256": sha, "judge_sha256": sha}
    card |= {"data_digest": info.digest, "n_generated": 10, "n_real": 10, "seed": 7, "sampling_seeds": 2}
    card |= {"fid": 2.0, "fid_floor": 1.0, "fid_ratio": 2.0, "fid_std": 0.1, "classes_covered": 3}
    files.write_json(scored / "measurements.json", card)
    files.write_csv(scored / "curve.csv", [{"images_seen": 64, "judge_fid": 2.0}])
    given = {field.name: 1 for field in dataclasses.fields(ClassScore)}
    scores = [ClassScore(**{**given, "label": label, "mistaken_for": None}) for label in range(3)]
    files.write_csv(scored / "per_class.csv", table(scores, CLASSES))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(scored / "strip.png")
