"""One MLflow run per training: it starts and ends with it, and what is found out later is added to it.

Only the training decides on a run's times, status and git commit. What scores or registers its generator later adds
metrics, files and tags whose names begin with what it did, without opening the run again.
"""

import csv
import logging
import socket
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

import numpy as np
import psutil
from mlflow.data.numpy_dataset import NumpyDataset, from_numpy
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_GIT_COMMIT, MLFLOW_SOURCE_NAME
from PIL import Image

from lekhani.data.spec import Prepared
from lekhani.tracking import revision
from lekhani.tracking.store import connect, is_active, mlflow_errors, use_experiment
from lekhani.tracking.unlogged import Item, log_kept, now, try_to_log

log = logging.getLogger("lekhani")

SETTINGS = {"n_generated", "n_real", "seed", "train_seed", "sampling_seeds", "batch_size", "images_seen"}
"""The numbers in measurements.json that are no metrics."""

_OF_TRAINING = {"train_seconds", "images_per_second", "peak_memory_mb"}  # which the run has by itself

_BATCH = 1000  # metrics that MLflow takes at once
_PROCESS = "lekhani.process"  # a run's tag: the machine and the process that train


def create_run(experiment: str, name: str, source: str, tags: Mapping[str, str]) -> str:
    """A new run, RUNNING; `source` is the command that makes it."""
    identity, client = use_experiment(experiment), connect()
    defaults = {key: value for key, value in resolve_tags().items() if not key.startswith("mlflow.source.git.")}
    run = client.create_run(identity, run_name=name, tags=defaults | {MLFLOW_SOURCE_NAME: source} | dict(tags))
    return str(run.info.run_id)


def run_name(name: str, params: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """A name that tells trainings of one variant apart: its seed, and what differs from the `usual` params."""
    changed = {"seed": params["seed"]} | {key: value for key, value in params.items() if usual and value != usual[key]}
    shown = (f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in changed.items())
    return shorten(f"{name} {' '.join(shown)}", 200, placeholder=" …")


@mlflow_errors()
def start_run(
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    data: Prepared,
    folder: Path,
    reports: Sequence[Path] = (),
) -> str:
    """Start the run of a training with its params, tags, data, which lie in `folder`, and reports about them.

    Returns its id; `end_run` ends it. Runs of this machine whose process is gone are marked as killed before.
    """
    log_kept()
    _kill_orphans(experiment)
    made = revision.training_tags() | {"dataset.digest": data.info.digest, _PROCESS: _process(psutil.Process())}
    run_id = create_run(experiment, name, "lekhani train", {**made, **tags})
    client = connect()
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])
    client.log_inputs(run_id, [_input(_dataset(data, folder, "train"), "training")])
    for report in reports:
        client.log_artifact(run_id, str(report), "data")
    return run_id


def _dataset(data: Prepared, folder: Path, split: Literal["train", "test"]) -> NumpyDataset:
    """A split as MLflow shows it, with the types and shapes of images and labels."""
    images, labels = data.split(split)
    name, digest = f"{data.info.name}/{split}", data.info.digest[:36]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two of MLflow's resolvers match a local folder, and either will do
        return from_numpy(images, source=str(folder), targets=labels, name=name, digest=digest)


def _input(dataset: NumpyDataset, context: str) -> DatasetInput:
    return DatasetInput(Dataset(**dataset.to_dict()), [InputTag(MLFLOW_DATASET_CONTEXT, context)])


def end_run(
    run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"], tags: Mapping[str, str] | None = None
) -> None:
    """End the run of a training; where MLflow does not answer, the next stage does so with this time."""
    try_to_log(run_id, Item(now(), tags=tags, status=status))


@mlflow_errors()
def reopen_run(experiment: str, run_id: str) -> bool:
    """Set a run that was interrupted to RUNNING again; False where this store does not have it."""
    use_experiment(experiment)
    log_kept()
    client = connect()
    if not is_active(client, run_id):
        return False
    client.set_tag(run_id, _PROCESS, _process(psutil.Process()))
    client.update_run(run_id, status="RUNNING")
    return True


def _process(process: psutil.Process) -> str:
    """What tells a process from all others, also from one that gets its number later."""
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.0f}"


def _kill_orphans(experiment: str) -> None:
    """Mark the running runs of this machine as killed whose process is gone, at the time of what they logged last."""
    here, client = f"{socket.gethostname()}:", connect()
    wanted = f"attributes.status = 'RUNNING' AND tags.`{_PROCESS}` LIKE '{here}%'"
    for run in client.search_runs([use_experiment(experiment)], wanted):
        name = run.data.tags[_PROCESS]
        try:
            alive = _process(psutil.Process(int(name.removeprefix(here).split(":")[0]))) == name
        except psutil.NoSuchProcess:
            alive = False
        if not alive:
            history = client.get_metric_history(run.info.run_id, "train/images_seen")
            client.set_terminated(run.info.run_id, "KILLED", max((one.timestamp for one in history), default=None))


