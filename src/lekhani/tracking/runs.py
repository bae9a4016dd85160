"""One MLflow run per (dataset, variant): training opens it, export and evaluation add to it."""

import json
import logging
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import mlflow
import numpy as np
import onnx
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import LoggedModelStatus, Metric
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType, Array

from lekhani.data.spec import DatasetInfo
from lekhani.errors import first_line
from lekhani.files import read_json, remove, sha256, write_json
from lekhani.pictures import Picture, enlarged
from lekhani.tracking.store import connect, known_or_none, mlflow_errors, use_experiment
from lekhani.train.reporter import Reporter

log = logging.getLogger("lekhani")

_Item = tuple[int, dict[str, float] | Picture, int]  # step, metrics or a grid of samples, milliseconds since 1970


@mlflow_errors()
def start_run(
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    data: DatasetInfo,
    data_folder: Path,
    reports: Sequence[Path] = (),
) -> str:
    """Start a run with its params, tags, dataset input and the files `reports` about the data, and return its id.

    It keeps the status RUNNING until `resume` ends it.
    """
    use_experiment(experiment)
    with mlflow.start_run(run_name=name, tags=dict(tags)) as run:
        mlflow.log_params(dict(params))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # two of MLflow's resolvers match a local folder, and either will do
            source = resolve_dataset_source(str(data_folder))
        dataset = MetaDataset(source, name=data.name, digest=data.digest[:36])  # type: ignore[abstract]
        mlflow.log_input(dataset, context="training")
        mlflow.set_tag("dataset.digest", data.digest)
        for report in reports:
            mlflow.log_artifact(str(report), "data")
    client = mlflow.MlflowClient()
    client.update_run(run.info.run_id, status="RUNNING")
    return str(run.info.run_id)


class MlflowReporter(Reporter):
    """Logs the curves and sample grids of a training run to MLflow as they come.

    While MLflow does not answer, training goes on and they wait in memory; they are logged once it is back. What is
    still unlogged at the end is written to `unlogged`, a JSON file from which `log_unlogged` reads it later.
    """

    RETRY_SECONDS = 30.0  # between two attempts while MLflow does not answer

    def __init__(self, run_id: str, unlogged: Path) -> None:
        self.run_id, self.unlogged = run_id, unlogged
        self.client = mlflow.MlflowClient()
        self.queue: deque[_Item] = deque()
        self.logged_step = 0  # the last one that an earlier session has logged
        self.failing, self.retry_at = False, 0.0

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._log(step, {f"train/{key}": value for key, value in values.items() if key != "seconds_left"})

    def scores(self, step: int, values: Mapping[str, float]) -> None:
        self._log(step, {f"train/{key}": value for key, value in values.items() if key != "images_seen"})

    def images(self, step: int, grid: Picture) -> None:
        """See Reporter; the run's page shows the grids with a slider over steps."""
        self._log(step, enlarged(grid, 2)[:, :, None])

    def resume(self, step: int) -> None:
        """See Reporter; a step that MLflow has from an earlier session is not logged again."""
        if step == 0:
            return
        try:
            history = self.client.get_metric_history(self.run_id, "train/images_seen")
            self.logged_step = max((metric.step for metric in history), default=0)
        except Exception as error:  # MLflow, its database and its transport raise many kinds
            self._wait(error)

    def close(self) -> None:
        """The run stays open for the stages that follow."""
        self.retry_at = 0.0
        self._flush()
        if self.queue:
            items = [(step, v if isinstance(v, dict) else v.tolist(), at) for step, v, at in self.queue]
            write_json(self.unlogged, {"run_id": self.run_id, "items": items})
            message = "MLflow still does not answer; the next stage of this variant logs what is in %s."
            log.warning(message, self.unlogged)

    def _log(self, step: int, value: "dict[str, float] | Picture") -> None:
        if step > self.logged_step:
            self.queue.append((step, value, int(time.time() * 1000)))
            self._flush()

    def _flush(self) -> None:
        if time.monotonic() < self.retry_at:
            return
        try:
            while self.queue:
                _log_item(self.client, self.run_id, self.queue[0])
                self.queue.popleft()
            self.failing = False
        except Exception as error:  # as above
            self._wait(error)

    def _wait(self, error: Exception) -> None:
        if not self.failing:
            message = "MLflow does not answer (%s); training goes on, and what it makes is logged later."
            log.warning(message, first_line(error))
        self.failing, self.retry_at = True, time.monotonic() + self.RETRY_SECONDS


