"""A report for each day: what was served, and its quality against the scorecards, as DATE.json and DATE.md."""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lekhani import files
from lekhani.serve.champions import Champions, ServedModel
from lekhani.text import markdown_table

WRITE_SECONDS = 600  # between two times that today's report is written


class DailyReport:
    """Keeps today's report and writes it into `folder`; None writes none."""

    def __init__(self, champions: Champions, folder: Path | None) -> None:
        self.champions, self.folder = champions, folder
        self.day = _today()
        self._written = time.monotonic()
        self._before: dict[str, int] = {}  # by model, the images written before the day began
        self._alarms: dict[tuple[str, str], str] = {}  # by model and measure, the time of the first one today

    async def update(self, end: bool = False) -> None:
        """Note alarms, and write the report now and then, when the day is over, and at the `end` of the server."""
        served = list(self.champions.served.values())
        for model in served:
            for measure, one in model.measures.items():
                if one.alarm:
                    self._alarms.setdefault((_name(model), measure), f"{datetime.now(UTC):%H:%M:%SZ}")
        over = _today() != self.day
        if self.folder is not None and (end or over or time.monotonic() - self._written > WRITE_SECONDS):
            await asyncio.to_thread(write_report, self.folder, self._report())
            self._written = time.monotonic()
        if over:
            self.day, self._alarms = _today(), {}
            self._before = {_name(model): model.written for model in served}

    def _report(self) -> dict[str, Any]:
        models = [
            {
                **model.describe(),
                "images": model.written - self._before.get(_name(model), 0),
                "watch": model.describe_measures(),
            }
            for model in self.champions.served.values()
        ]
        alarms = [{"model": model, "measure": measure, "first": at} for (model, measure), at in self._alarms.items()]
        return {"day": self.day, "models": models, "alarms": alarms, "trouble": dict(self.champions.trouble)}


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write DATE.json and DATE.md."""
    day = report["day"]
    lines = [f"# Served on {day}", ""]
    for model in report["models"]:
        lines += [f"## {model['dataset']} {model['version'] or 'from a file'}, {model['sha256'][:12]}", ""]
        lines += [f"{model['images']:,} images.", ""]
        if model["watch"]:
            rows = []
            for name, one in model["watch"].items():
                figures = (one[key] for key in ("value", "expected", "bound"))
                rows.append((name, *("" if x is None else f"{x:.4g}" for x in figures), "**alarm**" * one["alarm"]))
            lines += [*markdown_table(("measure", "value", "expected", "bound", ""), rows), ""]
    alarms = [f"- Alarm: {one['measure']} of {one['model']}, first at {one['first']}" for one in report["alarms"]]
    lines += alarms or ["No alarms."]
    lines += [f"- {dataset}: {sentence}" for dataset, sentence in report["trouble"].items()]
    files.write_json(folder / f"{day}.json", report)
    files.write_text(folder / f"{day}.md", "\n".join(lines) + "\n")


def _name(model: ServedModel) -> str:
    return f"{model.dataset} {model.version or model.generator.sha256[:12]}"


def _today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"
