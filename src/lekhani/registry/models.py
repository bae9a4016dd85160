"""Registered models: one per dataset, `lekhani-<dataset>`, and where the files of a version lie."""

import json
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.parse import quote

import mlflow
from mlflow.entities.model_registry import ModelVersion
from sqlalchemy.exc import SQLAlchemyError

from lekhani.errors import LekhaniError, UsageError
from lekhani.files import sha256
from lekhani.registry.card import page
from lekhani.tracking.store import address, connect, is_absent, known_or_none, mlflow_errors

ABOUT = (
    "Generators of one dataset's glyphs. Use the alias `champion`; `challenger` has yet to pass the gate, and "
    "`previous` is what a rollback restores. The gate's decision is in each version's tags `gate.*`, its report in the "
    "version's run. Each version has a model card."
)
MADE_FROM = "lekhani.made_from"  # a version's tag: what people need not see on its page, as JSON
FILES = "files_sha256"  # in there, or a tag of its own as JSON: the SHA-256 of each file by its path in the folder
JUDGE = "judge.onnx"  # beside the generator
MEASUREMENTS = ("measurements.json", "scorecard.json")  # as it is called, and as versions of earlier releases have it
_REMEDY = "restore its artifacts or register the model again"

log = logging.getLogger("lekhani")


class Version(NamedTuple):
    """What is served of a registered model."""

    number: str
    source: str  # MLflow's address of its files, which tells it from another registry's version of this number
    alias: str


@dataclass(frozen=True)
class Registered:
    """A registered version with its files: the generator and, if they were kept, its scorecard and its judge."""

    name: str
    version: str
    source: str
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


def register(
    dataset: str, model_uri: str, tags: Mapping[str, str], made_from: Mapping[str, str] | None = None, card: str = ""
) -> ModelVersion:
    """Register the model that a run logged as a new version of `lekhani-<dataset>` under the alias `challenger`.

    Its page shows `tags` and the `card`. What it was made from is kept in one more tag, with the SHA-256 of each file,
    which `fetch` checks. A model that is registered already gives its version back, so that calling twice adds nothing;
    that version becomes challenger again unless it is champion.
    """
    client, name = connect(), model_name(dataset)
    with registry_errors(f"Could not register {name} in"):
        if (known := _version_of(dataset, model_uri)) is not None:
            if aliases(dataset).get("champion") != str(known.version):
                client.set_registered_model_alias(name, "challenger", known.version)
            return known
        with TemporaryDirectory() as folder:
            made = Path(mlflow.artifacts.download_artifacts(model_uri, dst_path=folder))
            recorded = {path: sha256(made / path) for path in _files(made)}
        kept = {MADE_FROM: json.dumps({**(made_from or {}), FILES: recorded})}
        version = mlflow.register_model(model_uri, name, tags={**tags, **kept})
        if not client.get_registered_model(name).description:
            client.update_registered_model(name, ABOUT)
        if card:
            client.update_model_version(name, version.version, page(card, name, str(version.version)))
        client.set_registered_model_alias(name, "challenger", version.version)
    return version


def datasets() -> list[str]:
    """The datasets that have a registered model, by name."""
    if is_absent():
        return []
    prefix = model_name("")
    with registry_errors("Could not list the models in"):
        found = connect().search_registered_models(f"name LIKE '{prefix}%'", max_results=1000)
    return sorted(model.name.removeprefix(prefix) for model in found)


def aliases(dataset: str) -> dict[str, str]:
    """Version by alias, as the registry has them now; empty when nothing is registered."""
    if is_absent():
        return {}
    client, name = connect(), model_name(dataset)
    with registry_errors(f"Could not read {name} from"):
        model = known_or_none(lambda: client.get_registered_model(name))
    return {alias: str(version) for alias, version in model.aliases.items()} if model else {}


def tags(dataset: str, number: str) -> dict[str, str]:
    """The tags of a version, as `tags_of`."""
    name = model_name(dataset)
    with registry_errors(f"Could not read {name} version {number} from"):
        return tags_of(connect().get_model_version(name, number))


def tags_of(version: ModelVersion) -> dict[str, str]:
    """The tags of a version, with what it was made from as if each were a tag, as versions of earlier have it."""
    made_from = {key: value for key, value in _made_from(version).items() if key != FILES}
    return made_from | {key: value for key, value in version.tags.items() if key != MADE_FROM}


def _made_from(version: ModelVersion) -> dict[str, Any]:
    try:
        return dict(json.loads(version.tags.get(MADE_FROM, "{}")))
    except (TypeError, ValueError):
        raise LekhaniError(f"The tag {MADE_FROM} of {_named(version)} cannot be read; {_REMEDY}.") from None


def newest(dataset: str) -> Version:
    """The champion of a dataset, else its challenger; raises LekhaniError when there is neither."""
    client, name, known = connect(), model_name(dataset), aliases(dataset)
    for alias in ("champion", "challenger"):
        if alias in known:
            with registry_errors(f"Could not read {name} from"):
                return Version(known[alias], client.get_model_version(name, known[alias]).source or "", alias)
    hint = "run `make demo` or name a file"
    problem = f"Nothing is registered as {model_name(dataset)} in MLflow at {mlflow.get_tracking_uri()}"
    raise UsageError(f"{problem}; {hint}.")


def find(dataset: str) -> Registered:
    """The files of the champion of a dataset, else of its challenger; raises LekhaniError when there is neither."""
    known = newest(dataset)
    return fetch(dataset, known.number, known.alias)


def has_version(dataset: str, number: str) -> bool:
    """Whether a version of this number is registered."""
    if is_absent():
        return False
    client, name = connect(), model_name(dataset)
    with registry_errors(f"Could not look up {name} version {number} in"):
        return known_or_none(lambda: client.get_model_version(name, number)) is not None


