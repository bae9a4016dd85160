"""A copy of the project's pipeline in a folder of its own, in which its commands run as a user would run them."""

import contextlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from lekhani import cli

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = Path(sys.executable).parent


class Workspace:
    """A clone of the project's pipeline with tiny budgets, and a way to run its commands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("MLFLOW_", "PREFECT_", "DVC_", "AWS_"))
        }
        self.environment |= {
            "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_HOME": str(path.parent / "prefect"),
            "GIT_AUTHOR_NAME": "t",
            "GIT_AUTHOR_EMAIL": "t@example.org",
            "GIT_COMMITTER_NAME": "t",
            "GIT_COMMITTER_EMAIL": "t@example.org",
        }

    def copy_pipeline(self) -> None:
        """The files of the pipeline, in a fresh repository of git and DVC; MNIST's embedded scans are the only
        dataset."""
        self.path.mkdir()
        for name in ("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore"):
            shutil.copy(ROOT / name, self.path / name)
        for name in ("pipelines", "src"):
            shutil.copytree(ROOT / name, self.path / name, ignore=shutil.ignore_patterns("__pycache__"))
        params = self.params()
        params["pipeline"]["datasets"] = ["mnist"]
        self.write_params(params)
        self.run("git", "init", "-q")
        self.run("dvc", "init", "-q")

    def cut_small(self) -> None:
        """One variant whose training takes seconds, and a gate that lets anything through."""
        sys.path.insert(0, str(ROOT / "pipelines"))
        from choices import MINIATURE
        from dvc.utils.hydra import apply_overrides

        tracked = [one for one in MINIATURE if not one.startswith("tracking.")]
        apply_overrides(self.path / "params.yaml", tracked)
        params = self.params()
        params["pipeline"] |= {"variants": ["flow_matching"], "students": []}
        open_gate(params)
        self.write_params(params)

    def run(self, *words: str, code: int = 0, seconds: float = 500) -> str:
        """Run a command to its end, check its exit code and return stdout and stderr."""
        done = subprocess.run(
            words, cwd=self.path, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert done.returncode == code, f"{words} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This process with the workspace's folder and environment."""
        with contextlib.chdir(self.path), mock.patch.dict(os.environ, self.environment, clear=True):
            yield

    def lekhani(self, *words: str, code: int = 0) -> str:
        """Run one of our commands to its end within this process, which spares its seconds of imports."""
        said, log = io.StringIO(), logging.getLogger("lekhani")
        handler, level = logging.StreamHandler(said), log.level
        log.addHandler(handler)
        try:
            with (
                self.inside(),
                mock.patch.object(sys, "argv", ["lekhani", *words]),
                contextlib.redirect_stdout(said),
                contextlib.redirect_stderr(said),
                pytest.raises(SystemExit) as ended,
            ):
                cli.main()
        finally:
            log.removeHandler(handler)
            log.setLevel(level)
        assert (ended.value.code or 0) == code, f"lekhani {words} ended with {ended.value.code}:\n{said.getvalue()}"
        return said.getvalue()

    def commit(self, message: str) -> None:
        """Commit all that git does not ignore."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)

    def params(self) -> dict[str, Any]:
        return yaml.safe_load((self.path / "params.yaml").read_text(encoding="utf-8"))  # type: ignore[no-any-return]

    def write_params(self, params: dict[str, Any]) -> None:
        (self.path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")

    def json(self, path: str) -> Any:
        return json.loads((self.path / path).read_text(encoding="utf-8"))


def open_gate(params: dict[str, Any]) -> None:
    """Let the gate pass any generator that takes labels, so that nothing depends on how well a short training goes."""
    params["gate"] |= {"max_fid_ratio": 1e9, "min_recall_ratio": 0.0, "max_collapsed_classes": 1000}
    params["gate"] |= {"max_near_copies_excess": 0.99, "max_train_excess_deviations": 1e9}
    params["gate"] |= {"min_usefulness_ratio": 0.0, "max_latency_ms": 1e5}
    params["profiles"]["quick"]["gate"] = {
        "min_label_agreement": 0.0,
        "min_label_agreement_second": 0.0,
        "min_modes_ratio": 0.0,
    }
