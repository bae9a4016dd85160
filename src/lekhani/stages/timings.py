"""What training and export took: times, speeds and memory, in files of their own.

They differ between two runs that are equal otherwise. A stage that depended on them would run again each time and never
come from DVC's run cache, so none does, and those that show them take what is there.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from lekhani import files
from lekhani.paths import REPORTS
from lekhani.stages.artefacts import ExportTiming, TrainTiming

_MODELS: dict[str, type[BaseModel]] = {"train": TrainTiming, "export": ExportTiming}


def path(dataset: str, variant: str, stage: str) -> Path:
    """reports/D/V/STAGE_timing.json."""
    return REPORTS / dataset / variant / f"{stage}_timing.json"


def read(dataset: str, variant: str, missing_ok: bool = False) -> dict[str, Any]:
    """train_seconds, images_per_second, peak_memory_mb and latency_ms of a variant.

    A LekhaniError where a file is missing, unless that is all right.
    """
    found: dict[str, Any] = {}
    for stage, model in _MODELS.items():
        file = path(dataset, variant, stage)
        if file.exists() or not missing_ok:
            found |= files.read_checked(file, model)
    return found


def with_seconds(dataset: str, variant: str, curve: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of curve.csv with the `seconds` that training had taken by then, by speed.csv, where that is known."""
    file, columns = REPORTS / dataset / variant / "speed.csv", ("images_seen", "images_per_second")
    rows = files.read_csv(file, columns, columns) if file.exists() and file.stat().st_size else []
    if not rows:
        return [dict(row) for row in curve]
    seen, speed = (np.array([float(row[name]) for row in rows]) for name in columns)  # speeds from the start on
    spent = np.interp([float(row["images_seen"]) for row in curve], seen, seen / speed)
    return [{**row, "seconds": round(float(taken), 2)} for row, taken in zip(curve, spent, strict=True)]
