"""Experiments that repeat a training are found; those that change more than its seed are not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lekhani.errors import UsageError
from lekhani.tracking.experiments import repeats

STAGES = """stages:
  score:
    cmd: python score.py
    params: [train.seed, lr, fail]
    metrics: [card.json]
"""
SCORE = """import json, yaml
p = yaml.safe_load(open("params.yaml"))
open("card.json", "w").write(json.dumps({"train_seed": p["train"]["seed"], "lr": p["lr"]}))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    for name, text in (
        ("dvc.yaml", STAGES),
        ("score.py", SCORE),
        ("params.yaml", "train:\n  seed: null\nlr: 1\nfail: 0\n"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
    for words in (
        ["git", "init", "-q"],
        ["git", "config", "user.name", "t"],
        ["git", "config", "user.email", "t@example.org"],
        ["dvc", "init", "-q"],
        ["dvc", "repro", "-q"],
        ["git", "add", "-A"],
        ["git", "commit", "-qm", "start"],
        ["dvc", "exp", "run", "-q", "-S", "train.seed=8"],
        ["dvc", "exp", "run", "-q", "-S", "train.seed=9"],
        ["dvc", "exp", "run", "-q", "-S", "train.seed=9", "-S", "lr=2"],
        ["git", "checkout", "-q", "."],
        ["dvc", "checkout", "-q"],
    ):
        subprocess.run(words, check=True, timeout=120)
    return tmp_path


def test_only_the_seed_may_differ(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = repeats([Path("card.json"), Path("none.json")])
    assert sorted(card["train_seed"] for card in found[Path("card.json")]) == [8, 9]
    assert {card["lr"] for card in found[Path("card.json")]} == {1}
    assert found[Path("none.json")] == []
    assert "has no none.json" in caplog.text


def test_a_folder_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("lr: 1\n", encoding="utf-8")
    with pytest.raises(UsageError, match="run this in the project's git repository"):
        repeats([Path("card.json")])
