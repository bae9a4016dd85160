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
    try:
        tags["git.commit"] = _git("rev-parse", "HEAD")
        tags["git.dirty"] = str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower()
    except (OSError, subprocess.CalledProcessError):
        tags["git.commit"] = "none"
    if Path("dvc.lock").exists():
        tags["dvc.lock_sha256"] = files.sha256(Path("dvc.lock"))
    if experiment := os.environ.get("DVC_EXP_NAME"):
        tags["dvc.experiment"] = experiment
    return tags


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603, S607
