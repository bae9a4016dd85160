"""What a run shows on its page in Prefect: leaderboard, samples, links to MLflow's runs, the report of a failed validation."""

import base64
import os
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact

from lekhani import files
from lekhani.params import Params


def key(*words: str) -> str:
    """An artifact's key, which takes small letters, digits and dashes only."""
    return "-".join(words).replace("_", "-")


@task(task_run_name="artifacts")
def publish(folder: Path, p: Params) -> None:
    """Show the leaderboard, some samples of each variant, and where MLflow has its run."""
    create_markdown_artifact((folder / "reports/leaderboard.md").read_text(encoding="utf-8"), key="leaderboard")
    for dataset in p.data:
        create_markdown_artifact(samples(folder, dataset, p.pipeline.everyone), key=key("samples", dataset))
    if p.tracking.backend == "mlflow":
        create_markdown_artifact(runs(folder, p), key="mlflow-runs")


@task(task_run_name="artifacts")
def publish_validation(folder: Path, dataset: str) -> None:
    """Show why data were found unfit to train on."""
    report = folder / "reports" / dataset / "validation.md"
    if report.exists():
        create_markdown_artifact(report.read_text(encoding="utf-8"), key=key("validation", dataset))


def samples(folder: Path, dataset: str, variants: tuple[str, ...]) -> str:
    """Markdown with a strip of each variant's images in it, since the server that shows it need not see this disk."""
    strips = {variant: (folder / "reports/scorecards" / f"{dataset}-{variant}" / "strip.png").read_bytes() for variant in variants}
    shown = [f"## {variant}\n\n![{variant}](data:image/png;base64,{base64.b64encode(png).decode()})\n" for variant, png in strips.items()]
    return "\n".join([f"# {dataset}\n", *shown])


def runs(folder: Path, p: Params) -> str:
    """Markdown with a link to the MLflow run of each training."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    server = uri.rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    rows = []
    for dataset in p.data:
        for variant in p.pipeline.everyone:
            run = files.read_json(folder / "models" / dataset / variant / "training.json")["mlflow_run_id"]
            rows.append(f"| {dataset} | {variant} | [{run}]({server}/#/runs/{run}) |")
    start = "" if uri.startswith("http") else "`make ui` starts the server that these links lead to.\n\n"
    return "\n".join([f"{start}| dataset | variant | run |", "| --- | --- | --- |", *rows, ""])
