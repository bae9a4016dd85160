"""Tags that lead from an MLflow run back to code, data and weights."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lekhani import files


def revision(training: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The git commit, whether the tree was clean, DVC's lock and experiment, and of `training` (training.json) the weights."""
    tags = {"generator_sha256": training["generator_sha256"]} if training else {}
    commit = git("rev-parse", "HEAD")
    tags["git.commit"] = commit.decode().strip() if commit else "none"
    if commit:
        tags["git.dirty"] = str(bool(git("status", "--porcelain", "--untracked-files=no"))).lower()
    if Path("dvc.lock").exists():
        tags["dvc.lock_sha256"] = files.sha256(Path("dvc.lock"))
    if experiment := os.environ.get("DVC_EXP_NAME"):
        tags["dvc.experiment"] = experiment
    return tags


def git(*arguments: str) -> bytes | None:
    """What a git command prints in this folder; None where it fails or git is not installed."""
    try:
        return subprocess.run(["git", *arguments], capture_output=True, check=True).stdout  # noqa: S603, S607
    except (OSError, subprocess.CalledProcessError):
        return None
