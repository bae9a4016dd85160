"""Moving the aliases `champion` and `previous`, and the record of why.

MLflow moves one alias at a time and knows no transactions. So a move is first written down whole: as the tags of a registered model
`<name>.move`, which only one caller can create since names are unique, and which is deleted after the last step. Whoever finds one whose
author is dead takes its steps again, each of which may be taken twice, and goes on. At any moment `champion` names a whole version.
"""

import getpass
import json
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import mlflow

from lekhani.errors import LekhaniError, UsageError, first_line
from lekhani.registry.models import aliases, model_name
from lekhani.tracking.store import EXISTS, MISSING, connect

log = logging.getLogger("lekhani")

# A move takes seconds; one of another machine that is older has lost its author.
PATIENCE = timedelta(minutes=10)
LONGEST = 1000  # characters of a reason; the journal is one tag, of which MLflow keeps 5,000


@dataclass(frozen=True)
class Move:
    """All that its steps need. Versions are their numbers as text; "" is none."""

    action: Literal["promote", "rollback"]
    to: str  # the version that becomes champion
    over: str  # the one that is champion before
    previous: str  # the one that `previous` names afterwards
    tagged: str  # the one that gets `tags`
    tags: dict[str, str]
    by: str
    at: str  # ISO 8601, UTC
    host: str
    process: int


def promote(dataset: str, version: str, champion: str | None, reason: str | None = None) -> None:
    """Make `version` the champion in place of `champion`, the one that it was held against, which becomes `previous`.

    Raises LekhaniError when someone else is at it or the champion has changed meanwhile.
    """
    tags = {"promoted_over": champion or "none", "promoted_because": reason or "the gate let it through"}
    _move(dataset, "promote", to=version, over=champion or "", previous=champion or "", tagged=version, tags=tags)


def rollback(dataset: str, reason: str | None = None, check: Callable[[str], Any] = lambda _: None) -> tuple[str, str]:
    """Give the alias `champion` back to `previous` and return both versions, restored and left.

    `previous` then names what the restored version had itself been promoted over, so that one may go on. `check` is called with the
    version to restore and raises LekhaniError if it is not fit to be used. Raises UsageError when there is nothing to go back to.
    """
    finish(dataset)
    known, name = aliases(dataset), model_name(dataset)
    if "champion" not in known or "previous" not in known:
        what = "no previous champion" if "champion" in known else "no champion"
        raise UsageError(
            f"{name} has {what}, so there is nothing to go back to; promote a version with `lekhani promote --version N`."
        )
    to, over = known["previous"], known["champion"]
    check(to)
    try:
        before = connect().get_model_version(name, to).tags.get("promoted_over", "none")
    except mlflow.MlflowException as error:
        raise _unreadable(name, error) from error
    tags = {"rolled_back_to": to, "rolled_back_because": reason or "no reason was given"}
    previous = "" if before in ("none", over) else before
    _move(dataset, "rollback", to=to, over=over, previous=previous, tagged=over, tags=tags)
    return to, over


def finish(dataset: str) -> None:
    """Complete a move that its author did not live to complete, if there is one; LekhaniError when the author is at work."""
    found = _read(dataset)
    if found is None:
        return
    if _alive(found):
        verb = "promoting" if found.action == "promote" else "rolling back to"
        raise LekhaniError(
            f"{found.by} is {verb} {model_name(dataset)} version {found.to} since {found.at}; wait a moment and look what came of it."
        )
    if aliases(dataset).get("champion", "") not in (found.over, found.to):
        log.warning(
            "A move of %s to version %s by %s was broken off, and its champion has been set by hand since.",
            *_told(dataset, found),
        )
        _delete_journal(dataset)
        return
    log.warning("A move of %s to version %s by %s was broken off; finishing it first.", *_told(dataset, found))
    _take(dataset, found)


def record(dataset: str, version: str, run_id: str, files: Sequence[Path], tags: Mapping[str, str]) -> None:
    """Keep a decision with the version that it is about: its files in its run and `tags` on the version."""
    client, name = connect(), model_name(dataset)
    folder = f"gate/{name}-{version}-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    try:
        for path in files:
            client.log_artifact(run_id, str(path), folder)
        for key, value in {**tags, "gate.report": f"runs:/{run_id}/{folder}"}.items():
            client.set_model_version_tag(name, version, key, value)
        client.set_tag(run_id, "gate.verdict", tags["gate.verdict"])  # where runs are compared, too
    except (mlflow.MlflowException, OSError) as error:
        raise LekhaniError(
            f"The decision on {name} version {version} could not be kept: {first_line(error)}; nothing was promoted."
        ) from error