@mlflow_errors()
def log_unlogged(path: Path) -> None:
    """Log what a MlflowReporter left in the file `path`, if it exists, and remove the file."""
    if path.exists():
        left = read_json(path)
        client = connect()
        for step, value, at in left["items"]:
            item = step, value if isinstance(value, dict) else np.array(value, np.uint8), at
            _log_item(client, left["run_id"], item)
        remove(path)


def _log_item(client: mlflow.MlflowClient, run_id: str, item: _Item) -> None:
    step, value, at = item
    if isinstance(value, dict):
        client.log_batch(run_id, [Metric(key, number, at, step) for key, number in value.items()])
    else:
        client.log_image(run_id, value, key="samples", step=step, synchronous=True)


def end_run(run_id: str, status: Literal["FAILED", "KILLED"]) -> None:
    """Mark a run as failed or killed, if MLflow answers."""
    try:
        mlflow.MlflowClient().set_terminated(run_id, status=status)
    except Exception as error:  # it must not hide the error that ended training
        log.warning("MLflow could not mark the run as %s (%s).", status, first_line(error))


@mlflow_errors()
def reopen_run(experiment: str, run_id: str) -> bool:
    """Set a run that was interrupted to RUNNING again; False where this store does not have it."""
    use_experiment(experiment)
    client = mlflow.MlflowClient()
    if not _is_active(client, run_id):
        return False
    client.update_run(run_id, status="RUNNING")
    return True


@mlflow_errors()
def kill_run(run_id: str) -> None:
    """Mark an interrupted run that will not be resumed as killed, unless it has ended or is not in this store."""
    client = connect()
    if _is_active(client, run_id) and client.get_run(run_id).info.status == "RUNNING":
        client.set_terminated(run_id, status="KILLED")


@contextmanager
def resume(run_id: str | None, experiment: str, name: str, tags: Mapping[str, str]) -> Iterator[str]:
    """Resume the run that training started and yield its id; where this store lacks it, start one and log a warning.

    `tags` should hold generator_sha256, by which the stages after an untracked training find their common run.
    """
    with mlflow_errors():
        experiment_id = use_experiment(experiment)
        client = mlflow.MlflowClient()
        tags = dict(tags)
        if run_id is None or not _is_active(client, run_id):
            # Later stages must find the run that an earlier one started in place of training's.
            origin = run_id or f"{name} {tags.get('generator_sha256', '')}"
            tags["lekhani.trained_as"] = origin
            found = client.search_runs([experiment_id], f"tags.`lekhani.trained_as` = '{origin}'", max_results=1)
            if run_id is not None and not found:
                log.warning("MLflow here does not have the training run of %s (%s); started another.", name, run_id[:8])
            run_id = found[0].info.run_id if found else None
        with mlflow.start_run(run_id=run_id, run_name=None if run_id else name, tags=tags) as run:
            yield str(run.info.run_id)


def _is_active(client: mlflow.MlflowClient, run_id: str) -> bool:
    run = known_or_none(lambda: client.get_run(run_id))
    return run is not None and run.info.lifecycle_stage == "active"


def log_scorecard(card: Mapping[str, Any], files: Sequence[Path], judges: Sequence[Path]) -> None:
    """Log a scorecard's numbers as metrics, its files and the judges that made it as artifacts of the active run."""
    numbers = {key: float(value) for key, value in card.items() if type(value) in {int, float}}
    mlflow.log_metrics(numbers)
    tags = ("dataset", "variant", "model_sha256", "judge_sha256")
    mlflow.set_tags({key: str(card[key]) for key in tags if key in card})
    for path in files:
        mlflow.log_artifact(str(path), "evaluation")
    for path in judges:
        mlflow.log_artifact(str(path), "judge")