@mlflow_errors()
def find_run(experiment: str, facts: Mapping[str, Any]) -> Run | None:
    """The run of the training that `facts` (training.json) describes; the last one, where it was repeated."""
    log_kept()
    tags = {key: facts[key] for key in ("dataset", "variant", "generator_sha256")}
    wanted = [f"tags.{key} = '{value}'" for key, value in tags.items()]
    found = connect().search_runs(
        [use_experiment(experiment)], " AND ".join([*wanted, "attributes.status = 'FINISHED'"]), max_results=1
    )
    return found[0] if found else None


@mlflow_errors()
def find_or_import_run(experiment: str, name: str, facts: Mapping[str, Any], curves: Path) -> Run:
    """The run of a training, as `find_run`; where MLflow never saw it, a run with what its files tell of it.

    `curves` is the folder with losses.csv, scores.csv and samples/. Times and git commit of such a training are not
    known; its run is tagged `lekhani.imported`.
    """
    if found := find_run(experiment, facts):
        return found
    log.warning("MLflow here does not have the training run of %s; its run is made from training.json.", name)
    known = {key: str(facts[key]) for key in ("dataset", "variant", "generator_sha256")}
    tags = known | {"dataset.digest": facts["data_digest"], "lekhani.imported": "true"}
    run_id = create_run(experiment, run_name(name, facts, {}), "training.json", tags | revision.action_tags("imported"))
    client = connect()
    params = {key: facts[key] for key in ("profile", "seed", "images_seen")} | facts["choices"][facts["variant"]]
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])
    metrics = [*_curve(curves / "losses.csv"), *_curve(curves / "scores.csv")]
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(run_id, metrics[start : start + _BATCH])
    for path in sorted((curves / "samples").glob("*.png")):
        with Image.open(path) as picture:
            Item(now(), int(path.stem), image=np.asarray(picture.convert("L"))).log(client, run_id)
    client.set_terminated(run_id, "FINISHED")
    return client.get_run(run_id)


def _curve(path: Path) -> Iterable[Metric]:
    """The rows of a table that training wrote, as the metrics that it would have logged."""
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                step = int(float(row.pop("step")))
                yield from (Metric(f"train/{key}", float(value), now(), step) for key, value in row.items())


@mlflow_errors()
def log_scorecard(
    run_id: str,
    model_uri: str,
    card: Mapping[str, Any],
    data: Prepared,
    folder: Path,
    files: Mapping[str, Sequence[Path]],
    grid: Path,
) -> None:
    """Add a scorecard to the run of a training and to the model it has logged: numbers, test images, files by folder.

    `folder` is where the data lie, and `grid` the picture by which the UI shows the run at first.
    """
    client, dataset = connect(), _dataset(data, folder, "test")
    numbers = {key: float(value) for key, value in card.items() if type(value) in {int, float}}
    scored = {key: str(card[key]) for key in ("model_sha256", "judge_sha256", *SETTINGS) if key in card}
    metrics = [
        Metric(f"eval/{key}", value, now(), 0, model_uri.removeprefix("models:/"), dataset.name, dataset.digest)
        for key, value in numbers.items()
        if key not in SETTINGS | _OF_TRAINING
    ]
    client.log_inputs(run_id, [_input(dataset, "evaluation")])
    client.log_batch(run_id, metrics, tags=_tags({f"scored.{key}": value for key, value in scored.items()}))
    log_files(run_id, files, "scored")
    with Image.open(grid) as picture:
        client.log_image(run_id, picture, key="grid", step=0, synchronous=True)


@mlflow_errors()
def log_files(run_id: str, files: Mapping[str, Sequence[Path]], action: str) -> None:
    """Add files, by folder, to a run that has ended, and say with tags what code and data the action had."""
    client = connect()
    for folder, paths in files.items():
        for path in paths:
            client.log_artifact(run_id, str(path), folder)
    client.log_batch(run_id, tags=_tags(revision.action_tags(action)))


def _tags(tags: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(key, value) for key, value in tags.items()]


@mlflow_errors()
def log_leaderboard(experiment: str, files: Sequence[Path]) -> None:
    """Keep the leaderboard's tables, figures and page as artifacts of a run in an experiment of its own.

    Among trainings it would be a row without params and metrics.
    """
    tags = revision.training_tags()
    client, run_id = connect(), create_run(f"{experiment}-leaderboard", "leaderboard", "lekhani compare", tags)
    for path in files:
        client.log_artifact(run_id, str(path))
    client.set_terminated(run_id, "FINISHED")


def provenance(run: Run) -> dict[str, str]:
    """The commit, and whether it was dirty, and DVC's experiment of a training, as its run has them."""
    names = {"git.commit": MLFLOW_GIT_COMMIT, "git.dirty": "git.dirty", "dvc.experiment": "dvc.experiment"}
    return {key: run.data.tags[name] for key, name in names.items() if name in run.data.tags}
