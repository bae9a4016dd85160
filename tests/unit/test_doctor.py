"""`lekhani doctor`: faults are found, with what to do; what nothing depends on is no fault."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import onnxruntime as ort
import pytest
from onnxruntime.capi import build_and_package_info
from typer.testing import CliRunner

from lekhani import doctor
from lekhani.cli import app
from lekhani.doctor import GB, Check, examine


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a GPU, in an empty folder with an empty home."""
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "KAGGLE_API_TOKEN", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):  # which MLflow's check sets
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "LEAST_DISK", 0)


def found(name: str) -> Check:
    return next(check for check in examine() if check.name == name)


def nvidia_smi(folder: Path, script: str) -> None:
    (folder / "bin").mkdir()
    command = folder / "bin" / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)


def test_a_machine_without_a_gpu_has_no_fault_and_is_left_as_it_was(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0, done.output
    for name in ("GPU", "torch", "ONNX Runtime", "MLflow", "Prefect", "Kaggle"):
        assert name in done.output
    assert list(tmp_path.iterdir()) == [], "looking makes nothing"


def test_faults_have_advice_and_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, 'echo "NVIDIA H100, 580.65, 81559 MiB"')
    monkeypatch.setattr(doctor, "LEAST_DISK", 10**9 * GB)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert checks["GPU"]["found"] == "NVIDIA H100, 580.65, 81559 MiB"
    for name, advice in (
        ("disk", "free some"),
        ("torch", "UV_TORCH_BACKEND"),
        ("ONNX Runtime", "pip install 'lekhani[gpu]'"),
        ("MLflow", "MLFLOW_TRACKING_URI"),
        ("Prefect", "make schedule"),
    ):
        assert checks[name]["ok"] is False, name
        assert advice in checks[name]["advice"]


def test_a_broken_driver_and_a_broken_package_are_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, "echo 'Failed to initialize NVML: Driver/library version mismatch' >&2; exit 18")
    broken = ModuleType("onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime", broken)
    assert found("GPU").ok is False
    assert "version mismatch" in found("GPU").found
    assert found("ONNX Runtime").ok is False


def test_a_provider_that_raises_is_left_out_and_prints_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    create = ort.InferenceSession._create_inference_session

    def broken(self: Any, providers: list[str], *words: Any) -> None:
        if providers[0] != "CPUExecutionProvider":
            raise RuntimeError("CUDA_PATH is set but CUDA could not be loaded")
        create(self, providers, *words)

    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: names)
    monkeypatch.setattr("onnxruntime.preload_dlls", lambda: None)
    monkeypatch.setattr("onnxruntime.InferenceSession._create_inference_session", broken)
    assert found("ONNX Runtime").found.endswith("providers that open: CPU")
    assert capsys.readouterr().out == ""


def test_builds_for_different_cuda_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(build_and_package_info, "cuda_version", "12.8", raising=False)
    assert "torch is built for 13.0, ONNX Runtime for 12.8" in found("CUDA").found
    assert found("CUDA").ok is False


def test_credentials_are_named_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret")
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle" / "kaggle.json").write_text("secret")
    said = found("Kaggle")
    assert said.ok
    assert "KAGGLE_API_TOKEN" in said.found
    assert "kaggle.json" in said.found
    assert "secret" not in said.found