@mlflow_errors()
def log_leaderboard(experiment: str, files: Sequence[Path], tags: Mapping[str, str]) -> None:
    """Keep the leaderboard's tables, figures and page as artifacts of a run of its own, named leaderboard."""
    use_experiment(experiment)
    with mlflow.start_run(run_name="leaderboard", tags=dict(tags)):
        for path in files:
            mlflow.log_artifact(str(path))


def log_lineage(files: Sequence[Path]) -> None:
    """Keep what the active run's model was made from: DVC's lock, params and the description of the data."""
    for path in files:
        mlflow.log_artifact(str(path), "lineage")


def logged_model(run_id: str, model_sha256: str, judge_sha256: str | None = None) -> str | None:
    """The URI of the last model that a run has logged with the generator.onnx, and judge.onnx, of these SHA-256."""
    client = mlflow.MlflowClient()
    wanted = f"source_run_id = '{run_id}' AND tags.model_sha256 = '{model_sha256}'"
    if judge_sha256 is not None:
        wanted += f" AND tags.judge_onnx_sha256 = '{judge_sha256}'"
    found = client.search_logged_models([client.get_run(run_id).info.experiment_id], wanted)
    return next((model.model_uri for model in found if model.status == LoggedModelStatus.READY), None)


def log_model(path: Path, beside: Sequence[Path] = ()) -> str:
    """Log the exported generator to the active run as a pyfunc model (see `pyfunc`), and return its URI.

    The files `beside`, such as its judge and the model card, are put next to the generator in the model's folder
    artifacts/. The SHA-256 of the generator is in the model's tags, metadata and configuration, so that loading checks
    it; that of a judge.onnx is in the tags.
    """
    import onnxruntime as ort
    import pandas as pd

    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    conditional, classes = metadata["conditional"] == "true", json.loads(metadata["classes"])
    tags = {"dataset": metadata["dataset"], "variant": metadata["variant"], "model_sha256": sha256(path)}
    tags |= {f"{file.stem}_onnx_sha256": sha256(file) for file in beside if file.name == "judge.onnx"}
    glyphs = [c["glyph"] for c in classes]
    known = {
        **tags,
        "conditional": conditional,
        "noise_dim": int(metadata["noise_dim"]),
        "image_size": int(metadata["image_size"]),
        "classes": glyphs,
        "label": "a glyph, class name or number" if conditional else "ignored: this generator takes no label",
    }
    info = mlflow.pyfunc.log_model(
        name="generator",
        python_model=Path(__file__).with_name("pyfunc.py"),
        artifacts={"generator": path.resolve().as_uri(), **{file.name: file.resolve().as_uri() for file in beside}},
        model_config={"model_sha256": tags["model_sha256"]},
        signature=_signature(conditional),
        input_example=(pd.DataFrame({"label": glyphs[:3]}), {"seed": 0}),
        pip_requirements=[f"{module.__name__}=={module.__version__}" for module in (ort, np, pd)],
        metadata=known,
        tags=tags,
    )
    return str(info.model_uri)


def _signature(conditional: bool) -> ModelSignature:
    label = ColSpec(AnyType(), "label")  # type: ignore[no-untyped-call] # a glyph or a name as text, or a number
    drawn = [ColSpec(DataType.long, "label"), ColSpec(DataType.string, "class_name"), ColSpec(DataType.string, "glyph")]
    return ModelSignature(
        inputs=Schema([label, ColSpec(Array(DataType.double), "noise", required=False)]),
        outputs=Schema([*(drawn if conditional else []), ColSpec(Array(Array(DataType.long)), "image")]),
        params=ParamSchema([ParamSpec("seed", DataType.long, 0)]),
    )
