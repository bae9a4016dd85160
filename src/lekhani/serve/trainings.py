"""Trainings of this project's folder: the curves and samples that each writes, while it runs and afterwards."""

import base64
import io
import math
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lekhani import params
from lekhani.data.spec import DatasetInfo
from lekhani.errors import LekhaniError
from lekhani.files import read_input, reading
from lekhani.paths import CHECKPOINTS, PREPARED, REPORTS

MOST = 12  # trainings
POINTS = 300  # of a curve
ALIVE_SECONDS = 120.0  # since a training wrote something
MAX_BYTES = 32 << 20  # of a file
_NAME = re.compile(r"[\w.-]{1,100}")


def trainings() -> list[dict[str, Any]]:
    """The latest trainings, the newest first; what is damaged or half written is left out.

    One that runs or was interrupted is in checkpoints/D/V, one that is complete in reports/D/V.
    """
    found: dict[tuple[str, str], tuple[float, Path]] = {}
    for root in (REPORTS, CHECKPOINTS):  # a training that began anew hides the one before
        for losses in root.glob("*/*/losses.csv"):
            variant = losses.parent
            names = variant.parent.name, variant.name
            if all(map(_NAME.fullmatch, names)):
                found[names] = _updated(variant), variant
    newest = sorted(found.items(), key=lambda one: -one[1][0])[:MOST]
    chosen = _params()
    return [_described(*names, folder, updated, chosen) for names, (updated, folder) in newest]


def _updated(folder: Path) -> float:
    """When a training wrote last, in seconds since 1970."""
    latest = 0.0
    for path in (*folder.glob("*"), *folder.glob("samples/*.png")):
        with suppress(OSError):  # what is being replaced
            latest = max(latest, path.stat().st_mtime)
    return latest


def _described(dataset: str, variant: str, folder: Path, updated: float, p: params.Params | None) -> dict[str, Any]:
    unfinished = folder.is_relative_to(CHECKPOINTS)
    losses = list(_rows(folder / "losses.csv"))
    seen = losses[-1]["images_seen"] if losses else 0
    return {
        "dataset": dataset,
        "variant": variant,
        "images_seen": seen,
        "total": _total(p, dataset, variant, seen) if unfinished else seen,
        "updated": f"{datetime.fromtimestamp(updated, UTC):%Y-%m-%dT%H:%M:%SZ}",
        "running": unfinished and time.time() - updated < ALIVE_SECONDS,
        "curves": _curves(losses) | _curves(list(_rows(folder / "scores.csv"))),
        "grid": _grid(folder / "samples"),
    }


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table of numbers; those that are damaged or half written are left out."""
    try:
        lines = read_input(path, MAX_BYTES).decode().splitlines(keepends=True)
    except (OSError, UnicodeDecodeError):
        return
    names = lines[0].strip().split(",") if lines else []
    if "images_seen" not in names:
        return
    for line in lines[1:]:
        with suppress(ValueError):
            row = dict(zip(names, map(float, line.split(",")), strict=True))
            if line.endswith("\n") and all(map(math.isfinite, row.values())):
                yield {**row, "images_seen": int(row["images_seen"])}


def _curves(rows: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Values over images seen by name, at most POINTS of each."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(POINTS, len(rows))).round().astype(int)).tolist()
    names = [name for name in rows[0] if name not in {"step", "images_seen"}] if rows else []
    return {name: [(rows[i]["images_seen"], rows[i][name]) for i in places] for name in names}


def _grid(folder: Path) -> str | None:
    """The newest samples, a PNG in base64."""
    pictures = (path for path in folder.glob("*.png") if path.stem.isdecimal())
    for path in sorted(pictures, key=lambda one: -int(one.stem)):
        with suppress(LekhaniError), reading(path):
            content = read_input(path, MAX_BYTES)
            Image.open(io.BytesIO(content), formats=("PNG",)).verify()
            return base64.b64encode(content).decode()
    return None


def _params() -> params.Params | None:
    with suppress(params.ParamsError):
        return params.load()
    return None


def _total(p: params.Params | None, dataset: str, variant: str, seen: int) -> int | None:
    """The images that a training will have seen, as `stages.train` computes them; None where that cannot be known."""
    choice = getattr(p.variants, variant, None) if p else None
    prepared = PREPARED / dataset / "dataset.json"
    if p is not None and isinstance(choice, params.VariantSettings):
        with suppress(LekhaniError), reading(prepared):
            classes = DatasetInfo.from_json(prepared.read_bytes()).n_classes
            total = round(p.train.images_seen.images(classes) * float(choice.budget))
            return total if seen < total + choice.batch_size else None  # else params.yaml was changed since
    return None
