"""Retraining as a Prefect flow: DVC's own stages as tasks, then registration, the gate and promotion.

Run it with `python pipelines/retrain.py` (`--help` lists the options). dvc.yaml alone says which stage needs which
file: the flow asks DVC for the graph and lets `dvc repro` decide what there is to do.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import chdir, nullcontext
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any, Literal

import on_ray
from choices import (
    Profile,
    Source,
    Variant,
    as_overrides,
    commit_of,
    miniature_workspace,
    remove_workspace,
    workspace,
)
from commands import ROOT, run_flow_here, run_name, terminating_commands
from dvc.exceptions import DvcException
from dvc.lock import LockError, make_lock
from dvc.repo import Repo
from prefect import Task, flow, get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from promote import gate, register
from published import publish, publish_validation
from pydantic import Field
from stage import require_shared_server, run_remotely, run_stage

from lekhani import params
from lekhani.data.sources import fetch
from lekhani.errors import LekhaniError, first_line
from lekhani.machine import cpu_count

Engine = Literal["threads", "ray"]
Graph = Mapping[str, set[str]]  # by the name of a stage, the stages that it needs

# dvc.yaml does not say which stages want a GPU to themselves.
TRAINING = ("judge", "train", "distil", "baseline", "usefulness")


def remove_damaged_lock(folder: Path) -> None:
    """Remove DVC's list of what is being read and written, where a full disk cut it off: DVC would stop at it for good.

    It is DVC's own scratch file, which is made again.
    """
    scratch = folder / ".dvc" / "tmp"
    if not (scratch / "rwlock").exists():
        return
    with make_lock(scratch / "rwlock.lock", tmp_dir=scratch):
        try:
            json.loads((scratch / "rwlock").read_text(encoding="utf-8"))
        except ValueError:
            (scratch / "rwlock").unlink()


def graph_and_changes(folder: Path) -> tuple[Graph, set[str]]:
    """DVC's stages with what each needs, and those that may have to run; raises DvcException."""
    remove_damaged_lock(folder)
    with chdir(folder), Repo(_wait_for_lock=True) as repo:  # names of stages are relative to where one is
        graph = repo.index.graph
        needs = {stage.addressing: {other.addressing for other in graph.successors(stage)} for stage in graph}
        try:
            return needs, set(repo.status())
        except LockError:  # another run has a stage running here, so each stage is checked when its turn comes
            return needs, set(needs)


