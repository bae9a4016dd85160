"""Retraining as a Prefect flow: DVC's own stages as tasks, one after the other, then registration.

Run it with `python pipelines/retrain.py` (`--help` lists the options). Which stage needs which file is dvc.yaml's
business: the flow asks DVC for the order and lets `dvc repro` decide what there is to do.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# Before the imports: Prefect reports usage otherwise, and DVC asks on its own account.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")

import networkx as nx
from dvc.repo import Repo
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

ROOT = Path(__file__).resolve().parent.parent


class StageFailedError(Exception):
    """A stage ended with an error; the message is the stage's own sentence."""


def stages_in_order(root: Path) -> list[str]:
    """Names of DVC's stages, each after all that it needs."""
    with Repo(str(root)) as repo:
        return [stage.addressing for stage in nx.dfs_postorder_nodes(repo.index.graph)]


def command(root: Path, *words: str) -> None:
    """Run one of the environment's own commands in `root`, its output streamed to the run's log; raises StageFailedError."""
    log = get_run_logger()
    scripts = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": scripts + os.pathsep + os.environ.get("PATH", ""), "PYTHONUNBUFFERED": "1"}
    last = ""
    with subprocess.Popen(
        [f"{scripts}/{words[0]}", *words[1:]], cwd=root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        for line in process.stdout or ():
            if text := line.rstrip():
                log.info(text)
                last = text if text.startswith("lekhani: ") or not last.startswith("lekhani: ") else last
    if process.returncode != 0:
        raise StageFailedError(last.removeprefix("lekhani: ") or f"{' '.join(words)} ended with exit code {process.returncode}")


@task(task_run_name="{stage}")
def run_stage(root: Path, stage: str) -> State[Any]:
    """Bring one stage up to date; the state is named Cached when DVC finds nothing to do."""
    with Repo(str(root)) as repo:
        changed = bool(repo.status(targets=[stage]))
    if not changed:
        return Completed(name="Cached", message="DVC: nothing changed")
    command(root, "dvc", "repro", "--single-item", stage)
    return Completed(message="reproduced")


@task
def publish_leaderboard(root: Path) -> None:
    """Show the leaderboard on the run's page."""
    create_markdown_artifact((root / "reports" / "leaderboard.md").read_text(encoding="utf-8"), key="leaderboard")


@task
def register(root: Path) -> None:
    """Register the best variant of each dataset."""
    command(root, "lekhani", "register")


@flow(name="retrain", log_prints=False)
def retrain(root: Path = ROOT, register_best: bool = True) -> dict[str, str]:
    """Bring every stage of dvc.yaml up to date and register the best variants; returns the state's name per stage."""
    states: dict[str, str] = {}
    for stage in stages_in_order(root):
        state = run_stage(root, stage, return_state=True)
        states[stage] = state.name or state.type.value
        if state.is_failed():
            state.result()  # raises the stage's own error, which becomes the flow's
    publish_leaderboard(root)
    if register_best:
        register(root)
    cached = sum(name == "Cached" for name in states.values())
    get_run_logger().info("%d stages: %d cached, %d run", len(states), cached, len(states) - cached)
    return states


def main() -> int:
    """Run the flow once, here and now."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the project's folder (this one)")
    parser.add_argument("--no-register", action="store_true", help="leave the MLflow registry as it is")
    arguments = parser.parse_args()
    try:
        retrain(arguments.root.resolve(), register_best=not arguments.no_register)
    except StageFailedError as error:
        print(f"retrain: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
