"""One stage of DVC's graph as a Prefect task: here, or handed over to a worker on another machine.

The worker runs the flow `stage` in a clone of its own. Of the machine that asks it needs the commit, params.yaml and the entries of dvc.lock,
which are handed over as text, and the files, which both find at the DVC remote. What comes back is the stage's new entry of dvc.lock.
"""

import json
import os
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, cast

from choices import at_commit
from commands import RETRIES, ROOT, command, ending_commands, failed, stopped, summary
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.serialize import load_yaml, modify_yaml
from httpx import HTTPError
from prefect import flow, get_client, get_run_logger, task
from prefect.artifacts import Artifact
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import task_run
from prefect.states import Cancelled, Cancelling, Completed, Failed

from lekhani import params
from lekhani.errors import LekhaniError, UsageError, first_line

LOCK = "dvc-lock"  # the artifact's key
RUN = "run"

Entries = Mapping[str, Any]  # of dvc.lock, by the name of a stage


@task(task_run_name="{stage}", **RETRIES)
def run_stage(
    folder: Path,
    stage: str,
    is_due: bool = True,
    force: bool = False,
    pull: bool = False,
    environment: Mapping[str, str] | None = None,
) -> State[Any]:
    """Bring one stage up to date; the state is named Cached when DVC has nothing to run. A stage that is not due is not looked at."""
    if not is_due:
        return Completed(name="Cached", message="nothing changed")
    words = ["--single-item", *(["--force"] if force else []), *(["--pull"] if pull else []), stage]
    ended = command(folder, "dvc", "--wait-for-lock", "repro", *words, environment=environment)
    if ended.code:
        state = failed(ended)
        # The server of a dataset may be back soon. Wrong use, such as a slug that does not exist, ends with 2.
        return (
            Failed(name="Unreachable", message=state.message)
            if stage.startswith("fetch@") and ended.stage_code == 1
            else state
        )
    if f"Running stage '{stage}':" not in ended.lines:
        return Completed(name="Cached", message="DVC found nothing to run")
    return Completed(message=RUN)


@task(task_run_name="{stage}", **RETRIES)
def hand_over(
    folder: Path, stage: str, needs: Sequence[str], made_here: Sequence[str], commit: str, deployment: str
) -> State[Any]:
    """Have a worker of a deployment run a stage, and bring its outputs here; `made_here` are those of `needs` that no worker has pushed."""
    if made_here and (ended := command(folder, "dvc", "--wait-for-lock", "push", *made_here)).code:
        return failed(ended)
    asked = {
        "stage": stage,
        "needs": list(needs),
        "commit": commit,
        "params_yaml": (folder / "params.yaml").read_text(encoding="utf-8"),
        "lock": entries(folder, [*needs, stage]),
    }
    try:
        state, made = at_worker(deployment, asked)
    except ObjectNotFound:
        return Failed(
            name="Invalid",
            message=f"There is no deployment {deployment!r}; `prefect deploy --all` makes those of prefect.yaml.",
        )
    except HTTPError as error:
        return Failed(name="Unreachable", message=f"Prefect's server does not answer: {first_line(error)}")
    if state.is_crashed():
        return Failed(name="Lost", message=f"The worker that ran it is gone: {state.message}")
    if not state.is_completed():
        return state if state.name == "Stopped" else Failed(message=f"{state.message} (on a worker)")
    record(folder, made)
    ended = command(folder, "dvc", "--wait-for-lock", "pull", "--force", stage)
    return (
        failed(ended)
        if ended.code
        else Completed(name=None if state.message == RUN else "Cached", message=state.message)
    )


def at_worker(deployment: str, asked: Mapping[str, Any]) -> tuple[State[Any], Entries]:
    """The state in which a run of the flow `stage` ended, and the entries of dvc.lock that it made."""
    with get_client(sync_client=True) as client:
        for lost in count():  # after a lost worker a try of this task starts another run; after anything else it finds the one that is going
            key = f"{task_run.id}-{lost}"
            run = cast(
                FlowRun,
                run_deployment(
                    deployment, parameters=dict(asked), flow_run_name=asked["stage"], timeout=0, idempotency_key=key
                ),
            )
            if not (run.state and run.state.is_crashed()):
                break
        while not ((state := client.read_flow_run(run.id).state) and state.is_final()):
            if stopped(2):
                client.set_flow_run_state(run.id, Cancelling())
                return Cancelled(name="Stopped", message="stopped together with the flow"), {}
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]), key=ArtifactFilterKey(any_=[LOCK]))
        return state, {
            name: entry
            for made in client.read_artifacts(artifact_filter=wanted)
            for name, entry in json.loads(str(made.data)).items()
        }


@flow(name="stage")
def stage(
    stage: str, needs: list[str], commit: str, params_yaml: str, lock: dict[str, Any], root: Path = ROOT
) -> State[Any]:
    """Run one stage in a clone of the project, for a `retrain` on another machine, which starts this flow by itself.

    Args:
        stage: Its name, such as train@mnist-dcgan.
        needs: The stages whose outputs it reads; they are on the DVC remote.
        commit: Of the code and dvc.yaml.
        params_yaml: The choices.
        lock: The entries of dvc.lock of these stages.
        root: This clone.

    """
    try:
        folder = at_commit(root.resolve(), commit, params_yaml)
        needs_server(params.load(folder / "params.yaml"))
        record(folder, lock)
    except (LekhaniError, params.ParamsError, DvcException) as error:
        return Failed(message=first_line(error))
    get_run_logger().info("Working in %s", folder)
    code = os.pathsep.join(
        filter(None, [str(folder / "src"), os.environ.get("PYTHONPATH")])
    )  # that of the commit, where it has any
    with ending_commands():
        # What is there already may be of another run: `repro --pull` would fetch only what is missing.
        if needs and (ended := command(folder, "dvc", "--wait-for-lock", "pull", "--force", *needs)).code:
            return failed(ended)
        state = run_stage(folder, stage, pull=True, environment={"PYTHONPATH": code}, return_state=True)
        if state.is_completed() and (ended := command(folder, "dvc", "--wait-for-lock", "push", stage)).code:
            return failed(ended)
    if state.is_completed():
        Artifact(key=LOCK, type="json", description=f"What {stage} made", data=entries(folder, [stage])).create()
    return summary([state])


def entries(folder: Path, stages: Sequence[str]) -> Entries:
    """What dvc.lock says about some stages; those that have never run are left out."""
    path = folder / "dvc.lock"
    known = load_yaml(path)["stages"] if path.exists() else {}
    return {name: known[name] for name in stages if name in known}


def record(folder: Path, found: Entries) -> None:
    """Write down in dvc.lock what stages that ran elsewhere have made."""
    with Repo(str(folder), _wait_for_lock=True) as repo, repo.lock:
        path = folder / "dvc.lock"
        if not path.exists():
            path.write_text("schema: '2.0'\nstages: {}\n", encoding="utf-8")
        with modify_yaml(path) as lock:
            lock["stages"].update(found)


def needs_server(p: params.Params) -> None:
    """Raise UsageError unless machines that share no folder have an MLflow server in common."""
    if p.tracking.backend == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise UsageError(
            "Stages on several machines need one MLflow server: set MLFLOW_TRACKING_URI on each, or tracking.backend=none."
        )
