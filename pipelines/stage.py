"""One stage of DVC's graph as a Prefect task: here, or on a worker on another machine.

The worker runs the flow `stage` in a clone of its own. From the machine that starts it the worker gets the commit,
params.yaml and entries of dvc.lock as text; files go over the DVC remote. It returns the stage's new entry of dvc.lock.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, cast

import commands
from choices import at_commit
from commands import RETRIES, ROOT
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
from prefect.runtime import flow_run, task_run
from prefect.states import Cancelled, Cancelling, Completed, Failed

from lekhani import params
from lekhani.errors import LekhaniError, UsageError, first_line

LOCK = "dvc-lock"  # the artifact's key
RUN = "run"  # the message of a stage that DVC did not skip

Entries = Mapping[str, Any]  # of dvc.lock, by the name of a stage


@task(task_run_name="{stage}", **RETRIES)
def run_stage(
    folder: Path,
    stage: str,
    is_due: bool = True,
    force: bool = False,
    pull: bool = False,
    commit: bool = True,
    environment: Mapping[str, str] | None = None,
) -> State[Any]:
    """Bring one stage up to date, unless it is not due; the state is named Cached when there was nothing to run.

    Without `commit` nothing that it makes goes to DVC's cache.
    """
    if not is_due:
        return Completed(name="Cached", message="nothing changed")
    words = commands.options(force=force, pull=pull, no_commit=not commit)
    result = _dvc(folder, "repro", "--single-item", *words, stage, environment=environment)
    if result.code:
        state = commands.failed_state(result)
        state.message = with_whole_paths(state.message or "", folder)
        # The server of a dataset may be back soon. Wrong use, such as a slug that does not exist, ends with 2.
        if stage.startswith("fetch@") and result.stage_code == 1:
            return Failed(name="Unreachable", message=state.message)
        return state
    if f"Running stage '{stage}':" not in result.lines:
        return Completed(name="Cached", message="DVC found nothing to run")
    return Completed(message=RUN)


def with_whole_paths(sentence: str, folder: Path) -> str:
    """A stage's sentence with its paths made absolute where it ran in a worktree: the reader is somewhere else."""
    if folder.parent.name != "flows":
        return sentence
    return re.sub(r"(?<![\w/.-])(?=(?:data|models|reports)/)", f"{folder}/", sentence)


@task(task_run_name="{stage}", **RETRIES)
def run_remotely(
    folder: Path, stage: str, needs: Sequence[str], made_here: Sequence[str], commit: str, deployment: str
) -> State[Any]:
    """Run a stage on a worker of a deployment, and bring its outputs here.

    `made_here` are those of `needs` that no worker has pushed.
    """
    if made_here and (result := _dvc(folder, "push", *made_here)).code:
        return commands.failed_state(result)
    parameters = {
        "stage": stage,
        "needs": list(needs),
        "commit": commit,
        "params_yaml": (folder / "params.yaml").read_text(encoding="utf-8"),
        "lock": lock_entries(folder, [*needs, stage]),
    }
    state, made = run_on_worker(deployment, parameters)
    if not state.is_completed():
        return state
    add_lock_entries(folder, made)
    if (result := _dvc(folder, "pull", "--force", stage)).code:
        return commands.failed_state(result)
    return Completed(name=None if state.message == RUN else "Cached", message=state.message)


def run_on_worker(deployment: str, parameters: Mapping[str, Any]) -> tuple[State[Any], Entries]:
    """The state that a run of the flow `stage` leads to, and the entries of dvc.lock that it made."""
    try:
        state, made = _wait_for_flow_run(deployment, parameters)
    except ObjectNotFound:
        hint = "`prefect deploy --all --prefect-file deploy/workers.yaml` makes it"
        return Failed(name="Invalid", message=f"There is no deployment {deployment!r}; {hint}."), {}
    except HTTPError as error:
        return Failed(name="Unreachable", message=f"Prefect's server does not answer: {first_line(error)}"), {}
    if state.is_crashed():
        return Failed(name="Lost", message=f"The worker that ran it is gone: {state.message}"), {}
    if not state.is_completed() and state.name != "Stopped":
        return Failed(message=f"{state.message} (on a worker)"), {}
    return state, made


