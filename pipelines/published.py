"""A run's artifacts in Prefect: leaderboard, samples, links to MLflow's runs, the report of a failed validation."""

import base64
import os
from collections.abc import Mapping
from contextlib import chdir, suppress
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact

from lekhani import files
from lekhani.errors import LekhaniError, redacted
from lekhani.params import Params
from lekhani.stages.artefacts import Training


def artifact_key(*words: str) -> str:
    """An artifact's key, which takes small letters, digits and dashes only."""
    return "-".join(words).replace("_", "-")


@task(task_run_name="artifacts")
def publish(folder: Path, p: Params) -> None:
    """Show the leaderboard, some samples of each variant, and where MLflow has its run."""
    create_markdown_artifact((folder / "reports/leaderboard.md").read_text(encoding="utf-8"), key="leaderboard")
    for dataset in p.pipeline.datasets:
        if page := samples_page(folder, dataset, p.pipeline.everyone):
            create_markdown_artifact(page, key=artifact_key("samples", dataset))
    if p.tracking.backend == "mlflow" and (page := runs_page(folder, p)):
        create_markdown_artifact(page, key="mlflow-runs")


@task(task_run_name="validation-report@{dataset}")
def publish_validation(folder: Path, dataset: str) -> None:
    """Show why data were found unfit to train on."""
    report = folder / "reports" / dataset / "validation.md"
    if report.exists():
        create_markdown_artifact(report.read_text(encoding="utf-8"), key=artifact_key("validation", dataset))


def samples_page(folder: Path, dataset: str, variants: tuple[str, ...]) -> str:
    """Markdown with a strip of each variant's images; "" when there is none.

    The images are in the text itself, since the server that shows it need not see this disk.
    """
    found = {variant: folder / "reports/scorecards" / f"{dataset}-{variant}" / "strip.png" for variant in variants}
    strips = {variant: base64.b64encode(path.read_bytes()).decode() for variant, path in found.items() if path.exists()}
    shown = [f"## {variant}\n\n![{variant}](data:image/png;base64,{png})\n" for variant, png in strips.items()]
    return "\n".join([f"# {dataset}\n", *shown]) if shown else ""


def runs_page(folder: Path, p: Params) -> str:
    """Markdown with a link to the MLflow run of each training; "" when there is none."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    server = redacted(uri).rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    rows = []
    for dataset in p.pipeline.datasets:
        for variant in p.pipeline.everyone:
            facts = folder / "models" / dataset / variant / "training.json"
            if facts.exists() and (run := training_run(folder, p, files.read_checked(facts, Training))):
                rows.append(f"| {dataset} | {variant} | [{run}]({server}/#/runs/{run}) |")
    if not rows:
        return ""
    start = "" if uri.startswith("http") else "`make ui` starts the server that these links lead to.\n\n"
    return "\n".join([f"{start}| dataset | variant | run |", "| --- | --- | --- |", *rows, ""])


def training_run(folder: Path, p: Params, facts: Mapping[str, Any]) -> str | None:
    """The id of the MLflow run of a training; None where MLflow does not know it or does not answer."""
    from lekhani.tracking import runs

    with chdir(folder), suppress(LekhaniError):
        run = runs.find_run(p.tracking.experiment, facts)
        return str(run.info.run_id) if run else None
    return None
