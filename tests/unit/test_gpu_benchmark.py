"""benchmarks/gpu.py runs whole in miniature on any machine, and tells of what fails."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ABSENT = ("mlflow", "dvc", "prefect", "pandera", "pandas", "torch_fidelity", "uharfbuzz", "fontTools")  # where GPUs are


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    return gpu


def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "gpu.json").read_text())["phases"]
    return found


def test_all_of_it_in_miniature(tmp_path: Path) -> None:
    bare, out = tmp_path / "bare", tmp_path / "out"
    bare.mkdir()
    for name in ABSENT:
        (bare / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module named {name}', name='{name}')\n")
    paths = os.pathsep.join([str(bare), str(BENCHMARKS.parent / "src")])
    environment = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--miniature", "--minutes", "60", "--out", str(out)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    phases = told(out)
    assert {name: one["state"] for name, one in phases.items()} == dict.fromkeys(
        ("correctness", "speed", "flow", "onnx", "graphs"), "passed"
    )
    assert phases["speed"]["variants"]["turbo"]["images_per_second"].keys() == {"textbook", "resident", "lekhani"}
    assert phases["onnx"]["checks"]["channels last for turbo"]["float32"].keys() == {"without", "with"}
    assert set(phases["flow"]["steps"]["scores of turbo"]) >= {"shipped", "trained"}
    assert phases["onnx"]["checks"]["speed of turbo in float32"]["images_per_second"]["64"]["session"] > 0
    assert phases["graphs"]["checks"]["speed of dcgan"]["ratio"] > 0
    written = {f"{name}.{kind}" for name in ("flow_matching", "turbo") for kind in ("onnx", "safetensors")}
    assert {path.name for path in out.iterdir()} == {*written, "gpu.json", "judge.safetensors", "samples.png"}
    assert done.stdout.splitlines()[-5].startswith("correctness  passed")


def test_a_phase_that_fails_is_told_and_the_next_one_runs(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(run: Any, results: dict[str, Any]) -> None:
        results["before"] = float("nan")
        raise ZeroDivisionError("no such thing\nand more")

    def fine(run: Any, results: dict[str, Any]) -> None:
        results["headline"] = "all is well"

    def absent(run: Any, results: dict[str, Any]) -> None:
        raise gpu.SkipError("no such package here")

    monkeypatch.setattr(gpu, "PHASES", {"speed": (broken, 1), "flow": (fine, 1), "onnx": (absent, 1)})
    assert gpu.main(["--miniature", "--out", str(tmp_path), "--only", "speed", "flow", "onnx"]) == 1
    phases = told(tmp_path)
    assert {name: one["state"] for name, one in phases.items()} == {
        "speed": "failed",
        "flow": "passed",
        "onnx": "skipped",
    }
    assert phases["speed"]["headline"] == "ZeroDivisionError: no such thing"
    assert phases["speed"]["before"] == "nan"
    assert "broken" in phases["speed"]["traceback"]
    assert "ZeroDivisionError: no such thing" in capsys.readouterr().out
    assert gpu.main(["--miniature", "--out", str(tmp_path), "--only", "flow", "onnx"]) == 0


def test_a_check_that_fails_stops_no_other_and_time_leaves_some_out(gpu: Any, tmp_path: Path) -> None:
    from gpu_phases import common

    clock = common.time.perf_counter()
    run = common.Run(**dict.fromkeys(common.Run.__dataclass_fields__))
    run.deadline = clock + 100
    checks: dict[str, Any] = {}
    common.check(run, checks, "far", lambda: {"value": common.require("the value", float("nan"), 1.0)})
    common.check(run, checks, "near", lambda: {"value": common.require("the value", 0.5, 1.0)})
    run.deadline = clock - 1
    common.check(run, checks, "late", lambda: {})
    assert {name: one["state"] for name, one in checks.items()} == {
        "far": "failed",
        "near": "passed",
        "late": "left out",
    }
    results: dict[str, Any] = {}
    with pytest.raises(common.CheckError, match=r"^1 of 3 failed; far: the value is nan, more than 1$"):
        common.conclude(results, checks)
    assert results["left_out"] == ["late"]


def test_other_losses_on_the_device_are_found(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_phases import common, correctness

    def drifted(run: Any, name: str, device: torch.device) -> dict[str, list[float]]:
        return {"loss": [2.0, 1.0, 1.0, 1.0, 1.0, 0.5 if device == common.CPU else 1.5]}

    monkeypatch.setattr(correctness, "losses", drifted)
    run = common.Run(**dict.fromkeys(common.Run.__dataclass_fields__))
    run.device = torch.device("meta")
    with pytest.raises(common.CheckError, match=r"^that within 6 steps is 0\.5"):
        correctness.same_losses(run, "dcgan")


def test_noise_comes_from_the_cpu(gpu: Any) -> None:
    from gpu_phases.correctness import CpuNoise

    def drawn() -> list[torch.Tensor]:
        torch.manual_seed(3)
        like = torch.zeros(4, 3)
        dropped = torch.nn.functional.dropout(torch.ones(8, 8), 0.25)
        return [
            torch.randn(2, 3, device="cpu"),
            torch.randn_like(like),
            torch.randint(0, 9, (4,)),
            torch.randperm(5),
            torch.bernoulli(torch.full((5,), 0.5)),
            dropped,
        ]

    with CpuNoise():
        first, second = drawn(), drawn()
        meta = torch.randn(2, device="meta")
    assert all(map(torch.equal, first, second))
    assert meta.device.type == "meta"
    assert sorted(set(first[-1].unique().tolist())) == pytest.approx([0.0, 4 / 3])


def test_data_is_read_and_what_is_missing_is_named(gpu: Any, tmp_path: Path) -> None:
    images, labels = gpu.blobs(2, 1)
    assert images.shape == (92, 32, 32)
    np.savez(tmp_path / "dhcd_train.npz", images=images, labels=labels.astype(np.int32))
    with pytest.raises(gpu.UsageError, match=r"There is no .*dhcd_test\.npz"):
        gpu.load_data(tmp_path, True)
    np.savez(tmp_path / "dhcd_test.npz", images=images[:9], labels=labels[:9])
    kind, data = gpu.load_data(tmp_path, True)
    assert kind == "dhcd"
    assert data.train[1].dtype == np.int64
    assert len(data.test[0]) == 9


def test_the_bound_of_a_device_never_falls(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import roofline

    monkeypatch.setattr(roofline, "_best", {})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    speeds = iter([3.0, 5.0, 2.0])
    monkeypatch.setattr(roofline, "_matrices", lambda *_: next(speeds))
    monkeypatch.setattr(roofline, "_convolution", lambda *_: 1.0)
    assert roofline.peak_flops(torch.device("cpu"), sides=(1, 2)) == 5.0
    assert roofline.peak_flops(torch.device("cpu"), sides=(1,)) == 5.0


def test_threads_that_wait_for_each_other_do_not_lower_the_bound(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import roofline

    monkeypatch.setattr(roofline, "_best", {})
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        monkeypatch.setattr(roofline, "_products", lambda *_: 4.0 if torch.get_num_threads() == 1 else 3.0)
        assert roofline.peak_flops(torch.device("cpu"), sides=(1,)) == 8.0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
