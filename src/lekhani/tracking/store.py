"""Where MLflow keeps its runs: mlruns/ in the project unless MLFLOW_TRACKING_URI says otherwise."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import mlflow
import requests
from filelock import FileLock
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST, ErrorCode
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from lekhani.errors import LekhaniError, first_line

logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.ERROR)
logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)  # what it validates is no news

# A server that is away must not hold training up for minutes; who wants more patience sets these.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
# Left alone, MLflow sends clients to S3 itself for every download, which they may be unable to reach; the server passes on what it holds.
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")

ROOT = Path("mlruns")
MISSING, EXISTS = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(RESOURCE_ALREADY_EXISTS)


def connect() -> mlflow.MlflowClient:
    """Point mlflow at the store in use and return a client of it."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or _default_uri()
    if uri == _default_uri():
        ROOT.mkdir(exist_ok=True)
    if uri.startswith("sqlite:///"):
        _make(uri)
    mlflow.set_tracking_uri(uri)
    return mlflow.MlflowClient(uri)


def _default_uri() -> str:
    return f"sqlite:///{(ROOT / 'mlflow.db').resolve().as_posix()}"


@cache
def _make(uri: str) -> None:
    """Let one process alone make the tables of a new store: MLflow lets several that start side by side get in each other's way."""
    # What is wrong with a store is said where it is used; one that cannot be written to has its tables.
    with suppress(OSError, mlflow.MlflowException, SQLAlchemyError), FileLock(f"{make_url(uri).database}.lock"):
        mlflow.MlflowClient(uri).search_experiments(max_results=1)


@contextmanager
def answering() -> Iterator[None]:
    """Raise a LekhaniError that names the store in use for what MLflow, its database or the way to its server raise in the block."""
    try:
        yield
    except (mlflow.MlflowException, requests.RequestException) as error:
        raise LekhaniError(
            f"MLflow at {mlflow.get_tracking_uri()} does not answer: {first_line(error)}; set tracking.backend to `none` to go without it."
        ) from error


@answering()
def use_experiment(name: str) -> str:
    """Make `name` the active experiment, creating it when it is new, and return its id.

    With the default store its artifacts lie in mlruns/artifacts; a tracking server decides for itself.
    Raises LekhaniError when MLflow does not answer or the experiment is deleted.
    """
    client = connect()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = (ROOT / "artifacts").resolve().as_uri() if mlflow.get_tracking_uri() == _default_uri() else None
        try:
            identity = client.create_experiment(name, artifact_location=location)
        except mlflow.MlflowException as error:
            if error.error_code != EXISTS:
                raise
            return use_experiment(name)  # another stage was faster
    elif experiment.lifecycle_stage == "deleted":
        raise LekhaniError(
            f"The MLflow experiment {name!r} is deleted; restore it or name another under tracking.experiment."
        )
    else:
        identity = experiment.experiment_id
    mlflow.set_experiment(experiment_id=identity)
    return identity
