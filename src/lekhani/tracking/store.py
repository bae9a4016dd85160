"""Where MLflow keeps its runs: mlruns/ in the project unless MLFLOW_TRACKING_URI says otherwise."""

import logging
import os
import re
import shlex
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cache
from itertools import product
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote, urlsplit

import mlflow
import requests
from alembic.util.exc import CommandError
from filelock import FileLock, Timeout
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST, ErrorCode
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from lekhani.errors import LekhaniError, first_line, redacted
from lekhani.paths import project
from lekhani.tracking import view

logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.ERROR)

# An unreachable server must not delay training for minutes; set these variables to wait longer.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
# By default MLflow makes clients download from S3 directly, which they may be unable to reach; the server can proxy.
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")

LOCK_SECONDS = 60.0
_ADDRESSES = (  # MLflow's columns that hold the address of a file or a folder
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)
log = logging.getLogger("lekhani")
_T = TypeVar("_T")


def root() -> Path:
    """The folder mlruns/ of the project, also where DVC runs an experiment in a folder that it removes afterwards."""
    return project() / "mlruns"


def connect() -> mlflow.MlflowClient:
    """Point mlflow at the store in use and return a client of it; raises LekhaniError when there is none."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or _default_uri()
    if uri.startswith("sqlite:///"):
        # A pool would keep a file open that was moved away, and never see the one in its place.
        os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
        _make(uri)
        if not _database(uri).exists():  # SQLite would make an empty one
            raise LekhaniError(f"The database of MLflow at {uri} is not there; restore it, or see MLFLOW_TRACKING_URI.")
    # ImportError where a database needs a driver that is not installed, ValueError for what is no address.
    kinds = (mlflow.MlflowException, SQLAlchemyError, ImportError, ValueError)
    with mlflow_errors("Could not connect to", "; see MLFLOW_TRACKING_URI.", kinds), _schema_errors(uri):
        mlflow.set_tracking_uri(uri)
        return mlflow.MlflowClient(uri)


def is_absent() -> bool:
    """Whether the project has no store yet, and no other is named: looking for something should not make one."""
    return "MLFLOW_TRACKING_URI" not in os.environ and not (root() / "mlflow.db").exists()


def address() -> str:
    """The tracking URI in use, without user and password."""
    connect()
    return redacted(mlflow.get_tracking_uri())


def _default_uri() -> str:
    path = (root() / "mlflow.db").resolve().as_posix()
    # SQLAlchemy ends a path at its question mark; SQLite itself takes one that is quoted.
    return f"sqlite:///file:{quote(path)}?uri=true" if "?" in path else f"sqlite:///{path}"


def _database(uri: str) -> Path:
    """The file of an SQLite database."""
    path = make_url(uri).database or ""
    return Path(unquote(path.removeprefix("file:")) if path.startswith("file:") else path)


@cache
def _make(uri: str) -> None:
    """Create the tables of a new store under a lock, since MLflow fails when several processes do so at once.

    Once only: a store that is moved away later is missed, not made anew.
    """
    lock = f"{_database(uri)}.lock"
    # Errors surface where the store is used; a read-only store has its tables already.
    with suppress(OSError, mlflow.MlflowException, SQLAlchemyError), _schema_errors(uri):
        if uri == _default_uri():
            root().mkdir(exist_ok=True)
        try:
            with FileLock(lock, timeout=LOCK_SECONDS):
                mlflow.MlflowClient(uri).search_experiments(max_results=1)
        except Timeout:
            raise LekhaniError(f"Another process holds {lock}; end it, or run again later.") from None
    if uri == _default_uri():
        _follow_folder(_database(uri))


@contextmanager
def _schema_errors(uri: str) -> Iterator[None]:
    """Say what to do about a database that another version of MLflow made."""
    try:
        yield
    except (CommandError, mlflow.MlflowException) as error:
        if "database schema" not in str(error) and not isinstance(error, CommandError):
            raise
        problem = f"The database of MLflow at {uri} was made by another version of it than {mlflow.__version__} here"
        remedy = f"if it is an older one, keep a copy and run `mlflow db upgrade {shlex.quote(uri)}`"
        raise LekhaniError(f"{problem}; {remedy}, else install the version that made it.") from None


def _follow_folder(database: Path) -> None:
    """Let the addresses of artifacts, which MLflow keeps as whole paths, follow a project folder that was moved."""
    here = database.parent
    if not (database.is_file() and (here / "artifacts").is_dir()):
        return
    try:
        with closing(sqlite3.connect(database)) as connection, connection:
            rows = connection.execute("SELECT artifact_location FROM experiments")
            ours = (row[0] for row in rows if re.fullmatch("file:.*/mlruns/artifacts", row[0] or ""))
            before = {address.removesuffix("/artifacts") for address in ours} - {here.as_uri()}
            moves = [move for old in before for move in ((old, here.as_uri()), (_plain(old), here.as_posix()))]
            for (table, column), (old, new) in product(_ADDRESSES, moves):
                where = f"WHERE substr({column}, 1, ?) = ?"
                change = f"UPDATE {table} SET {column} = ? || substr({column}, ?) {where}"  # noqa: S608 - names of ours
                connection.execute(change, (new, len(old) + 1, len(old) + 1, f"{old}/"))
            for old in sorted(before):
                log.info("The folder %s was moved to %s; MLflow's artifacts are found there now.", _plain(old), here)
    except sqlite3.Error as error:
        log.warning("The artifacts in %s may not be found: %s cannot be changed (%s).", here, database, error)


def _plain(uri: str) -> str:
    return unquote(urlsplit(uri).path)


@contextmanager
def mlflow_errors(
    failed: str = "Could not use",
    hint: str = "; set tracking.backend to `none` to go without it.",
    kinds: tuple[type[Exception], ...] = (mlflow.MlflowException, requests.RequestException, SQLAlchemyError),
) -> Iterator[None]:
    """Raise errors of MLflow, its database or the connection to its server as a LekhaniError.

    It reads "`failed` MLflow at URI: reason `hint`".
    """
    try:
        yield
    except kinds as error:
        sentence = f"{failed} MLflow at {mlflow.get_tracking_uri()}: {first_line(error)}{hint}"
        raise LekhaniError(sentence) from None  # the error itself may hold the password of the URI


def known_or_none(read: Callable[[], _T]) -> _T | None:
    """What `read` gets from MLflow, None where MLflow answers that it does not have it."""
    try:
        return read()
    except mlflow.MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise  # an unreachable server does not mean that there is no such thing
        return None


def is_active(client: mlflow.MlflowClient, run_id: str) -> bool:
    """Whether this store has the run, and it is not deleted."""
    run = known_or_none(lambda: client.get_run(run_id))
    return run is not None and run.info.lifecycle_stage == "active"


@contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Keep other processes that use the same local store from changing `name`; the lock of one that dies is free again.

    A tracking server has no locks, so there this does nothing. Raises LekhaniError when it takes longer than
    LOCK_SECONDS, and OSError where the folder of the store is read-only.
    """
    uri = mlflow.get_tracking_uri()
    with ExitStack() as locks:
        if uri.startswith("sqlite:///"):
            try:
                locks.enter_context(FileLock(f"{_database(uri)}.{name}.lock", timeout=LOCK_SECONDS))
            except Timeout:
                raise LekhaniError(f"Another process is changing {name} in MLflow at {uri}; run again later.") from None
        yield


@mlflow_errors()
def use_experiment(name: str) -> str:
    """Make `name` the active experiment, creating it when it is new, and return its id.

    With the default store its artifacts lie in mlruns/artifacts; a tracking server decides for itself.
    Raises LekhaniError when MLflow does not answer or the experiment is deleted.
    """
    client = connect()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = (root() / "artifacts").resolve().as_uri() if mlflow.get_tracking_uri() == _default_uri() else None
        try:
            identity = client.create_experiment(name, artifact_location=location, tags={view.TAG: view.state()})
        except mlflow.MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
            return use_experiment(name)  # another process was faster
    elif experiment.lifecycle_stage == "deleted":
        problem = f"The MLflow experiment {name!r} is deleted"
        raise LekhaniError(f"{problem}; restore it or name another under tracking.experiment.")
    else:
        identity = experiment.experiment_id
    mlflow.set_experiment(experiment_id=identity)
    return identity
