"""Retraining as a Prefect flow: DVC's own stages as tasks, then registration, the gate and promotion.

Run it with `python pipelines/retrain.py` (`--help` lists the options). Which stage needs which file is dvc.yaml's
business: the flow asks DVC for the graph and lets `dvc repro` decide what there is to do.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import chdir, nullcontext
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, Literal

import on_ray
from choices import Profile, Source, Variant, as_overrides, commit_of, workspace
from commands import ROOT, ending_commands, here
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from prefect import Task, flow, get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from promote import gate, register
from published import publish, publish_validation
from pydantic import Field
from stage import hand_over, needs_server, run_stage

from lekhani import params
from lekhani.data.sources import fetch
from lekhani.errors import LekhaniError, UsageError, first_line
from lekhani.machine import cpu_count

Engine = Literal["threads", "ray"]
Graph = Mapping[str, set[str]]  # by the name of a stage, the stages that it needs

# dvc.yaml does not say which stages want a GPU to themselves.
TRAINING = ("judge", "train", "distil", "baseline", "usefulness")


def graph_and_changes(folder: Path) -> tuple[Graph, set[str]]:
    """DVC's stages with what each needs, and those that may have to run; raises DvcException."""
    with chdir(folder), Repo(_wait_for_lock=True) as repo:  # names of stages are relative to where one is
        graph = repo.index.graph
        needs = {stage.addressing: {other.addressing for other in graph.successors(stage)} for stage in graph}
        try:
            return needs, set(repo.status())
        except LockError:  # another run has a stage going here; each stage will be looked at when its turn comes
            return needs, set(needs)


def gpus() -> list[str]:
    """The GPUs that may be used, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [one.strip() for one in visible.split(",") if one.strip() not in ("", "-1")]
    try:
        told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=60).stdout  # noqa: S607
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, line in enumerate(line for line in told.splitlines() if line.startswith("GPU "))]


def places(stages: Sequence[str], devices: Sequence[str]) -> dict[str, str]:
    """The GPU of each stage that trains, in turn; Prefect's limits on the tags `gpu-0`, `gpu-1` ... see to it that each has one stage at a time."""
    training = [stage for stage in stages if stage.split("@")[0] in TRAINING]
    return {stage: devices[number % len(devices)] for number, stage in enumerate(training)} if devices else {}