def gpus() -> list[str]:
    """The GPUs that may be used, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [one.strip() for one in visible.split(",") if one.strip() not in ("", "-1")]
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=60)  # noqa: S607
    except (OSError, subprocess.SubprocessError):
        return []
    count = sum(line.startswith("GPU ") for line in done.stdout.splitlines())
    return [str(number) for number in range(count)]


def trains(stage: str) -> bool:
    """True for a stage that wants a GPU to itself."""
    return stage.split("@", maxsplit=1)[0] in TRAINING


def thread_settings(side_by_side: int) -> dict[str, str]:
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
        get_run_logger().warning("%s stays at the version that is here; Kaggle names no newer one. %s", dataset, error)
        return Completed(name="Unknown", message=str(error))
    if number:
        return Completed(name="Newer", message=f"version {number}")
    return Completed(name="Cached", message="no newer version")


def remote_stages(needs: Graph) -> set[str]:
    """The stages worth a worker: those that train and all that follows from them.

    The last stage of the graph is not, as it needs the outputs of all others here.
    """
    found, last = set[str](), set(needs) - set[str]().union(*needs.values())
    for stage in TopologicalSorter(needs).static_order():
        if trains(stage) or needs[stage] & found:
            found.add(stage)
    return found - last


@dataclass
class Dispatcher:
    """Decides of each stage, in the order of the graph, how it runs: on this machine, on which GPU, or on a worker.

    `environment` is that of stages on this machine, `gpu_of` the GPU of those that have one. `workers` are a deployment
    of the flow `stage` and the commit at which it works. Without `commit` DVC's cache gets nothing.
    """

    folder: Path
    needs: Graph
    due: set[str]
    forced: set[str]
    environment: Mapping[str, str]
    gpu_of: Mapping[str, str]
    workers: tuple[str, str] | None
    commit: bool = True

    def __post_init__(self) -> None:
        self.due = self.due | self.forced
        self.remote = remote_stages(self.needs) if self.workers else set[str]()
        self.pushed: set[str] = set()

    def call_for(self, stage: str) -> tuple[Task[..., State[Any]], dict[str, Any]]:
        """The task that runs a stage, and its arguments."""
        needs = self.needs[stage]
        # Whatever a stage came to, what follows from it is due: DVC's run cache and other flows bring new outputs too.
        is_due = stage in self.due or bool(needs & self.due)
        self.due |= {stage} if is_due else set()
        arguments: dict[str, Any] = {"folder": self.folder, "stage": stage}
        if self.workers and is_due and stage in self.remote:
            arguments |= {"needs": sorted(needs), "made_here": sorted(needs - self.pushed)}
            self.pushed.add(stage)
            return run_remotely, arguments | {"deployment": self.workers[0], "commit": self.workers[1]}
        gpu = self.gpu_of.get(stage)
        environment = {**self.environment, **({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})}
        run = run_stage if gpu is None or not is_due else run_stage.with_options(tags=[f"gpu-{gpu}"])
        how = {"force": stage in self.forced, "commit": self.commit, "environment": environment}
        return run, arguments | {"is_due": is_due, **how}


def run_stages(
    folder: Path,
    needs: Graph,
    due: set[str],
    forced: set[str],
    side_by_side: int,
    engine: Engine = "threads",
    workers: tuple[str, str] | None = None,
    commit: bool = True,
) -> dict[str, State[Any]]:
    """Run every stage once all that it needs is done, and return the final states; what needs a failed stage has none.

    Stages are submitted when they can start, since a task that waits for another would occupy the runner meanwhile.
    `workers` and `commit` are as for `Dispatcher`.
    """
    on_cluster = engine == "ray"  # Ray shares out cores and GPUs itself
    # Stages that train get a GPU in turn; Prefect's limits on the tags `gpu-0`, `gpu-1` ... keep it to one at a time.
    training = filter(trains, TopologicalSorter(needs).static_order())
    gpu_of = {} if on_cluster else dict(zip(training, cycle(gpus()), strict=False))
    environment = {} if on_cluster else thread_settings(side_by_side)
    dispatcher = Dispatcher(folder, needs, due, forced, environment, gpu_of, workers, commit)
    order, states = TopologicalSorter(needs), dict[str, State[Any]]()
    running: dict[PrefectFuture[Any], str] = {}
    order.prepare()
    with (
        on_ray.runner() if on_cluster else ThreadPoolTaskRunner[Any](max_workers=side_by_side) as runner,
        terminating_commands(),
    ):
        while order.is_active():
            for stage in order.get_ready():
                with on_ray.reserving(side_by_side, trains(stage)) if on_cluster else nullcontext():
                    running[runner.submit(*dispatcher.call_for(stage))] = stage
            if not running:  # all that is left needs a stage that failed
                break
            future = next(as_completed(list(running)))
            future.wait()  # the state is there a moment after the call back
            stage = running.pop(future)
            states[stage] = future.state
            if future.state.is_completed():
                order.done(stage)
    return states


@flow(name="smoke-test", flow_run_name="every stage in miniature")
def smoke_test(root: Path, overrides: list[str], side_by_side: int) -> State[Any]:
    """Run every stage of every variant anew on tiny budgets, in a workspace of its own that is removed afterwards.

    It tracks nothing and keeps nothing: MLflow and DVC's cache stay as they are.
    """
    try:
        folder = miniature_workspace(root, overrides)
    except (LekhaniError, params.ParamsError, DvcException) as error:
        return Failed(message=first_line(error), data=error)
    try:
        needs, _ = graph_and_changes(folder)
        states = run_stages(folder, needs, set(), set(needs), side_by_side, commit=False)
    except (LekhaniError, DvcException) as error:
        return Failed(message=first_line(error), data=error)
    finally:
        remove_workspace(root, folder)
    return run_state(states, len(needs))


def _run_name() -> str:
    asked = flow_run.parameters
    lists = (", ".join(asked[name] or ()) for name in ("datasets", "variants", "overrides"))
    words = [word for word in (asked["profile"], asked["source"], *lists) if word]
    return run_name(*(words or ["all of params.yaml"]), asked["smoke"] and "smoke test")


@flow(name="retrain", flow_run_name=_run_name)
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
    smoke: bool = False,
) -> State[Any]:
    """Bring every stage of dvc.yaml up to date, register the best variants and promote those that pass the gate.

    What is left empty is as in params.yaml. Choices hold in a workspace of their own below .dvc/tmp/flows and leave
    params.yaml as it is.

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
        stage_deployment: A deployment of the flow `stage`, such as stage/worker; its workers run the long stages.
        smoke: First run every stage of every variant in miniature, which shows whether the code still works.

    """
    root = root.resolve()
    tested = None
    try:
        choices = as_overrides(params.read(root / "params.yaml"), profile, datasets, variants, source, overrides)
        folder = workspace(root, choices)
        p = params.load(folder / "params.yaml")
        if smoke:
            tested = smoke_test(root, choices, side_by_side, return_state=True)
            if not tested.is_completed():
                return Failed(message=f"Smoke test: {tested.message}", data=tested.data)
        needs, due = graph_and_changes(folder)
        workers = (stage_deployment, commit_of(root)) if stage_deployment else None
        if workers:
            require_shared_server(p)
        if folder != root:
            sentence = "These choices differ from params.yaml; they have a workspace of their own: %s"
            get_run_logger().info(sentence, folder)
        states = run_stages(folder, needs, due, newer_sources(folder, p), side_by_side, engine, workers)
    except (LekhaniError, params.ParamsError, DvcException) as error:
        return Failed(message=first_line(error), data=error)
    except OSError as error:
        hint = "free space or check permissions, then run again"
        return Failed(message=f"DVC cannot work in {root}: {error.strerror or error}; {hint}.")
    registered = []
    if all(state.is_completed() for state in states.values()):
        publish(folder, p)
        if register_best and p.tracking.backend == "mlflow":
            registered = update_registry(folder, p, promote)
    for stage, state in states.items():
        if stage.startswith("validate@") and state.is_failed():
            publish_validation(folder, stage.removeprefix("validate@"))
    state = run_state(states, len(needs), registered)
    if tested:
        state.message = f"smoke test passed, {tested.message}; then {state.message}"
    return state


def newer_sources(folder: Path, p: params.Params) -> set[str]:
    """The fetch stages of datasets of which Kaggle has a newer version, which DVC cannot know."""
    kaggle = {name: data for name in p.pipeline.datasets if (data := p.data[name]).source == "kaggle"}
    checks = {name: newer_version(folder, name, data, return_state=True) for name, data in kaggle.items()}
    return {f"fetch@{name}" for name, state in checks.items() if state.name == "Newer"}


def update_registry(folder: Path, p: params.Params, promote: bool) -> list[State[Any]]:
    """Register and, if wanted, promote the best variant of each dataset, unless the gate has decided on it before."""
    states = []
    with terminating_commands():
        for dataset in p.pipeline.datasets:
            state = register(folder, dataset, return_state=True)
            if promote and state.is_completed() and state.name != "Cached":
                state = gate(folder, dataset, return_state=True)
            states.append(state)
    return states


def run_state(states: Mapping[str, State[Any]], stages: int, registered: Sequence[State[Any]] = ()) -> State[Any]:
    """The state of the whole run, with one sentence that says what happened."""
    failures = {stage: state for stage, state in states.items() if not state.is_completed()}
    if failures:
        sentences = [f"{stage} failed: {str(state.message).rstrip('.')}." for stage, state in failures.items()]
        if left := stages - len(states):
            verbs = ("stage that needs", "was") if left == 1 else ("stages that need", "were")
            sentences.append(f"{left} {verbs[0]} what is missing {verbs[1]} not started.")
        return Failed(message=" ".join([*sentences, "Nothing was registered or promoted."]))
    cached = sum(state.name == "Cached" for state in states.values())
    run = len(states) - cached
    counts = f"{run} {'stage' if run == 1 else 'stages'} run, {cached} cached" if run else "nothing changed"
    news = ", ".join(str(state.message).rstrip(".") for state in registered if state.name != "Cached")
    sentence = f"{counts}; {news}" if news else counts
    return Failed(message=sentence) if any(state.is_failed() for state in registered) else Completed(message=sentence)


def main() -> int:
    """Run the flow once, here and now."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--root", type=Path, default=ROOT, help="the project's folder (this one)")
    add("--profile", help="as in params.yaml when left out; so are the next four")
    add("--dataset", action="append", dest="datasets", help="repeat for several")
    add("--variant", action="append", dest="variants", help="repeat for several")
    add("--source", help="where the raw files come from")
    overrides = "as for `dvc exp run -S`; repeat for several"
    add("-S", "--set", action="append", dest="overrides", metavar="KEY=VALUE", help=overrides)
    add("--no-register", action="store_false", dest="register_best", help="leave the MLflow registry as it is")
    add("--no-promote", action="store_false", dest="promote", help="register, but do not ask the gate")
    add("--smoke", action="store_true", help="first run every stage of every variant in miniature")
    add("--side-by-side", type=int, default=2, metavar="N", help="how many stages may run at a time (2)")
    add("--engine", default="threads", help="threads, or ray for the cluster of RAY_ADDRESS")
    workers = "have workers run the stages that take long, such as stage/worker"
    add("--stage-deployment", metavar="FLOW/NAME", help=workers)
    given = vars(parser.parse_args())
    return run_flow_here("retrain", lambda: retrain(**given, return_state=True))


if __name__ == "__main__":
    sys.exit(main())
