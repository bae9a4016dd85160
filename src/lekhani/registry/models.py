"""Registered models: one per dataset, `lekhani-<dataset>`, and where the files of a version lie."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion

from lekhani.errors import LekhaniError, first_line
from lekhani.files import sha256
from lekhani.tracking.store import MISSING, connect

ABOUT = (
    "Generators of one dataset's glyphs. Use the alias `champion`; `challenger` has yet to pass the gate, `previous` is what a rollback restores. "
    "What the gate said stands in each version's tags `gate.*`, and its report in the version's run. Each version brings its model card."
)


@dataclass(frozen=True)
class Registered:
    """A registered version made local: the generator's file and, where they were kept, its scorecard and its run's judge."""

    name: str
    version: str
    alias: str  # the one that it was found by; "" when it was found by its number
    run_id: str
    variant: str
    generator: Path
    scorecard: Path | None
    judge: Path | None


def model_name(dataset: str) -> str:
    """The registered model of a dataset."""
    return f"lekhani-{dataset}"


def register(dataset: str, model_uri: str, tags: Mapping[str, str], description: str = "") -> ModelVersion:
    """Register the model that a run logged as a new version of `lekhani-<dataset>` under the alias `challenger`.

    A model that is registered already gives its version back, so that calling twice adds nothing; it becomes challenger again unless it is champion.
    """
    client = connect()
    name = model_name(dataset)
    try:
        for known in client.search_model_versions(f"name = '{name}'"):
            if known.source == model_uri:
                if aliases(dataset).get("champion") != str(known.version):
                    client.set_registered_model_alias(name, "challenger", known.version)
                return known
        version = mlflow.register_model(model_uri, name, tags=dict(tags))
        if not client.get_registered_model(name).description:
            client.update_registered_model(name, ABOUT)
        if description:
            client.update_model_version(name, version.version, description)
        client.set_registered_model_alias(name, "challenger", version.version)
    except mlflow.MlflowException as error:
        raise LekhaniError(
            f"Could not register {name} in MLflow at {mlflow.get_tracking_uri()}: {first_line(error)}"
        ) from error
    return version


def datasets() -> list[str]:
    """The datasets that have a registered model, by name."""
    prefix, client = model_name(""), connect()
    try:
        found = [
            model.name.removeprefix(prefix)
            for model in client.search_registered_models(f"name LIKE '{prefix}%'", max_results=1000)
        ]
    except mlflow.MlflowException as error:
        raise LekhaniError(
            f"The models in MLflow at {mlflow.get_tracking_uri()} cannot be listed: {first_line(error)}"
        ) from error
    return sorted(name for name in found if not name.endswith(".move"))  # see promotion


def aliases(dataset: str) -> dict[str, str]:
    """Version by alias, as the registry has them now; empty when nothing is registered."""
    client, name = connect(), model_name(dataset)
    try:
        return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}
    except mlflow.MlflowException as error:
        if error.error_code == MISSING:
            return {}
        raise LekhaniError(
            f"{name} cannot be read from MLflow at {mlflow.get_tracking_uri()}: {first_line(error)}"
        ) from error


def find(dataset: str) -> Registered:
    """The champion of a dataset, or while there is none the challenger; raises LekhaniError when nothing is registered."""
    known = aliases(dataset)
    for alias in ("champion", "challenger"):
        if alias in known:
            return fetch(dataset, known[alias], alias)
    raise LekhaniError(
        f"Nothing is registered as {model_name(dataset)} in MLflow at {mlflow.get_tracking_uri()}; run `make demo` or pass --model FILE.onnx."
    )


def fetch(dataset: str, number: str, alias: str = "") -> Registered:
    """Bring the files of one version here; raises LekhaniError when it, its files or the very file that was registered cannot be had."""
    client, name = connect(), model_name(dataset)
    try:
        version = client.get_model_version(name, number)
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{number}"))
    except (mlflow.MlflowException, OSError) as error:
        raise LekhaniError(
            f"{name} version {number} cannot be fetched from MLflow at {mlflow.get_tracking_uri()}: {first_line(error)}"
        ) from error
    generator = _only(folder, version)
    scorecard = generator.with_name("scorecard.json")
    run_id, variant = version.run_id or "", version.tags.get("variant", "")
    return Registered(
        name, number, alias, run_id, variant, generator, scorecard if scorecard.exists() else None, _judge(version)
    )


def _only(folder: Path, version: ModelVersion) -> Path:
    """The generator in a version's folder, if it is the very file that was registered."""
    files = sorted(
        [*folder.glob("artifacts/*.onnx"), *folder.glob("*.onnx")]
    )  # at the top in models logged as ONNX alone
    if len(files) != 1:
        what = f"{version.name} version {version.version} in MLflow at {mlflow.get_tracking_uri()}"
        raise LekhaniError(
            f"{what} holds {len(files)} ONNX files instead of one; restore its artifacts or register the model again."
        )
    found = sha256(files[0])
    if found != version.tags.get("model_sha256", found):
        raise LekhaniError(
            f"The generator in MLflow at {mlflow.get_tracking_uri()} is not the file that was registered as {version.name} "
            f"version {version.version}, for its SHA-256 differs; restore its artifacts or register the model again."
        )
    return files[0]


def _judge(version: ModelVersion) -> Path | None:
    try:
        return Path(mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path="judge/judge.onnx"))
    except (mlflow.MlflowException, OSError):
        return None