def check_run(dataset: str, version: str, run_id: str) -> None:
    """Raise LekhaniError unless the run that a decision would be kept in is there."""
    name = model_name(dataset)
    try:
        stage = connect().get_run(run_id).info.lifecycle_stage if run_id else "missing"
    except mlflow.MlflowException as error:
        if error.error_code != MISSING:
            raise _unreadable(name, error) from error
        stage = "missing"
    if stage != "active":
        raise LekhaniError(
            f"The run {run_id[:8]} that made {name} version {version} is {stage}; restore it in MLflow or register the model again."
        )


def author() -> str:
    """Who is at it: the account that started a workflow on GitHub, else the user of this machine."""
    try:
        return os.environ.get("GITHUB_ACTOR") or getpass.getuser()
    except OSError:  # a container's user without a name
        return f"user {os.getuid()}"


def _move(
    dataset: str,
    action: Literal["promote", "rollback"],
    to: str,
    over: str,
    previous: str,
    tagged: str,
    tags: dict[str, str],
) -> None:
    if any(len(value) > LONGEST for value in tags.values()):
        raise UsageError(f"The reason is longer than {LONGEST:,} characters, more than MLflow keeps; say it in fewer.")
    by, at = author(), f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    done = "promoted" if action == "promote" else "rolled_back"
    marks = {**tags, f"{done}_by": by, f"{done}_at": at}
    move = Move(action, to, over, previous, tagged, marks, by, at, socket.gethostname(), os.getpid())
    client, name = connect(), model_name(dataset)
    try:
        client.create_registered_model(
            _journal(dataset),
            {"move": json.dumps(asdict(move))},
            f"{by} moves the champion of {name} to version {to}; this goes away by itself.",
        )
    except mlflow.MlflowException as error:
        if error.error_code == EXISTS:
            raise LekhaniError(
                f"Someone else moves the champion of {name} at this moment; look what came of it, then run again."
            ) from error
        raise LekhaniError(
            f"MLflow at {mlflow.get_tracking_uri()} lets no alias of {name} move: {first_line(error)}; nothing was changed."
        ) from error
    now = aliases(dataset).get("champion", "")
    if now != over:
        _delete_journal(dataset)
        raise LekhaniError(
            f"The champion of {name} has become version {now or 'none'} in the meantime, no longer {over or 'none'}; "
            "nothing was changed, run again to compare with it."
        )
    _take(dataset, move)


def _take(dataset: str, move: Move) -> None:
    """Every step of a move; taking them again changes nothing more."""
    client, name = connect(), model_name(dataset)
    try:
        for key, value in move.tags.items():
            client.set_model_version_tag(name, move.tagged, key, value)
        if move.previous:
            client.set_registered_model_alias(name, "previous", move.previous)
        else:
            client.delete_registered_model_alias(name, "previous")
        client.set_registered_model_alias(name, "champion", move.to)
        if aliases(dataset).get("challenger") == move.to:
            client.delete_registered_model_alias(name, "challenger")
    except mlflow.MlflowException as error:
        raise LekhaniError(
            f"Moving the champion of {name} to version {move.to} was broken off: {first_line(error)}; the next call finishes it."
        ) from error
    _delete_journal(dataset)


def _told(dataset: str, move: Move) -> tuple[str, str, str]:
    return model_name(dataset), move.to, move.by


def _journal(dataset: str) -> str:
    return f"{model_name(dataset)}.move"


def _read(dataset: str) -> Move | None:
    try:
        return Move(**json.loads(connect().get_registered_model(_journal(dataset)).tags["move"]))
    except mlflow.MlflowException as error:
        if error.error_code == MISSING:
            return None
        raise _unreadable(model_name(dataset), error) from error
    except (KeyError, TypeError, ValueError) as error:
        raise LekhaniError(
            f"The registered model {_journal(dataset)} is not one of ours; delete it in MLflow and run again."
        ) from error


def _delete_journal(dataset: str) -> None:
    try:
        connect().delete_registered_model(_journal(dataset))
    except mlflow.MlflowException as error:
        if error.error_code != MISSING:  # who finished our move for us has deleted it
            log.warning("%s could not be deleted (%s); the next call does it.", _journal(dataset), first_line(error))


def _alive(move: Move) -> bool:
    if datetime.now(UTC) - datetime.fromisoformat(move.at) > PATIENCE:
        return False
    if move.host != socket.gethostname():
        return True
    try:
        os.kill(move.process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return move.process != os.getpid()  # our own, from an earlier call that failed


def _unreadable(name: str, error: Exception) -> LekhaniError:
    return LekhaniError(f"{name} cannot be read from MLflow at {mlflow.get_tracking_uri()}: {first_line(error)}")
