"""Registering and promoting as a Prefect flow: the gate decides, and a refusal is a good end as well.

Run it with `python pipelines/promote.py` (`--help` lists the options).
"""

import argparse
import re
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any

from commands import RETRIES, ROOT, command, ending_commands, failed, here, summary
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from published import key

from lekhani import files, params
from lekhani.errors import LekhaniError


def leader(folder: Path, dataset: str) -> dict[str, str]:
    """The first row of the leaderboard for a dataset: the variant that `lekhani register` would take."""
    return next(row for row in files.read_csv(folder / "reports/leaderboard.csv") if row["dataset"] == dataset)


def settled(folder: Path, dataset: str) -> bool:
    """Whether the leaderboard's best of a dataset has been registered and the gate has said, on the same data, whether it is promoted.

    Raises LekhaniError when MLflow does not answer.
    """
    from lekhani.registry.models import aliases, model_name
    from lekhani.tracking.store import connect

    best = leader(folder, dataset)
    with chdir(folder):
        known = aliases(dataset)
        if not known:
            return False
        versions = connect().search_model_versions(f"name = '{model_name(dataset)}'")
    for version in versions:
        tags = version.tags
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
        if settled(folder, dataset):
            return Completed(
                name="Cached", message="The gate has decided on the best variant before, on the same data."
            )
    except LekhaniError as error:
        return Failed(name="Unreachable", message=str(error))
    ended = command(folder, "lekhani", "register", "--dataset", dataset)
    return failed(ended) if ended.code else Completed(message=ended.sentence)


@task(task_run_name="gate@{dataset}", **RETRIES)
def gate(
    folder: Path,
    dataset: str,
    check: bool = False,
    version: str | None = None,
    force: bool = False,
    reason: str | None = None,
) -> State[Any]:
    """Let the gate decide on a dataset's challenger; the state is named Promoted or Refused and its message says it in a few words."""
    words = ["lekhani", "promote", "--dataset", dataset]
    words += ["--check"] if check else []
    words += ["--version", version] if version else []
    words += ["--force"] if force else []
    words += ["--reason", reason] if reason else []
    ended = command(folder, *words)
    if ended.code not in (0, 3):
        return failed(ended)
    decision = "\n".join(ended.lines[next(i for i, line in enumerate(ended.lines) if line.startswith("## ")) :])
    create_markdown_artifact(decision, key=key("gate", dataset))
    return Completed(
        name="Refused" if ended.code else "Promoted", message=outcome(decision, promoted=ended.code == 0, check=check)
    )


def outcome(decision: str, promoted: bool, check: bool = False) -> str:
    """A decision, as the Markdown that `lekhani promote` prints, in a few words."""
    heading = decision.splitlines()[0].removeprefix("## ")
    decided = re.match(r"(\S+): (version \S+)", heading)
    if decided is None:  # there was no challenger
        return heading
    reasons = re.search(r"^\*\*Refuse\*\*: .+ (\(.+\))\.$", decision, re.MULTILINE)
    verb = f"{'would be ' if check else ''}{'promoted' if promoted else 'refused'}{' by force' if promoted and reasons else ''}"
    return " ".join([decided[1], decided[2], verb, *([reasons[1]] if reasons else [])])


@flow(name="promote")
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
        names = datasets or list(params.load(root / "params.yaml").data)
    except params.ParamsError as error:
        return Failed(message=str(error), data=error)
    with ending_commands():
        states = [gate(root, name, check, version, force, reason, return_state=True) for name in names]
    return summary(states)


def main() -> int:
    """Run the flow once, here and now."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the project's folder (this one)")
    parser.add_argument("--dataset", action="append", help="repeat for several; all of params.yaml when left out")
    parser.add_argument("--version", metavar="N", help="this version instead of the challenger")
    parser.add_argument("--check", action="store_true", help="only decide")
    parser.add_argument("--force", action="store_true", help="promote whatever the gate says; needs --reason")
    parser.add_argument("--reason", help="why, for those who read it later")
    given = parser.parse_args()
    return here(
        "promote",
        lambda: promote(
            given.root, given.dataset, given.check, given.version, given.force, given.reason, return_state=True
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
