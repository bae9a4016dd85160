"""What code, data and pipeline something was made with, as tags of an MLflow run."""

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT
from yaml import YAMLError

from lekhani import files, strict_yaml
from lekhani.params import Params, ParamsError, resolve

PIPELINE = "LEKHANI_PIPELINE"


def revision() -> dict[str, str]:
    """The git commit and whether it was dirty, dvc.lock, DVC's experiment, and which run of the pipeline this is.

    dvc.lock makes no tree dirty, since the pipeline writes it.
    """
    found = {}
    commit = git("rev-parse", "HEAD")
    found["git.commit"] = commit.decode().strip() if commit else "none"
    if commit:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)dvc.lock")
        found["git.dirty"] = str(bool(changed)).lower()
    if Path("dvc.lock").exists():
        found["dvc.lock_sha256"] = files.sha256(Path("dvc.lock"))
    if experiment := os.environ.get("DVC_EXP_NAME"):
        found["dvc.experiment"] = experiment
    if pipeline := pipeline_id():
        found["pipeline"] = pipeline
    return found


def training_tags() -> dict[str, str]:
    """`revision` as the tags of a training's run, with the names that MLflow has for some of them."""
    found, ours = revision(), {"git.commit": MLFLOW_GIT_COMMIT, "pipeline": "lekhani.pipeline"}
    return {ours.get(key, key): value for key, value in found.items() if value != "none"}


def action_tags(action: str) -> dict[str, str]:
    """`revision` as the tags of what was done to a run after its training, such as `scored`, which leave its own."""
    return {f"{action}.{key}": value for key, value in revision().items()}


def committed_params() -> Params | None:
    """The choices of the params.yaml that is committed; None where there is none, or none that holds today."""
    committed = git("show", "HEAD:./params.yaml")
    try:
        return resolve(strict_yaml.load(committed.decode())) if committed else None
    except (ParamsError, YAMLError, UnicodeDecodeError):
        return None


def pipeline_id() -> str | None:
    """What the stages of one run of the pipeline have in common: LEKHANI_PIPELINE, DVC's experiment, or `dvc repro`."""
    if given := os.environ.get(PIPELINE) or os.environ.get("DVC_EXP_NAME"):
        return given
    return _repro() if "DVC_STAGE" in os.environ else None


def _repro() -> str | None:
    """The process of DVC that runs this stage, by its start and its number."""
    import psutil

    for parent in psutil.Process().parents():
        if any(Path(word).name == "dvc" for word in parent.cmdline()[:3]):
            started = datetime.fromtimestamp(parent.create_time(), UTC)
            return f"repro-{started:%Y%m%dT%H%M%SZ}-{parent.pid}"
    return None


def git(*arguments: str) -> bytes | None:
    """What a git command prints in this folder; None where it fails or git is not installed."""
    try:
        return subprocess.run(["git", *arguments], capture_output=True, check=True).stdout  # noqa: S603, S607
    except (OSError, subprocess.CalledProcessError):
        return None