def _wait_for_flow_run(deployment: str, parameters: Mapping[str, Any]) -> tuple[State[Any], Entries]:
    with get_client(sync_client=True) as client:
        run = _flow_run(deployment, parameters)
        while not ((state := client.read_flow_run(run.id).state) and state.is_final()):
            if commands.wait_for_stop(2):
                client.set_flow_run_state(run.id, Cancelling())
                return Cancelled(name="Stopped", message="stopped together with the flow"), {}
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]), key=ArtifactFilterKey(any_=[LOCK]))
        artifacts = client.read_artifacts(artifact_filter=wanted)
    return state, {name: entry for one in artifacts for name, entry in json.loads(str(one.data)).items()}


def _flow_run(deployment: str, parameters: Mapping[str, Any]) -> FlowRun:
    """The run that an earlier try of this task has started, unless its worker was lost; else a new one."""
    options: dict[str, Any] = {"parameters": dict(parameters), "flow_run_name": parameters["stage"], "timeout": 0}
    for lost in count():
        run = cast(FlowRun, run_deployment(deployment, idempotency_key=f"{task_run.id}-{lost}", **options))
        if not (run.state and run.state.is_crashed()):
            break
    return run


@flow(name="stage", flow_run_name="{stage}")
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
        require_shared_server(params.load(folder / "params.yaml"))
        add_lock_entries(folder, lock)
    except (LekhaniError, params.ParamsError, DvcException) as error:
        return Failed(message=first_line(error))
    get_run_logger().info("Working in %s", folder)
    # The commit's code comes first.
    code = os.pathsep.join(filter(None, [str(folder / "src"), os.environ.get("PYTHONPATH")]))
    with commands.terminating_commands():
        # What is there already may be of another run: `repro --pull` would fetch only what is missing.
        if needs and (result := _dvc(folder, "pull", "--force", *needs)).code:
            return commands.failed_state(result)
        settings = {"PYTHONPATH": code, "LEKHANI_PIPELINE": f"flow-{flow_run.root_flow_run_id}"}
        state = run_stage(folder, stage, pull=True, environment=settings, return_state=True)
        if state.is_completed() and (result := _dvc(folder, "push", stage)).code:
            return commands.failed_state(result)
    if state.is_completed():
        Artifact(key=LOCK, type="json", description=f"What {stage} made", data=lock_entries(folder, [stage])).create()
    return commands.combined_state([state])


def _dvc(folder: Path, *words: str, environment: Mapping[str, str] | None = None) -> commands.CommandResult:
    return commands.run_command(folder, "dvc", "--wait-for-lock", *words, environment=environment)


def lock_entries(folder: Path, stages: Sequence[str]) -> Entries:
    """The entries of some stages in dvc.lock; a stage that has never run has none."""
    path = folder / "dvc.lock"
    known = load_yaml(path)["stages"] if path.exists() else {}
    return {name: known[name] for name in stages if name in known}


def add_lock_entries(folder: Path, entries: Entries) -> None:
    """Add the entries of stages that ran on another machine to dvc.lock."""
    with Repo(str(folder), _wait_for_lock=True) as repo, repo.lock:
        path = folder / "dvc.lock"
        if not path.exists():
            path.write_text("schema: '2.0'\nstages: {}\n", encoding="utf-8")
        with modify_yaml(path) as lock:
            lock["stages"].update(entries)


def require_shared_server(p: params.Params) -> None:
    """Raise UsageError unless machines that share no folder have an MLflow server in common."""
    if p.tracking.backend == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI"):
        hint = "set MLFLOW_TRACKING_URI on each, or tracking.backend=none"
        raise UsageError(f"Stages on several machines need one MLflow server: {hint}.")