def page_of(dataset: str, number: str) -> str | None:
    """The address of a version's page, None where MLflow is no server that has pages."""
    uri = address()
    name = quote(model_name(dataset), safe="")
    return f"{uri.rstrip('/')}/#/models/{name}/versions/{number}" if uri.startswith(("http://", "https://")) else None


def fetch(dataset: str, number: str, alias: str = "", folder: Path | None = None) -> Registered:
    """Download the files of one version, into `folder` where one is given.

    Raises LekhaniError when the version or its files are missing, or a file is not the one that was registered.
    """
    client, name = connect(), model_name(dataset)
    with registry_errors(f"{name} version {number} cannot be fetched from"):
        version = client.get_model_version(name, number)
        # Where they lie, since for models:/ MLflow writes a file beside them, which another user may not do.
        uri = client.get_model_version_download_uri(name, number)
        made = Path(mlflow.artifacts.download_artifacts(uri, dst_path=None if folder is None else str(folder)))
    recorded = _recorded(version)
    if not recorded:
        log.warning("%s version %s has a SHA-256 of its generator alone to check; register it again.", name, number)
    for path, digest in recorded.items():
        _check(made / path, digest, version)
    generator = _generator(made, version)
    _check(generator, tags_of(version).get("model_sha256"), version)
    judge = generator.with_name(JUDGE) if recorded else _judge_of_run(version)
    cards = (generator.with_name(name) for name in MEASUREMENTS)
    about = version.source or "", alias, version.run_id or "", version.tags.get("variant", "")
    return Registered(name, number, *about, generator, next(filter(Path.exists, cards), None), _if_there(judge))


def check_there(dataset: str, number: str) -> None:
    """Raise LekhaniError when files of a version are missing, which is seen without downloading any."""
    client, name = connect(), model_name(dataset)
    with registry_errors(f"The files of {name} version {number} cannot be listed in"):
        version = client.get_model_version(name, number)
        wanted = set(_recorded(version)) or {"MLmodel"}
        folders = {f"/{PurePosixPath(path).parent}".removesuffix("/.") for path in wanted}
        listed = [mlflow.artifacts.list_artifacts(f"models:/{name}/{number}{folder}") for folder in folders]
    if missing := wanted - {one.path for found in listed for one in found}:
        raise LekhaniError(f"{min(missing)} of {_named(version)} is missing; {_REMEDY}.")


def is_registered(dataset: str, model_uri: str) -> bool:
    """Whether a version was registered of this model."""
    with registry_errors(f"Could not read {model_name(dataset)} from"):
        return _version_of(dataset, model_uri) is not None


def is_intact(dataset: str, model_uri: str) -> bool:
    """Whether the files of the version that was registered of this model, if any, are those that were registered."""
    with registry_errors(f"Could not read {model_name(dataset)} from"):
        version = _version_of(dataset, model_uri)
    try:
        if version is not None:
            fetch(dataset, str(version.version))
    except LekhaniError:
        return False
    return True


def versions(dataset: str) -> list[ModelVersion]:
    """All registered versions of a dataset; raises what MLflow raises, for `registry_errors` around it."""
    if is_absent():
        return []
    return list(connect().search_model_versions(f"name = '{model_name(dataset)}'"))


def _version_of(dataset: str, model_uri: str) -> ModelVersion | None:
    return next((version for version in versions(dataset) if version.source == model_uri), None)


def iso_time(milliseconds: int) -> str:
    """A time of MLflow's, which counts from 1970, as ISO 8601 in UTC."""
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def generators(folder: Path) -> list[Path]:
    """The ONNX files in a model's folder but for its judge: one, where nothing is wrong."""
    # In artifacts/, or at the top in a model that mlflow.onnx logged.
    return [path for path in folder.rglob("*.onnx") if path.name != JUDGE]


def _generator(folder: Path, version: ModelVersion) -> Path:
    found = generators(folder)
    if len(found) != 1:
        raise LekhaniError(f"{_named(version)} holds {len(found)} generators instead of one; {_REMEDY}.")
    return found[0]


def _judge_of_run(version: ModelVersion) -> Path:
    """Where earlier versions have their judge, which may be missing."""
    with suppress(mlflow.MlflowException, OSError):
        return Path(mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=f"judge/{JUDGE}"))
    return Path("none")


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _files(folder: Path) -> list[str]:
    """All files of a downloaded model but the one that the download adds."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if path != "registered_model_meta")


def _recorded(version: ModelVersion) -> dict[str, str]:
    """SHA-256 by path as they were registered, empty where they were not."""
    if FILES in (made_from := _made_from(version)):
        return dict(made_from[FILES])
    try:
        return dict(json.loads(version.tags.get(FILES, "{}")))
    except (TypeError, ValueError):
        raise LekhaniError(f"The tag {FILES} of {_named(version)} cannot be read; {_REMEDY}.") from None


def _check(path: Path, digest: str | None, version: ModelVersion) -> None:
    """Raise LekhaniError unless the file has this SHA-256, if any is known."""
    if not path.is_file():
        raise LekhaniError(f"{path.name} of {_named(version)} is missing; {_REMEDY}.")
    if digest is not None and sha256(path) != digest:
        problem = f"{path.name} in MLflow at {mlflow.get_tracking_uri()} is not the file that was registered as"
        what = f"{version.name} version {version.version}: its SHA-256 differs"
        raise LekhaniError(f"{problem} {what}; {_REMEDY}.")


def _named(version: ModelVersion) -> str:
    return f"{version.name} version {version.version} in MLflow at {mlflow.get_tracking_uri()}"
