"""Moving the aliases `champion` and `previous`, and the record of why.

MLflow sets one alias at a time and has no transactions. Each move is therefore a sequence of steps that may be
repeated, and after a crash between any two of them the aliases show which are missing: until a promotion is complete,
`challenger` names its version; until a rollback is complete, `previous` names the champion. At any moment `champion`
names a whole version.
"""

import getpass
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow

from lekhani.errors import LekhaniError, UsageError
from lekhani.registry.models import aliases, model_name, registry_errors
from lekhani.tracking.store import connect, exclusive, known_or_none


def promote(dataset: str, version: str, champion: str | None, reason: str | None = None) -> None:
    """Make `version` the champion in place of `champion`, with which it was compared and which becomes `previous`.

    Raises LekhaniError when another process is moving the champion or has moved it since.
    """
    client, name = connect(), model_name(dataset)
    with _moving(dataset, version, champion):
        why = {"promoted_over": champion or "none", "promoted_because": reason or "the gate let it through"}
        _tag(client, name, version, why | _signature("promoted"))
        _set_previous(client, name, champion)
        client.set_registered_model_alias(name, "champion", version)
        complete(dataset)
        winner = aliases(dataset).get("champion")  # a server has no lock, so that the last one to write wins
        if winner != version:
            raise LekhaniError(
                f"Someone else made version {winner} the champion of {name} at the same moment, so that version "
                f"{version} is not; compare the two with `lekhani promote --dataset {dataset} --version {version}`."
            )


def rollback(
    dataset: str, reason: str | None = None, check: Callable[[str], Any] = lambda _: None
) -> tuple[str, str | None]:
    """Give the alias `champion` back to `previous`; returns the restored version and the one that it replaces.

    `previous` then names the version that the restored one had itself been promoted over, so that a further rollback
    goes on from there. A rollback that was interrupted is completed instead, and the second value is None. `check` is
    called with the version to restore and raises LekhaniError if it is unfit for use. Raises UsageError when there is
    nothing to go back to.
    """
    name, known = model_name(dataset), aliases(dataset)
    champion, previous = known.get("champion"), known.get("previous")
    if champion is None or previous is None:
        what = "no previous champion" if champion else "no champion"
        hint = "promote a version with `lekhani promote --version N`"
        raise UsageError(f"{name} has {what}, so there is nothing to go back to; {hint}.")
    check(previous)
    client = connect()
    with _moving(dataset, previous, champion):
        if previous != champion:
            why = {"rolled_back_to": previous, "rolled_back_because": reason or "no reason was given"}
            _tag(client, name, champion, why | _signature("rolled_back"))
            client.set_registered_model_alias(name, "champion", previous)
        _set_previous(client, name, _promoted_over(client, name, previous))
        complete(dataset)
    return previous, champion if previous != champion else None


def complete(dataset: str) -> None:
    """Take the last step of a promotion: the champion is no longer a challenger."""
    known, name = aliases(dataset), model_name(dataset)
    if "champion" in known and known.get("challenger") == known["champion"]:
        with registry_errors(f"Could not remove the alias challenger of {name} in"):
            connect().delete_registered_model_alias(name, "challenger")


def record(dataset: str, version: str, run_id: str, files: Sequence[Path], tags: Mapping[str, str]) -> None:
    """Keep a decision with the version that it is about: its files in the version's run, and `tags` on the version."""
    client, name = connect(), model_name(dataset)
    folder = f"gate/{name}-{version}-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    with registry_errors(f"Could not keep the decision on {name} version {version} in", "; nothing was promoted."):
        for path in files:
            client.log_artifact(run_id, str(path), folder)
        _tag(client, name, version, {**tags, "gate.report": f"runs:/{run_id}/{folder}"})
        client.set_tag(run_id, "gate.verdict", tags["gate.verdict"])  # MLflow compares runs, not versions


def check_run(dataset: str, version: str, run_id: str) -> None:
    """Raise LekhaniError unless the run in which a decision would be kept exists."""
    name = model_name(dataset)
    with registry_errors(f"Could not read the run of {name} version {version} in"):
        run = known_or_none(lambda: connect().get_run(run_id)) if run_id else None
    stage = run.info.lifecycle_stage if run else "missing"
    if stage != "active":
        hint = "restore it in MLflow or register the model again"
        raise LekhaniError(f"The run {run_id[:8]} that made {name} version {version} is {stage}; {hint}.")


def author() -> str:
    """Who makes the change: the account that started a GitHub workflow, else the user of this machine."""
    try:
        return os.environ.get("GITHUB_ACTOR") or getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"user {os.getuid()}"


@contextmanager
def _moving(dataset: str, version: str, champion: str | None) -> Iterator[None]:
    """Move the champion alone, as far as the store can ensure that, and only if it is still the one that was known."""
    name = model_name(dataset)
    with (
        registry_errors(f"Could not make version {version} the champion of {name} in", "; run again to finish."),
        exclusive(name),
    ):
        found = aliases(dataset).get("champion")
        if found != champion:
            problem = f"The champion of {name} has changed from version {champion or 'none'} to {found or 'none'}"
            raise LekhaniError(f"{problem} in the meantime; nothing was changed, run again to compare with it.")
        yield


def _tag(client: mlflow.MlflowClient, name: str, version: str, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)


def _signature(action: str) -> dict[str, str]:
    return {f"{action}_by": author(), f"{action}_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}


def _set_previous(client: mlflow.MlflowClient, name: str, version: str | None) -> None:
    if version is None:
        client.delete_registered_model_alias(name, "previous")
    else:
        client.set_registered_model_alias(name, "previous", version)


def _promoted_over(client: mlflow.MlflowClient, name: str, version: str) -> str | None:
    """The champion before `version`; None if there was none, it is gone, or it was itself rolled back to `version`."""
    before = client.get_model_version(name, version).tags.get("promoted_over", "none")
    if before == "none":
        return None
    earlier = known_or_none(lambda: client.get_model_version(name, before))
    return None if earlier is None or earlier.tags.get("rolled_back_to") == version else before
