"""Registering and promoting as a Prefect flow: the gate decides, and a refusal is a good end as well.

Run it with `python pipelines/promote.py` (`--help` lists the options).
"""

import argparse
import re
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any

import commands
from commands import RETRIES, ROOT, options, run_name
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from published import artifact_key

from lekhani import files, params
from lekhani.errors import LekhaniError


def is_decided(folder: Path, dataset: str) -> bool:
    """Whether the gate has decided on the leaderboard's best, on the same data, and its promotion is complete.

    Raises LekhaniError when MLflow does not answer.
    """
    from lekhani.registry.models import aliases, tags_of, versions

    columns = ("dataset", "model_sha256", "data_digest")
    leaderboard = files.read_csv(folder / "reports/leaderboard.csv", columns)
    best = next(row for row in leaderboard if row["dataset"] == dataset)  # what `lekhani register` would take
    with chdir(folder):
        known = aliases(dataset)
        if not known:
            return False
        registered = versions(dataset)
    for version in registered:
        tags = tags_of(version)
        if (tags.get("model_sha256"), tags.get("gate.data_digest")) == (best["model_sha256"], best["data_digest"]):
            # A version keeps the alias `challenger` until its promotion is complete.
            promoted = "promoted_over" in tags and str(version.version) != known.get("challenger")
            if promoted or tags.get("gate.verdict") == "refuse":
                return True
    return False


@task(task_run_name="register@{dataset}", **RETRIES)
def register(folder: Path, dataset: str) -> State[Any]:
    """Register the best variant of a dataset; the state is named Cached when the gate has already decided on it."""
    try:
        if is_decided(folder, dataset):
            decided = "The gate has decided on the best variant before, on the same data."
            return Completed(name="Cached", message=decided)
    except LekhaniError as error:
        return Failed(name="Unreachable", message=str(error))
    result = commands.run_command(folder, "lekhani", "register", "--dataset", dataset)
    return commands.failed_state(result) if result.code else Completed(message=result.sentence)


@task(task_run_name="gate@{dataset}", **RETRIES)
def gate(
    folder: Path,
    dataset: str,
    check: bool = False,
    version: str | None = None,
    force: bool = False,
    reason: str | None = None,
) -> State[Any]:
    """Let the gate decide on a dataset's challenger; the state is named Promoted, Refused or Unchanged."""
    words = options(dataset=dataset, check=check, version=version, force=force, reason=reason)
    result = commands.run_command(folder, "lekhani", "promote", *words)
    if result.code not in (0, 3):
        return commands.failed_state(result)
    decision = "\n".join(result.lines[next(i for i, line in enumerate(result.lines) if line.startswith("## ")) :])
    create_markdown_artifact(decision, key=artifact_key("gate", dataset))
    promoted = result.code == 0
    name = ("Promoted" if promoted else "Refused") if "**" in decision else "Unchanged"
    return Completed(name=name, message=outcome(decision, promoted, check))


def outcome(decision: str, promoted: bool, check: bool = False) -> str:
    """A decision, as the Markdown that `lekhani promote` prints, in a few words."""
    heading = decision.splitlines()[0].removeprefix("## ")
    decided = re.match(r"(\S+): (version \S+)", heading)
    if decided is None:  # there was no challenger
        return heading
    reasons = re.search(r"^\*\*Refuse\*\*: .+ (\(.+\))\.$", decision, re.MULTILINE)
    verb = ("would be " if check else "") + ("promoted" if promoted else "refused")
    verb += " by force" if promoted and reasons else ""
    return " ".join([decided[1], decided[2], verb, *([reasons[1]] if reasons else [])])


def _run_name() -> str:
    asked = flow_run.parameters
    which = ", ".join(asked["datasets"] or []) or "all datasets"
    version = asked["version"] and f"version {asked['version']}"
    return run_name(which, version, asked["check"] and "check only", asked["force"] and "by force")


@flow(name="promote", flow_run_name=_run_name)
def promote(
    root: Path = ROOT,
    datasets: list[str] | None = None,
    check: bool = False,
    version: str | None = None,
    force: bool = False,
    reason: str | None = None,
) -> State[Any]:
    """Let the gate decide on the challengers in the registry, and promote those that pass.

    Args:
        root: The project's folder, whose data and judge score them; or one below .dvc/tmp/flows.
        datasets: All of params.yaml when empty.
        check: Only decide, change nothing.
        version: This version instead of the challenger, of one dataset.
        force: Promote whatever the gate says; needs a reason.
        reason: Why, for those who read it later.

    """
    root = root.resolve()
    try:
        names = datasets or list(params.load(root / "params.yaml").pipeline.datasets)
    except params.ParamsError as error:
        return Failed(message=str(error), data=error)
    with commands.terminating_commands():
        states = [gate(root, name, check, version, force, reason, return_state=True) for name in names]
    return commands.combined_state(states)


def main() -> int:
    """Run the flow once, here and now."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--root", type=Path, default=ROOT, help="the project's folder (this one)")
    add("--dataset", action="append", dest="datasets", help="repeat for several; all of params.yaml when left out")
    add("--version", metavar="N", help="this version instead of the challenger")
    add("--check", action="store_true", help="only decide")
    add("--force", action="store_true", help="promote whatever the gate says; needs --reason")
    add("--reason", help="why, for those who read it later")
    given = vars(parser.parse_args())
    return commands.run_flow_here("promote", lambda: promote(**given, return_state=True))


if __name__ == "__main__":
    sys.exit(main())
