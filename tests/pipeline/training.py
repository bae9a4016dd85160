"""A tiny project in which training runs as a process of its own, for tests that kill it or take away what it leans
on."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lekhani import files
from lekhani.data.spec import DatasetInfo, GlyphClass, digest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "lekhani", "train", "--dataset", "mnist", "--variant", "dcgan"]


def workspace(folder: Path) -> Path:
    """A project after its validate stage, with 30 train images and a budget of 150 steps that save every third one."""
    prepared = folder / "data" / "prepared" / "mnist"
    prepared.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 28, 28), np.uint8), np.tile(np.arange(2), 20)
    counts = {"train": 30, "test": 10}
    np.save(prepared / "images.npy", images)
    np.save(prepared / "labels.npy", labels)
    classes = (GlyphClass(0, "0", "0"), GlyphClass(1, "1", "1"))
    info = DatasetInfo("mnist", "test", 28, classes, counts, {"name": "test"}, digest(images, labels, counts))
    files.write_json(prepared / "dataset.json", info.to_dict())
    stamp = {"dataset": "mnist", "digest": info.digest, "passed": True}
    files.write_json(folder / "reports" / "mnist" / "validated.json", stamp)
    choices: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    choices["tracking"]["backend"] = "none"
    choices["train"] |= {"log_every": 1, "sample_every": 100, "checkpoint_steps": 3, "device": "cpu"}
    quick = choices["profiles"]["quick"]
    quick["train"] = {"images_seen": {"per_class": 600, "at_least": 1}}
    quick["variants"]["dcgan"] |= {"batch_size": 8, "channels": 8}
    (folder / "params.yaml").write_text(yaml.safe_dump(choices), encoding="utf-8")
    return folder


def start(folder: Path, *, command: list[str] = COMMAND, **environment: str) -> "subprocess.Popen[str]":
    """Start training, or another command of the project."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(folder: Path) -> int:
    """How many rows losses.csv has by now."""
    path = folder / "checkpoints" / "mnist" / "dcgan" / "losses.csv"
    return max(len(path.read_text().splitlines()) - 1, 0) if path.exists() else 0


def wait_for_rows(process: "subprocess.Popen[str]", folder: Path, count: int) -> None:
    """Return when losses.csv has `count` rows, or the process has ended."""
    deadline = time.monotonic() + 120
    while rows(folder) < count and process.poll() is None:
        assert time.monotonic() < deadline, "training does not get on"
        time.sleep(0.005)


def finish(folder: Path, *, command: list[str] = COMMAND, **environment: str) -> str:
    """Run a command to its good end and return what it said."""
    process = start(folder, command=command, **environment)
    _, told = process.communicate(timeout=240)
    assert process.returncode == 0, told
    return told


def refusal(folder: Path) -> str:
    """What training says of a param that it does not take."""
    process = start(folder)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "Traceback" not in told
    return told
