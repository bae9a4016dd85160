"""docs/tour.ipynb runs from the first cell to the last, and what is committed of it shows people pictures and no
trace of a machine."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
from typeface_models import register_typefaces

TOUR = Path(__file__).resolve().parents[2] / "docs" / "tour.ipynb"


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
    register_typefaces(tmp_path)
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
