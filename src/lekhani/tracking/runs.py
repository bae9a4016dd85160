"""One MLflow run per (dataset, variant): training opens it, export and evaluation add to it."""

import json
import logging
import time
import warnings
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
from lekhani.tracking.store import MISSING, answering, connect, use_experiment

log = logging.getLogger("lekhani")


@answering()
def start_run(
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    data: DatasetInfo,
    data_folder: Path,
    reports: Sequence[Path] = (),
) -> str:
    """Open a run with its params, tags, dataset input and what is known about the data (`reports`, files), and return its id.

    It stays open until `resume` ends it.
    """
    use_experiment(experiment)
    with mlflow.start_run(run_name=name, tags=dict(tags)) as run:
        mlflow.log_params(dict(params))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # two of its resolvers claim a local folder, and both are right
            source = resolve_dataset_source(str(data_folder))
        mlflow.log_input(
            MetaDataset(  # type: ignore[abstract]
                source, name=data.name, digest=data.digest[:36]
            ),
            context="training",
        )
        mlflow.set_tag("dataset.digest", data.digest)
        for report in reports:
            mlflow.log_artifact(str(report), "data")
    client = mlflow.MlflowClient()
    client.update_run(run.info.run_id, status="RUNNING")
    return str(run.info.run_id)


class MlflowReporter:
    """Curves and sample grids of a training run, as they come.

    When MLflow does not answer, training goes on: what it was to hear waits, and is told when it is back. What still waits at
    the end goes to the file `backlog`, from which `deliver` tells it later.
    """

    PATIENCE = 30.0  # seconds between two attempts while MLflow is away

    def __init__(self, run_id: str, backlog: Path) -> None:
        self.run_id, self.backlog = run_id, backlog
        self.client = mlflow.MlflowClient()
        self.waiting: list[
            tuple[int, dict[str, float] | Picture, int]
        ] = []  # step, figures or a grid, milliseconds since 1970
        self.known = 0  # the last step that an earlier session has reported
        self.away, self.away_until = False, 0.0

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See Reporter."""
        self._tell(step, {f"train/{key}": value for key, value in values.items() if key != "seconds_left"})

    def scores(self, step: int, values: Mapping[str, float]) -> None:
        """See Reporter."""
        self._tell(step, {f"train/{key}": value for key, value in values.items() if key != "images_seen"})

    def images(self, step: int, grid: Picture) -> None:
        """See Reporter; the run's page shows the grids with a slider over steps."""
        self._tell(step, enlarged(grid, 2)[:, :, None])

    def resume(self, step: int) -> None:
        """See Reporter; a step that MLflow knows from an earlier session is not told twice."""
        try:
            self.known = (
                max((m.step for m in self.client.get_metric_history(self.run_id, "train/images_seen")), default=0)
                if step
                else 0
            )
        except Exception as error:  # mlflow, its database and its transport raise many kinds
            self._away(error)

    def close(self) -> None:
        """The run stays open for the stages that follow."""
        self.away_until = 0.0
        self._deliver()
        if self.waiting:
            items = [
                [step, value if isinstance(value, dict) else value.tolist(), at] for step, value, at in self.waiting
            ]
            write_json(self.backlog, {"run_id": self.run_id, "items": items})
            log.warning(
                "MLflow is still away; %s keeps what it missed, and the next stage of this variant delivers it.",
                self.backlog,
            )

    def _tell(self, step: int, what: "dict[str, float] | Picture") -> None:
        if step > self.known:
            self.waiting.append((step, what, int(time.time() * 1000)))
            self._deliver()

    def _deliver(self) -> None:
        if time.monotonic() < self.away_until:
            return
        try:
            while self.waiting:
                _send(self.client, self.run_id, *self.waiting[0])
                self.waiting.pop(0)
            self.away = False
        except Exception as error:  # mlflow, its database and its transport raise many kinds
            self._away(error)

    def _away(self, error: Exception) -> None:
        if not self.away:
            log.warning(
                "MLflow does not answer (%s); training goes on, and it will be told when it is back.", first_line(error)
            )
        self.away, self.away_until = True, time.monotonic() + self.PATIENCE


@answering()
def deliver(backlog: Path) -> None:
    """Tell MLflow what it missed while it was away, if anything waits in `backlog`, and remove the file."""
    if backlog.exists():
        kept = read_json(backlog)
        client = connect()
        for step, what, at in kept["items"]:
            _send(client, kept["run_id"], step, what if isinstance(what, dict) else np.array(what, np.uint8), at)
        remove(backlog)


def _send(client: mlflow.MlflowClient, run_id: str, step: int, what: "dict[str, float] | Picture", at: int) -> None:
    if isinstance(what, dict):
        client.log_batch(run_id, [Metric(key, value, at, step) for key, value in what.items()])
    else:
        client.log_image(run_id, what, key="samples", step=step, synchronous=True)


def end_run(run_id: str, status: Literal["FAILED", "KILLED"]) -> None:
    """Mark a run as failed or killed, if MLflow answers."""
    try:
        mlflow.MlflowClient().set_terminated(run_id, status=status)
    except Exception as error:  # the reason why training ended must not be hidden by this one
        log.warning("MLflow could not be told that the run ended (%s).", first_line(error))


