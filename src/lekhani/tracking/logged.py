"""The generator of a run as a model of MLflow's, with all that lies beside it."""

import json
from collections.abc import Sequence
from pathlib import Path

import mlflow
import numpy as np
import onnx
from mlflow.entities import LoggedModelStatus
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType, Array

from lekhani.files import sha256
from lekhani.tracking.store import connect, mlflow_errors


def beside(scored: Path, judge: Path) -> list[Path]:
    """What lies beside a scored generator in its model: its judge and, from the folder `scored`, what came of it."""
    return [judge, *(scored / name for name in ("grid.png", "measurements.json", "per_class.csv"))]


@mlflow_errors()
def logged_model(run_id: str, path: Path, beside: Sequence[Path] = ()) -> str | None:
    """The URI of the last model that `log_model` has made of these very files, if the run has one."""
    client = connect()
    wanted = [f"tags.{name} = '{digest}'" for name, digest in _digests(path, beside).items()]
    query = " AND ".join([f"source_run_id = '{run_id}'", *wanted])
    found = client.search_logged_models([client.get_run(run_id).info.experiment_id], query)
    return next((model.model_uri for model in found if model.status == LoggedModelStatus.READY), None)


def log_model(run_id: str, path: Path, beside: Sequence[Path] = ()) -> str:
    """Log an exported generator as a pyfunc model (see `pyfunc`) that the run has made, and return its URI.

    The files `beside`, such as its judge and its measurements, are put next to the generator in the model's folder
    artifacts/. The SHA-256 of the generator is in the model's tags, metadata and configuration, so that loading checks
    it; those of judge and measurements are in the tags.
    """
    import onnxruntime as ort
    import pandas as pd

    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    conditional, classes = metadata["conditional"] == "true", json.loads(metadata["classes"])
    tags = {"dataset": metadata["dataset"], "variant": metadata["variant"], **_digests(path, beside)}
    glyphs = [c["glyph"] for c in classes]
    known = {
        **tags,
        "conditional": conditional,
        "noise_dim": int(metadata["noise_dim"]),
        "image_size": int(metadata["image_size"]),
        "classes": glyphs,
        "label": "a glyph, class name or number" if conditional else "ignored: this generator takes no label",
    }
    # Not by pyfunc.log_model, which would take a run that is open, or open one.
    info = Model.log(
        None,
        mlflow.pyfunc,
        name=f"{metadata['dataset']}-{metadata['variant']}",
        run_id=run_id,
        flavor_name="pyfunc.ModelFromCode",
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


@mlflow_errors()
def add_to_model(model_uri: str, files: Sequence[Path]) -> None:
    """Put files next to the generator of a model that was logged before."""
    client = connect()
    for path in files:
        client.log_model_artifact(model_uri.removeprefix("models:/"), str(path), "artifacts")


def _digests(path: Path, beside: Sequence[Path]) -> dict[str, str]:
    """What tells a model from others of its run: the SHA-256 of its generator, its judge and its scorecard."""
    names = {"judge.onnx": "judge_onnx_sha256", "measurements.json": "measurements_sha256"}
    return {"model_sha256": sha256(path), **{names[one.name]: sha256(one) for one in beside if one.name in names}}


def _signature(conditional: bool) -> ModelSignature:
    label = ColSpec(AnyType(), "label")  # type: ignore[no-untyped-call] # a glyph or a name as text, or a number
    drawn = [ColSpec(DataType.long, "label"), ColSpec(DataType.string, "class_name"), ColSpec(DataType.string, "glyph")]
    return ModelSignature(
        inputs=Schema([label, ColSpec(Array(DataType.double), "noise", required=False)]),
        outputs=Schema([*(drawn if conditional else []), ColSpec(Array(Array(DataType.long)), "image")]),
        params=ParamSchema([ParamSpec("seed", DataType.long, 0)]),
    )
