"""Registered models: one per dataset, `lekhani-<dataset>`, and where the file of a version lies."""

from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion

from lekhani.errors import LekhaniError, first_line
from lekhani.files import sha256
from lekhani.tracking.store import connect


@dataclass(frozen=True)
class Registered:
    """A registered version made local: the generator's file and, where its run kept one, the judge's."""

    name: str
    version: str
    alias: str
    generator: Path
    judge: Path | None


def model_name(dataset: str) -> str:
    """The registered model of a dataset."""
    return f"lekhani-{dataset}"


def register(dataset: str, run_id: str, model_uri: str, tags: dict[str, str]) -> ModelVersion:
    """Register the model that a run logged as a new version of `lekhani-<dataset>` under the alias `challenger`.

    A run whose model is registered already gives its version back, so that calling twice adds nothing.
    """
    client = connect()
    name = model_name(dataset)
    try:
        for known in client.search_model_versions(f"name = '{name}'"):
            if known.run_id == run_id:
                client.set_registered_model_alias(name, "challenger", known.version)
                return known
        version = mlflow.register_model(model_uri, name, tags=tags)
        client.set_registered_model_alias(name, "challenger", version.version)
    except mlflow.MlflowException as error:
        raise LekhaniError(f"Could not register {name} in MLflow at {mlflow.get_tracking_uri()}: {first_line(error)}") from error
    return version


def find(dataset: str) -> Registered:
    """The champion of a dataset, or while there is none the challenger; raises LekhaniError when nothing is registered."""
    client = connect()
    name = model_name(dataset)
    for alias in ("champion", "challenger"):
        try:
            version = client.get_model_version_by_alias(name, alias)
        except mlflow.MlflowException:
            continue
        try:
            folder = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{version.version}"))
        except (mlflow.MlflowException, OSError) as error:
            raise LekhaniError(f"{name} version {version.version} cannot be fetched from MLflow: {first_line(error)}") from error
        return Registered(name, str(version.version), alias, _only(folder, version), _judge(version))
    raise LekhaniError(f"Nothing is registered as {name} in MLflow at {mlflow.get_tracking_uri()}; run `make demo` or pass --model FILE.onnx.")


def _only(folder: Path, version: ModelVersion) -> Path:
    """The generator in a version's folder, if it is the very file that was registered."""
    files = sorted([*folder.glob("artifacts/*.onnx"), *folder.glob("*.onnx")])  # at the top in models logged as ONNX alone
    if len(files) != 1:
        raise LekhaniError(f"The artifact of {version.name} in {folder} holds {len(files)} ONNX files instead of one; register the model again.")
    found = sha256(files[0])
    if found != version.tags.get("model_sha256", found):
        raise LekhaniError(
            f"{files[0]} is not the file that was registered as {version.name} version {version.version}, for its SHA-256 differs; "
            "put that file back or register the model again."
        )
    return files[0]


def _judge(version: ModelVersion) -> Path | None:
    try:
        return Path(mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path="judge/judge.onnx"))
    except (mlflow.MlflowException, OSError):
        return None