@answering()
def reopen_run(experiment: str, run_id: str) -> bool:
    """Go on with a run that was stopped; False where this store has never seen it."""
    use_experiment(experiment)
    client = mlflow.MlflowClient()
    if not _is_active(client, run_id):
        return False
    client.update_run(run_id, status="RUNNING")
    return True


@answering()
def give_up(run_id: str) -> None:
    """Mark a run as killed that was cut short and will not be gone on with; one that has ended, or that this store has never seen, stays as it is."""
    client = connect()
    if _is_active(client, run_id) and client.get_run(run_id).info.status == "RUNNING":
        client.set_terminated(run_id, status="KILLED")


@contextmanager
def resume(run_id: str | None, experiment: str, name: str, tags: Mapping[str, str]) -> Iterator[str]:
    """Go on with the run that training opened; where this store has never seen it, open one and say so.

    `tags` should hold generator_sha256: it is how the stages after an untracked training find their common run.
    """
    with answering():
        experiment_id = use_experiment(experiment)
        client = mlflow.MlflowClient()
        tags = dict(tags)
        if run_id is None or not _is_active(client, run_id):
            # Later stages must find the run that an earlier one opened in the place of training's.
            origin = run_id or f"{name} {tags.get('generator_sha256', '')}"
            tags["lekhani.trained_as"] = origin
            found = client.search_runs([experiment_id], f"tags.`lekhani.trained_as` = '{origin}'", max_results=1)
            if run_id is not None and not found:
                log.warning(
                    "MLflow here has never seen the training run of %s (%s); opened a new run for what follows.",
                    name,
                    run_id[:8],
                )
            run_id = found[0].info.run_id if found else None
        with mlflow.start_run(run_id=run_id, run_name=None if run_id else name, tags=tags) as run:
            yield str(run.info.run_id)


def _is_active(client: mlflow.MlflowClient, run_id: str) -> bool:
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except mlflow.MlflowException as error:
        if error.error_code != MISSING:  # a server that is away has not said that it knows no such run
            raise
        return False


def log_scorecard(card: Mapping[str, Any], files: Sequence[Path], judges: Sequence[Path]) -> None:
    """Add a scorecard's numbers as metrics, its files and the classifiers that made it as artifacts to the active run."""
    mlflow.log_metrics(
        {
            key: float(value)
            for key, value in card.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
    )
    mlflow.set_tags(
        {key: str(card[key]) for key in ("dataset", "variant", "model_sha256", "judge_sha256") if key in card}
    )
    for path in files:
        mlflow.log_artifact(str(path), "evaluation")
    for path in judges:
        mlflow.log_artifact(str(path), "judge")


@answering()
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


def logged_model(run_id: str, model_sha256: str) -> str | None:
    """The URI of the model that a run has logged with this very generator.onnx, if any."""
    client = mlflow.MlflowClient()
    wanted = f"source_run_id = '{run_id}' AND tags.model_sha256 = '{model_sha256}'"
    found = client.search_logged_models([client.get_run(run_id).info.experiment_id], wanted)
    return next((model.model_uri for model in found if model.status == LoggedModelStatus.READY), None)


def log_model(path: Path, beside: Sequence[Path] = ()) -> str:
    """Log the exported generator to the active run as a model that MLflow can load and serve (see `pyfunc`), and return its URI.

    The files `beside`, such as the model card and its pictures, lie next to the generator in the model's folder artifacts/. The SHA-256
    of the generator stands in the model's tags, metadata and configuration; loading checks it.
    """
    import onnxruntime as ort
    import pandas as pd

    told = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    conditional, digest = told["conditional"] == "true", sha256(path)
    known = {key: told[key] for key in ("dataset", "variant")} | {"model_sha256": digest}
    glyphs = [c["glyph"] for c in json.loads(told["classes"])]
    asked = [ColSpec(DataType.long, "label"), ColSpec(DataType.string, "class_name"), ColSpec(DataType.string, "glyph")]
    given = ColSpec(AnyType(), "label")  # type: ignore[no-untyped-call] # a glyph or a name as text, or a number
    signature = ModelSignature(
        inputs=Schema([given, ColSpec(Array(DataType.double), "noise", required=False)]),
        outputs=Schema([*(asked if conditional else []), ColSpec(Array(Array(DataType.long)), "image")]),
        params=ParamSchema([ParamSpec("seed", DataType.long, 0)]),
    )
    info = mlflow.pyfunc.log_model(
        name="generator",
        python_model=Path(__file__).with_name("pyfunc.py"),
        artifacts={"generator": path.resolve().as_uri(), **{file.name: file.resolve().as_uri() for file in beside}},
        model_config={"model_sha256": digest},
        signature=signature,
        input_example=(pd.DataFrame({"label": glyphs[:3]}), {"seed": 0}),
        pip_requirements=[f"{module.__name__}=={module.__version__}" for module in (ort, np, pd)],
        metadata={
            **known,
            **{
                "conditional": conditional,
                "noise_dim": int(told["noise_dim"]),
                "image_size": int(told["image_size"]),
                "classes": glyphs,
            },
            "label": "a glyph, class name or number" if conditional else "ignored: this generator takes no label",
        },
        tags=known,
    )
    return str(info.model_uri)
