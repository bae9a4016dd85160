"""Registered models: one per dataset, `lekhani-<dataset>`, and where the files of a version lie."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion
from sqlalchemy.exc import SQLAlchemyError

from lekhani.errors import LekhaniError
from lekhani.files import sha256
from lekhani.tracking.store import connect, known_or_none, mlflow_errors

ABOUT = (
    "Generators of one dataset's glyphs. Use the alias `champion`; `challenger` has yet to pass the gate, and "
    "`previous` is what a rollback restores. The gate's decision is in each version's tags `gate.*`, its report in the "
    "version's run. Each version has a model card."
)


@dataclass(frozen=True)
class Registered:
    """A registered version with its files: the generator and, if they were kept, its scorecard and its run's judge."""

    name: str
    version: str
    alias: str  # by which it was found; "" when it was found by its number
    run_id: str
    variant: str
    generator: Path
    scorecard: Path | None
    judge: Path | None


def model_name(dataset: str) -> str:
    """The registered model of a dataset."""
    return f"lekhani-{dataset}"


def registry_errors(failed: str, hint: str = "") -> AbstractContextManager[None]:
    """As `mlflow_errors`, for code that reads or writes artifacts as well."""
    return mlflow_errors(failed, hint, (mlflow.MlflowException, OSError, SQLAlchemyError))


def register(dataset: str, model_uri: str, tags: Mapping[str, str], description: str = "") -> ModelVersion:
    """Register the model that a run logged as a new version of `lekhani-<dataset>` under the alias `challenger`.

    A model that is registered already gives its version back, so that calling twice adds nothing; that version becomes
    challenger again unless it is champion.
    """
    client, name = connect(), model_name(dataset)
    with registry_errors(f"Could not register {name} in"):
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
    return version


def datasets() -> list[str]:
    """The datasets that have a registered model, by name."""
    prefix = model_name("")
    with registry_errors("Could not list the models in"):
        found = connect().search_registered_models(f"name LIKE '{prefix}%'", max_results=1000)
    return sorted(model.name.removeprefix(prefix) for model in found)


def aliases(dataset: str) -> dict[str, str]:
    """Version by alias, as the registry has them now; empty when nothing is registered."""
    client, name = connect(), model_name(dataset)
    with registry_errors(f"Could not read {name} from"):
        model = known_or_none(lambda: client.get_registered_model(name))
    return {alias: str(version) for alias, version in model.aliases.items()} if model else {}


def find(dataset: str) -> Registered:
    """The champion of a dataset, else its challenger; raises LekhaniError when there is neither."""
    known = aliases(dataset)
    for alias in ("champion", "challenger"):
        if alias in known:
            return fetch(dataset, known[alias], alias)
    hint = "run `make demo` or pass --model FILE.onnx"
    problem = f"Nothing is registered as {model_name(dataset)} in MLflow at {mlflow.get_tracking_uri()}"
    raise LekhaniError(f"{problem}; {hint}.")


def fetch(dataset: str, number: str, alias: str = "") -> Registered:
    """Download the files of one version.

    Raises LekhaniError when the version or its files are missing, or the generator is not the file that was registered.
    """
    client, name = connect(), model_name(dataset)
    with registry_errors(f"{name} version {number} cannot be fetched from"):
        version = client.get_model_version(name, number)
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{number}"))
    generator = _generator(folder, version)
    run_id, variant = version.run_id or "", version.tags.get("variant", "")
    scorecard, judge = generator.with_name("scorecard.json"), None
    with suppress(mlflow.MlflowException, OSError):
        judge = Path(mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path="judge/judge.onnx"))
    kept = scorecard if scorecard.exists() else None
    return Registered(name, number, alias, run_id, variant, generator, kept, judge)


def _generator(folder: Path, version: ModelVersion) -> Path:
    """The generator in a version's folder, if it is the file that was registered."""
    found = list(folder.rglob("*.onnx"))  # in artifacts/, or at the top in a model that mlflow.onnx logged
    what = f"{version.name} version {version.version}"
    at, hint = mlflow.get_tracking_uri(), "restore its artifacts or register the model again"
    if len(found) != 1:
        raise LekhaniError(f"{what} in MLflow at {at} holds {len(found)} ONNX files instead of one; {hint}.")
    digest = sha256(found[0])
    if digest != version.tags.get("model_sha256", digest):
        problem = f"The generator in MLflow at {at} is not the file that was registered as {what}: its SHA-256 differs"
        raise LekhaniError(f"{problem}; {hint}.")
    return found[0]
