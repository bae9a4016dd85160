"""A training process that is killed at any moment ends, when it is started again, with the bytes of an unbroken one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lekhani import files
from lekhani.data.spec import DatasetInfo, GlyphClass

ROOT = Path(__file__).resolve().parents[2]
KILLS = 5
COMMAND = [sys.executable, "-m", "lekhani", "train", "--dataset", "mnist", "--variant", "dcgan"]


def workspace(folder: Path) -> Path:
    """A project after its validate stage, with 40 tiny images and a budget of 150 steps that save every third one."""
    prepared = folder / "data" / "prepared" / "mnist"
    prepared.mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.save(prepared / "images.npy", rng.integers(0, 256, (40, 28, 28), np.uint8))
    np.save(prepared / "labels.npy", np.tile(np.arange(2), 20))
    classes = (GlyphClass(0, "0", "0"), GlyphClass(1, "1", "1"))
    info = DatasetInfo("mnist", "test", 28, classes, {"train": 30, "test": 10}, {"name": "test"}, "0" * 64)
    files.write_json(prepared / "dataset.json", info.to_dict())
    files.write_json(folder / "reports" / "mnist" / "validation.json", {"passed": True, "checks": []})
    choices: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    choices["tracking"]["backend"] = "none"
    choices["train"] |= {"log_every": 1, "sample_every": 100, "checkpoint_steps": 3, "device": "cpu"}
    quick = choices["profiles"]["quick"]
    quick["train"] = {"images_seen": {"per_class": 600, "at_least": 1}}
    quick["variants"]["dcgan"] |= {"batch_size": 8, "channels": 8}
    (folder / "params.yaml").write_text(yaml.safe_dump(choices), encoding="utf-8")
    return folder


def start(folder: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(COMMAND, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def rows(folder: Path) -> int:
    path = folder / "reports" / "mnist" / "dcgan" / "losses.csv"
    return max(len(path.read_text().splitlines()) - 1, 0) if path.exists() else 0


def wait_for_rows(process: "subprocess.Popen[str]", folder: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while rows(folder) < count and process.poll() is None:
        assert time.monotonic() < deadline, "training does not get on"
        time.sleep(0.005)


def finish(folder: Path) -> str:
    process = start(folder)
    _, told = process.communicate(timeout=240)
    assert process.returncode == 0, told
    return told


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = workspace(tmp_path_factory.mktemp("unbroken"))
    finish(folder)
    return folder / "models" / "mnist" / "dcgan" / "generator.safetensors"


def test_killed_five_times(unbroken: Path, tmp_path: Path) -> None:
    folder, rng = workspace(tmp_path / "killed"), random.Random()  # any moment will do, so there is no seed
    deaths = []
    for kill in range(KILLS):
        process = start(folder)
        wait_for_rows(process, folder, 25 * kill + rng.randint(8, 25))
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, "it was over before it was killed"
        deaths.append(rows(folder))
    told = finish(folder)
    assert "goes on from step" in told
    assert (folder / "models" / "mnist" / "dcgan" / "generator.safetensors").read_bytes() == unbroken.read_bytes(), f"killed after steps {deaths}"
    losses = (folder / "reports" / "mnist" / "dcgan" / "losses.csv").read_text().splitlines()
    assert [int(line.split(",")[0]) for line in losses[1:]] == list(range(1, 151)), "each step is told once"
    assert not (folder / "checkpoints" / "mnist" / "dcgan").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop(number: signal.Signals, code: int, unbroken: Path, tmp_path: Path) -> None:
    folder = workspace(tmp_path / "stopped")
    process = start(folder)
    wait_for_rows(process, folder, 20)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code
    assert "run the same command to go on" in told
    assert "Traceback" not in told
    finish(folder)
    assert (folder / "models" / "mnist" / "dcgan" / "generator.safetensors").read_bytes() == unbroken.read_bytes()


def test_a_changed_param_is_refused_by_name(tmp_path: Path) -> None:
    folder = workspace(tmp_path / "changed")
    process = start(folder)
    wait_for_rows(process, folder, 10)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    choices = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    choices["profiles"]["quick"]["variants"]["dcgan"]["lr_g"] = 1e-3
    (folder / "params.yaml").write_text(yaml.safe_dump(choices), encoding="utf-8")
    process = start(folder)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "variants.dcgan.lr_g 0.0004, and now it is 0.001" in told
    assert "Traceback" not in told