def threads(side_by_side: int) -> dict[str, str]:
    """Environment that shares the cores among stages that run side by side; what the user has set stays."""
    if side_by_side == 1:
        return {}
    share = max(1, cpu_count() // side_by_side)
    # Threads that spin while they wait would take the cores from the neighbour.
    wanted = {"OMP_NUM_THREADS": str(share), "OMP_WAIT_POLICY": "PASSIVE"}
    return {key: value for key, value in wanted.items() if key not in os.environ}


@task(task_run_name="version@{dataset}")
def newer_version(folder: Path, dataset: str, data: params.Data) -> State[Any]:
    """Ask Kaggle for the newest version of a dataset; the state is named Newer when it is another than the one here."""
    try:
        number = fetch.newer_version(dataset, data, folder / "data" / "raw" / dataset)
    except LekhaniError as error:
        get_run_logger().warning(
            "%s: what is here stays, for Kaggle does not tell whether there is a newer version. %s", dataset, error
        )
        return Completed(name="Unknown", message=str(error))
    return (
        Completed(name="Newer", message=f"version {number}")
        if number
        else Completed(name="Cached", message="no newer version")
    )


def elsewhere(needs: Graph) -> set[str]:
    """The stages worth a worker: what trains and all that follows from it, but for what comes last, which needs the outputs of all of them here."""
    found, last = set[str](), set(needs) - set[str]().union(*needs.values())
    for stage in TopologicalSorter(needs).static_order():
        if stage.split("@")[0] in TRAINING or needs[stage] & found:
            found.add(stage)
    return found - last


def run_stages(
    folder: Path,
    needs: Graph,
    due: set[str],
    forced: set[str],
    side_by_side: int,
    engine: Engine = "threads",
    workers: tuple[str, str] | None = None,
) -> dict[str, State[Any]]:
    """Run every stage once all that it needs is done, and return how each ended; what needs a failed stage is left out.

    Stages are submitted when they can start, since a task that waits for another would hold one of the runner's workers meanwhile.
    `workers` are a deployment of the flow `stage` and the commit at which it works.
    """
    order, states = TopologicalSorter(needs), dict[str, State[Any]]()
    running: dict[PrefectFuture[Any], str] = {}
    looked_at = due | forced
    order.prepare()
    is_here = engine == "threads"  # where it is Ray that shares out cores and GPUs
    shared, gpu_of = (
        (threads(side_by_side), places(list(TopologicalSorter(needs).static_order()), gpus())) if is_here else ({}, {})
    )
    away, pushed = elsewhere(needs) if workers else set(), set[str]()
    with (
        ThreadPoolTaskRunner[Any](max_workers=side_by_side) if is_here else on_ray.runner() as runner,
        ending_commands(),
    ):
        while order.is_active():
            for stage in order.get_ready():
                # What follows from it as well, whoever ran it: DVC's run cache and other flows bring new outputs too.
                is_due = stage in looked_at or bool(needs[stage] & looked_at)
                looked_at |= {stage} if is_due else set()
                if workers and is_due and stage in away:
                    asked: dict[str, Any] = {"needs": sorted(needs[stage]), "made_here": sorted(needs[stage] - pushed)}
                    asked |= {"deployment": workers[0], "commit": workers[1]}
                    one: Task[..., State[Any]] = hand_over
                    pushed.add(stage)
                else:
                    environment = shared | ({"CUDA_VISIBLE_DEVICES": gpu_of[stage]} if stage in gpu_of else {})
                    one = (
                        run_stage.with_options(tags=[f"gpu-{gpu_of[stage]}"])
                        if is_due and stage in gpu_of
                        else run_stage
                    )
                    asked = {"is_due": is_due, "force": stage in forced, "environment": environment}
                with nullcontext() if is_here else on_ray.reserving(side_by_side, stage.split("@")[0] in TRAINING):
                    running[runner.submit(one, {"folder": folder, "stage": stage, **asked})] = stage
            if not running:  # all that is left needs a stage that failed
                break
            future = next(as_completed(list(running)))
            future.wait()  # the state is there a moment after the call back
            stage = running.pop(future)
            states[stage] = future.state
            if future.state.is_completed():
                order.done(stage)
    return states


@flow(name="retrain")
def retrain(
    root: Path = ROOT,
    profile: Profile | None = None,
    datasets: list[str] | None = None,
    variants: list[Variant] | None = None,
    source: Source | None = None,
    overrides: list[str] | None = None,
    register_best: bool = True,
    promote: bool = True,
    side_by_side: Annotated[int, Field(ge=1)] = 2,
    engine: Engine = "threads",
    stage_deployment: str | None = None,
) -> State[Any]:
    """Bring every stage of dvc.yaml up to date, register the best variants and promote those that pass the gate.

    What is left empty is as in params.yaml. Choices hold in a workspace of their own below .dvc/tmp/flows and leave params.yaml as it is.

    Args:
        root: The project's folder.
        profile: How long to train and how large the networks are.
        datasets: Some of those that params.yaml describes.
        variants: What to train and compare.
        source: Where the raw files of these datasets come from.
        overrides: KEY=VALUE as for `dvc exp run -S`, such as train.seed=8.
        register_best: Make the best variant of each dataset a version in the registry.
        promote: Let the gate decide on what was registered.
        side_by_side: How many stages may run at a time; they share the cores. On Ray, how many on each node.
        engine: Where stages run as tasks: on this machine, or on the Ray cluster of RAY_ADDRESS.
        stage_deployment: A deployment of the flow `stage`, such as stage/worker, whose workers run the stages that take long.

    """
    root = root.resolve()
    try:
        raw = params.read(root / "params.yaml")
        folder = workspace(root, as_overrides(raw, profile, datasets, variants, source, overrides))
        p = params.load(folder / "params.yaml")
        needs, due = graph_and_changes(folder)
        workers = (stage_deployment, commit_of(root)) if stage_deployment else None
        if workers:
            needs_server(p)
    except (LekhaniError, params.ParamsError, DvcException) as error:
        return Failed(message=first_line(error), data=error)
    except OSError as error:
        return Failed(
            message=f"DVC cannot work in {root}: {error.strerror or error}; free space or check permissions, then run again."
        )
    if folder != root:
        get_run_logger().info(
            "These choices differ from params.yaml, so they have a workspace of their own: %s", folder
        )
    kaggle = [name for name, data in p.data.items() if data.source == "kaggle"]
    forced = {
        f"fetch@{name}"
        for name in kaggle
        if newer_version(folder, name, p.data[name], return_state=True).name == "Newer"
    }
    try:
        states = run_stages(folder, needs, due, forced, side_by_side, engine, workers)
    except UsageError as error:
        return Failed(message=str(error), data=error)
    if any(not state.is_completed() for state in states.values()):
        for stage, state in states.items():
            if stage.startswith("validate@") and state.is_failed():
                publish_validation(folder, stage.removeprefix("validate@"))
        return told(states, len(needs))
    publish(folder, p)
    return told(
        states, len(needs), registry(folder, p, promote) if register_best and p.tracking.backend == "mlflow" else []
    )


def registry(folder: Path, p: params.Params, promote: bool) -> list[State[Any]]:
    """Register and, if wanted, promote the best variant of each dataset, unless the gate has decided on it before; returns what came of it."""
    states = []
    with ending_commands():
        for dataset in p.data:
            state = register(folder, dataset, return_state=True)
            if promote and state.is_completed() and state.name != "Cached":
                state = gate(folder, dataset, return_state=True)
            states.append(state)
    return states


def told(states: Mapping[str, State[Any]], stages: int, registered: Sequence[State[Any]] = ()) -> State[Any]:
    """The state of the whole run, with one sentence that says what happened."""
    wrong = {stage: state for stage, state in states.items() if not state.is_completed()}
    if wrong:
        left = stages - len(states)
        waiting = f" {left} stages that need what is missing were not started." if left else ""
        causes = " ".join(f"{stage} failed: {state.message}" for stage, state in wrong.items())
        return Failed(message=f"{causes}{waiting} Nothing was registered or promoted.")
    cached = sum(state.name == "Cached" for state in states.values())
    run = len(states) - cached
    counts = f"{run} {'stage' if run == 1 else 'stages'} run, {cached} cached" if run else "nothing changed"
    news = ", ".join(str(state.message).rstrip(".") for state in registered if state.name != "Cached")
    sentence = f"{counts}; {news}" if news else counts
    return Failed(message=sentence) if any(state.is_failed() for state in registered) else Completed(message=sentence)


def main() -> int:
    """Run the flow once, here and now."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the project's folder (this one)")
    parser.add_argument("--profile", help="as in params.yaml when left out; so are the next four")
    parser.add_argument("--dataset", action="append", help="repeat for several")
    parser.add_argument("--variant", action="append", help="repeat for several")
    parser.add_argument("--source", help="where the raw files come from")
    parser.add_argument(
        "-S", "--set", action="append", metavar="KEY=VALUE", help="as for `dvc exp run -S`; repeat for several"
    )
    parser.add_argument("--no-register", action="store_true", help="leave the MLflow registry as it is")
    parser.add_argument("--no-promote", action="store_true", help="register, but do not ask the gate")
    parser.add_argument(
        "--side-by-side", type=int, default=2, metavar="N", help="how many stages may run at a time (2)"
    )
    parser.add_argument("--engine", default="threads", help="threads, or ray for the cluster of RAY_ADDRESS")
    parser.add_argument(
        "--stage-deployment",
        metavar="FLOW/NAME",
        help="have workers run the stages that take long, such as stage/worker",
    )
    given = parser.parse_args()
    choices = (
        given.profile,
        given.dataset,
        given.variant,
        given.source,
        given.set,
        not given.no_register,
        not given.no_promote,
    )
    return here(
        "retrain",
        lambda: retrain(
            given.root, *choices, given.side_by_side, given.engine, given.stage_deployment, return_state=True
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
