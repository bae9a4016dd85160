"""Registered versions of toys, of one dataset."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from toy_judge import toy_judge

from lekhani import files
from lekhani.evaluate.reference import Reference
from lekhani.inference.session import Reader
from lekhani.pen import load
from lekhani.registry import models
from lekhani.tracking import logged, runs
from lekhani.tracking.store import connect

DATASET = "served-toys"
NAME = f"lekhani-{DATASET}"


def constant(source: Path, target: Path, name: str, value: Any) -> Path:
    """The same network with another value of one of its constants."""
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, np.float32), name))
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, target)
    return target


class Registry:
    """Registered versions of toys by name, each with its judge, its scorecard and a reference of real images."""

    def __init__(self, folder: Path, good: Path) -> None:
        self.folder, self.good = folder, good
        self.judge = toy_judge(folder / "judge.onnx")
        self.numbers: dict[str, str] = {}
        reader, self.real = Reader(self.judge), load(good).generate(["0", "1", "2"], n=700, seed=100)
        again = load(good).generate(["0", "1", "2"], n=700, seed=101).images
        fid = Reference.of(reader, self.real.images, self.real.labels).distance(reader.read(again)[0])
        self.card = {"fid": fid, "fid_std": fid / 10, "n_generated": 2100, "label_agreement": 1.0, "classes_covered": 3}

    def register(self, name: str, path: Path, judge: Path | None = None, **tags: str) -> None:
        """As `lekhani register` does; the scorecard promises what the good one keeps."""
        judge = judge or self.judge
        beside = self.folder / name
        beside.mkdir()
        files.write_json(beside / "measurements.json", self.card)
        Reference.of(Reader(judge), self.real.images, self.real.labels).save(beside / "reference.npz")
        run_id = runs.create_run("test-serving", name, "test", {})
        uri = logged.log_model(run_id, path, [judge, *sorted(beside.iterdir())])
        version = models.register(DATASET, uri, {"variant": "toy", "model_sha256": files.sha256(path), **tags})
        self.numbers[name] = str(version.version)

    def promote(self, name: str) -> None:
        connect().set_registered_model_alias(NAME, "champion", self.numbers[name])
