"""The Prefect flow writes what the command writes, and shows it."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PIPELINES = Path(__file__).parents[2] / "pipelines"


def test_the_flow_writes_what_the_command_writes(toy_generator: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("generate_flow", PIPELINES / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    flows: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(flows)
    shown: list[str] = []
    monkeypatch.setattr(flows, "create_markdown_artifact", lambda page, key: shown.append(page))
    monkeypatch.setattr(flows, "write", flows.write.fn)  # its own retries need Prefect's server
    model, out = str(toy_generator(tmp_path / "g.onnx")), tmp_path / "out"
    said = flows.generate.fn(str(out), model, labels=["2=3"], each=2, form="npz", seed=5, shard_size=4)
    assert said.startswith("Wrote 7 images of 3 classes")
    request = json.loads((out / "dataset.json").read_text(encoding="utf-8"))["request"]
    assert (request["labels"], request["seed"], request["shard_size"]) == ([["2", 3], ["0", 2], ["1", 2]], 5, 4)
    assert shown == [(out / "README.md").read_text(encoding="utf-8")]
