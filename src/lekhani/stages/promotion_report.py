"""What a pull request would change, as a page: the gate's decisions, the leaderboard before and after, the glyphs."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from lekhani import files
from lekhani.paths import REPORTS
from lekhani.registry.gate import checks_table
from lekhani.registry.models import model_name
from lekhani.stages.candidates import Comparison
from lekhani.stages.promote import Outcome
from lekhani.text import code, escaped, markdown_table, pluralize

SHOWN = ("fid", "fid_ratio", "label_agreement", "recall", "near_copies", "usefulness", "latency_ms")
Row = Mapping[str, str]  # of leaderboard.csv


def write_report(outcomes: Mapping[str, Outcome], folder: Path, base: Path | None = None) -> None:
    """Write promotion.md with the pictures that it shows, and promotion.json: the verdict by dataset.

    `base` is the leaderboard.csv of the branch to compare with; a file that is not there is said.
    """
    lines = [f"- **{model_name(dataset)}**: {_in_short(one)}" for dataset, one in outcomes.items()] + [""]
    for dataset, outcome in outcomes.items():
        lines += _decision(outcome)
        if outcome.comparison:
            lines += _grids(dataset, outcome.comparison, folder)
    if base is not None:
        lines += ["## Leaderboard, before and after", "", *_changes(base)]
    files.write_text(folder / "promotion.md", "\n".join(lines) + "\n")
    verdicts = {True: "promote", False: "refuse", None: "no candidate"}
    files.write_json(folder / "promotion.json", {dataset: verdicts[one.promote] for dataset, one in outcomes.items()})


def _in_short(outcome: Outcome) -> str:
    if outcome.comparison is None:
        return outcome.text.splitlines()[0].partition(": ")[2]
    return outcome.comparison.decision.verdict


def _decision(outcome: Outcome) -> list[str]:
    """The heading, the checks that failed, and all of them folded away."""
    if outcome.comparison is None:
        return [outcome.text]
    decision = outcome.comparison.decision
    lines = [outcome.text.splitlines()[0], "", decision.verdict, ""]
    if decision.failed:
        lines += [*checks_table(decision.failed), ""]
    summary = f"<details><summary>All {pluralize(len(decision.checks), 'check')}</summary>"
    return [*lines, summary, "", *checks_table(decision.checks), "", "</details>", ""]


def _grids(dataset: str, comparison: Comparison, folder: Path) -> Iterator[str]:
    """The glyphs of candidate and champion, one below the other, so that they have one scale."""
    shown = {"candidate": comparison.candidate, "champion": comparison.champion}
    for role, one in shown.items():
        if one and one.grid.is_file():
            name = f"{dataset}-{role}.png"
            with files.replacing(folder / name) as target:
                shutil.copyfile(one.grid, target)
            yield from (f"{role.capitalize()}, {escaped(one.name)}:", "", f"![{role} of {dataset}]({name})", "")


def _changes(base: Path) -> list[str]:
    """A table per dataset: a row per variant, a cell per metric with its value before and after."""
    if not base.is_file():
        return ["The base branch has no leaderboard that could be read, so there is nothing to compare with."]
    before, after = (_by_model(path) for path in (base, REPORTS / "leaderboard.csv"))
    if before == after:
        return ["Every figure is as it was."]
    lines = []
    for dataset in dict.fromkeys(dataset for dataset, _ in (*after, *before)):
        variants = dict.fromkeys(variant for of, variant in (*after, *before) if of == dataset)
        pairs = {one: (before.get((dataset, one), {}), after.get((dataset, one), {})) for one in variants}
        names = [name for name in SHOWN if any(row.get(name) for pair in pairs.values() for row in pair)]
        rows = [
            [f"`{code(one)}`", *(_change(*(row.get(name, "") for row in pair)) for name in ("place", *names))]
            for one, pair in pairs.items()
        ]
        lines += [f"### {escaped(dataset)}", "", *markdown_table(["variant", "place", *names], rows), ""]
        if any(old and new and old["judge_sha256"] != new["judge_sha256"] for old, new in pairs.values()):
            lines += ["Another judge scored these, so the figures before and after are not of one scale.", ""]
    return lines


def _by_model(path: Path) -> dict[tuple[str, str], Row]:
    rows = files.read_csv(path, ("dataset", "place", "variant", "judge_sha256"), SHOWN, blank=True)
    return {(row["dataset"], row["variant"]): row for row in rows}


def _change(before: str, after: str) -> str:
    """One value where nothing changed, else both; a dash for none."""
    old, new = (_short(value) for value in (before, after))
    return new if old == new else f"{old} → **{new}**"


def _short(value: str) -> str:
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return escaped(value) or "-"
