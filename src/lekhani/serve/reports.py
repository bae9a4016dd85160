"""What was written day by day and how it held up against what was promised: reports/serving/DATE.{json,md}."""

import asyncio
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lekhani import files

if TYPE_CHECKING:
    from lekhani.serve.champions import Champions, Served

OFTEN = 600  # seconds between two times that today's report is written


class Diary:
    """Keeps today's report; a `folder` of None keeps none."""

    def __init__(self, champions: "Champions", folder: Path | None) -> None:
        self.champions, self.folder = champions, folder
        self.day = _today()
        self._written = time.monotonic()
        self._before: dict[str, int] = {}  # by model, the images written before the day began
        self._alarms: dict[tuple[str, str], str] = {}  # by model and measure, when it was first heard today

    async def note(self, end: bool = False) -> None:
        """Write the report now and then, when the day is over, and when the server ends."""
        self._hear()
        over = _today() != self.day
        if self.folder is not None and (end or over or time.monotonic() - self._written > OFTEN):
            await asyncio.to_thread(write, self.folder, self.day, self._report())
            self._written = time.monotonic()
        if over:
            self.day, self._alarms = _today(), {}
            self._before = {_name(served): served.written for served in self.champions.served.values()}

    def _hear(self) -> None:
        for served in self.champions.served.values():
            for measure, one in served.measures.items():
                if one.alarm:
                    self._alarms.setdefault((_name(served), measure), f"{datetime.now(UTC):%H:%M:%SZ}")

    def _report(self) -> dict[str, Any]:
        models = [
            {
                **served.about(),
                "images": served.written - self._before.get(_name(served), 0),
                "watch": told(served),
            }
            for served in self.champions.served.values()
        ]
        alarms = [{"model": model, "measure": measure, "first": at} for (model, measure), at in self._alarms.items()]
        return {"day": self.day, "models": models, "alarms": alarms, "trouble": dict(self.champions.trouble)}


def told(served: "Served") -> dict[str, dict[str, float | bool | None]]:
    """What the watch of a model says, by measure."""
    return {name: asdict(one) for name, one in served.measures.items()}


def write(folder: Path, day: str, report: dict[str, Any]) -> None:
    """Write DATE.json and DATE.md."""
    files.write_json(folder / f"{day}.json", report)
    lines = [f"# Served on {day}", ""]
    for model in report["models"]:
        lines += [f"## {model['dataset']} {model['version'] or 'from a file'}, {model['sha256'][:12]}", ""]
        lines += [f"{model['images']:,} images.", ""]
        if model["watch"]:
            lines += ["| measure | value | expected | bound | |", "| --- | --- | --- | --- | --- |"]
            lines += [
                f"| {name} | {one['value']:.4g} | {_figure(one['expected'])} | {_figure(one['bound'])} | {'**alarm**' if one['alarm'] else ''} |"
                for name, one in model["watch"].items()
            ]
            lines.append("")
    lines += [f"- Alarm: {one['measure']} of {one['model']}, first at {one['first']}" for one in report["alarms"]] or [
        "No alarms."
    ]
    lines += [f"- {dataset}: {sentence}" for dataset, sentence in report["trouble"].items()]
    files.write_text(folder / f"{day}.md", "\n".join(lines) + "\n")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _name(served: "Served") -> str:
    return f"{served.dataset} {served.version or served.generator.sha256[:12]}"


def _today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"
