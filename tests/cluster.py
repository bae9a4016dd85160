"""Machines for tests: a coordinator and workers with clones and caches of their own, which share a DVC remote and
servers and nothing else."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect_server import Prefect
from services import running
from workspace import SCRIPTS, Workspace


@dataclass
class Cluster:
    """What runs where, and the Prefect server that knows it."""

    coordinator: Workspace
    clones: dict[str, Workspace]
    prefect: Prefect

    def worker(self, name: str) -> AbstractContextManager[int]:
        """A worker in the clone of this name, one stage at a time; the block gets its pid."""
        space = self.clones[name]
        words = ("--pool", "lekhani", "--work-queue", "stages", "--limit", "1", "--name", name)
        command = [f"{SCRIPTS}/prefect", "worker", "start", *words]
        log = space.path.parent / f"{name}.log"
        return running(command, lambda: True, log, end=signal.SIGTERM, cwd=space.path.parent, env=space.environment)

    def retrain(self, *words: str) -> "subprocess.Popen[str]":
        """Start the coordinator's flow, which registers nothing."""
        asked = ("--no-register", "--stage-deployment", "stage/worker", *words)
        command = [sys.executable, "pipelines/retrain.py", *asked]
        space = self.coordinator
        return subprocess.Popen(
            command, cwd=space.path, env=space.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def stage_runs(self) -> list[dict[str, Any]]:
        """The runs of the flow `stage`, the latest first, each with the name of its clone under "where"."""
        runs = self.prefect.ask("flow_runs/filter", {"flows": {"name": {"any_": ["stage"]}}, "sort": "START_TIME_DESC"})
        for run in runs:
            lines = self.prefect.ask("logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "limit": 200})
            told = [line["message"] for line in lines if line["message"].startswith("Working in ")]
            run["where"] = (
                Path(told[0].split()[-1]).relative_to(self.coordinator.path.parent).parts[0] if told else None
            )
        return runs  # type: ignore[no-any-return]


def said(process: "subprocess.Popen[str]") -> str:
    """What a command says until its good end."""
    told, _ = process.communicate(timeout=1500)
    assert process.returncode == 0, told
    return told


@contextmanager
def cluster(project: Workspace, names: tuple[str, ...], **environment: str) -> Iterator[Cluster]:
    """A project with a DVC remote beside it, committed and cloned for each name, with a Prefect server that runs
    until the block ends."""
    folder = project.path.parent
    project.run("dvc", "remote", "add", "-d", "store", str(folder / "remote"))
    project.commit("start")
    project.run("git", "clone", "-q", "--bare", ".", str(folder / "origin.git"))
    clones = {name: Workspace(folder / name) for name in names}
    for space in clones.values():
        project.run("git", "clone", "-q", str(folder / "origin.git"), str(space.path))
    prefect = Prefect(folder)
    for name, space in {"project": project, **clones}.items():
        prefect.join(space)
        space.environment |= {"OMP_NUM_THREADS": "1", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30", **environment}
        space.environment |= {
            "DVC_SITE_CACHE_DIR": str(folder / f"{name}-site"),
            "PREFECT_HOME": str(folder / f"{name}-prefect"),
        }
        if space is not project:  # where it is deployed the variable would become the path of that machine
            space.environment["LEKHANI_CLONE"] = str(space.path)
    with prefect.serving(project):
        project.run("prefect", "work-pool", "create", "lekhani", "--type", "process")
        project.run("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", "deploy/workers.yaml")
        yield Cluster(project, clones, prefect)
