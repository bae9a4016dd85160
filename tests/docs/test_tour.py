"""docs/tour.ipynb runs from the first cell to the last, and what is committed of it shows people pictures and no
trace of a machine."""

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import typeface
from onnx.helper import make_node
from onnx_by_hand import described, save_model

from lekhani.data.spec import MNIST, GlyphClass
from lekhani.registry import models
from lekhani.tracking import logged, runs
from lekhani.tracking.store import connect

TOUR = Path(__file__).resolve().parents[2] / "docs" / "tour.ipynb"
KINDS = {"devanagari": (typeface.DEVANAGARI, 32), "mnist": (MNIST, 28)}


@pytest.fixture(scope="module")
def notebook() -> Any:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    found = nbformat.read(TOUR, as_version=4)
    nbformat.validate(found)
    return found


def pictures(cell: Any) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell.get("outputs", []))


def test_what_is_committed_has_run_and_shows_pictures(notebook: Any) -> None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), (
        "run from top to bottom before it is committed"
    )
    assert [
        output
        for cell in code
        for output in cell.outputs
        if output.output_type in {"error", "stream"} and output.get("name") != "stdout"
    ] == []
    assert sum(map(pictures, code)) >= 5
    assert TOUR.stat().st_size < 200_000
    assert len([line for line in code[0].source.splitlines() if line]) == 3, "three lines of Python are enough to write"


def test_what_is_committed_names_no_place_of_a_machine(notebook: Any) -> None:
    without_pictures = re.sub(r'"image/png": "[^"]*"', "", json.dumps(notebook, ensure_ascii=False))
    assert (
        re.findall(r"(?:/(?:home|root|tmp|work|Users|var|mnt)/[^\s\"]*|[A-Z]:\\\\\w+|file://)", without_pictures) == []
    )


def test_it_runs_with_models_of_the_registry(notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    for dataset, (classes, size) in KINDS.items():
        shapes = np.stack([typeface.shape(c.glyph, size, dataset) for c in classes])
        register(
            dataset,
            generator(tmp_path / dataset / "generator.onnx", dataset, classes, shapes),
            judge(tmp_path / "judge.onnx", dataset, classes, shapes),
        )
    expected = [pictures(cell) for cell in notebook.cells]
    ran = nbclient.NotebookClient(
        notebook.copy(), timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    mlflow.set_tracking_uri(before)
    assert [pictures(cell) for cell in ran.cells] == expected, "run it again and commit it"
    said = {
        cell.id: "".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in cell.get("outputs", []))
        for cell in ran.cells
    }
    assert "(16, 32, 32)" in said["array"]
    assert "glyph='क'" in said["judge"]
    assert said["translate"].startswith("Read ४२० (")
    assert "and wrote 420" in said["translate"]
    assert "'lekhani-devanagari:1', 'flow_matching', [True, True, True]" in said["names"]
    assert re.search(r"क\s+20", said["files"])
    assert re.search(r"ख\s+10", said["files"])
    assert "lekhani-devanagari:1" in said["sheet"]


def register(dataset: str, generator: Path, judge: Path) -> None:
    """As the pipeline does: a model with its judge, a version, the champion."""
    uri = logged.log_model(runs.create_run("tour", dataset, "test", {}), generator, [judge])
    version = models.register(dataset, uri, {"variant": "flow_matching"})
    connect().set_registered_model_alias(version.name, "champion", version.version)


def generator(path: Path, dataset: str, classes: Sequence[GlyphClass], shapes: Any) -> Path:
    """generator.onnx that paints a typeface with a little grain."""
    size = shapes.shape[-1]
    nodes = [
        make_node("Gather", ["shapes", "labels"], ["glyphs"]),
        make_node("Reshape", ["noise", "frame"], ["texture"]),
        make_node("Mul", ["texture", "little"], ["grain"]),
        make_node("Add", ["glyphs", "grain"], ["raw"]),
        make_node("Clip", ["raw", "zero", "one"], ["images"]),
    ]
    constants = {"shapes": shapes[:, None], "frame": [-1, 1, size, size], "little": 0.03, "zero": 0.0, "one": 1.0}
    more = {"variant": "flow_matching", "noise_dim": f"{size**2}", "conditional": "true"}
    about = described(dataset, classes, size, **more)
    inputs, outputs = {"noise": [size**2], "labels": []}, {"images": [1, size, size]}
    return save_model(path, nodes, inputs, outputs, constants, about)


def judge(path: Path, dataset: str, classes: Sequence[GlyphClass], shapes: Any) -> Path:
    """judge.onnx that knows the typeface by heart: the logits fall with the distance from its glyphs."""
    size, flat = shapes.shape[-1], shapes.reshape(len(shapes), -1)
    nodes = [
        make_node("Reshape", ["images", "row"], ["features"]),
        make_node("MatMul", ["features", "twice"], ["alike"]),
        make_node("Sub", ["alike", "length"], ["logits"]),
    ]
    constants = {"row": [-1, size**2], "twice": 2 * flat.T, "length": (flat**2).sum(1)}
    outputs = {"features": [size**2], "logits": [len(classes)]}
    about = described(dataset, classes, size)
    return save_model(path, nodes, {"images": [1, size, size]}, outputs, constants, about)
