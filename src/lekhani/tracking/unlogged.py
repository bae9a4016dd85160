"""What MLflow could not be told while it was away: mlruns/unlogged/RUN/, logged once it answers again."""

import json
import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
from filelock import FileLock, Timeout
from mlflow.entities import Metric, RunTag
from PIL import Image

from lekhani import files
from lekhani.errors import LekhaniError, first_line
from lekhani.pictures import Picture, save_png
from lekhani.tracking.store import connect, is_active, mlflow_errors, root

log = logging.getLogger("lekhani")


def now() -> int:
    """Milliseconds since 1970, as MLflow counts them."""
    return int(time.time() * 1000)


class Item(NamedTuple):
    """One thing to log to a run: metrics or a grid of samples at a step, or its tags and its end."""

    at: int  # milliseconds since 1970
    step: int = 0
    metrics: Mapping[str, float] | None = None
    image: Picture | None = None  # uint8 [H,W]
    tags: Mapping[str, str] | None = None
    status: str | None = None

    def log(self, client: mlflow.MlflowClient, run_id: str) -> None:
        """Log it now."""
        if self.metrics or self.tags:
            metrics = [Metric(key, value, self.at, self.step) for key, value in (self.metrics or {}).items()]
            client.log_batch(run_id, metrics, tags=[RunTag(key, value) for key, value in (self.tags or {}).items()])
        if self.image is not None:
            grid = self.image[:, :, None]
            client.log_image(run_id, grid, key="samples", step=self.step, timestamp=self.at, synchronous=True)
        if self.status:
            client.set_terminated(run_id, self.status, self.at)


def keep(run_id: str, items: Iterable[Item]) -> None:
    """Write items of a run to its folder, after those that are there: a line each in items.jsonl, images as PNG."""
    folder, lines = root() / "unlogged" / run_id, []
    for item in items:
        told = {key: value for key, value in item._asdict().items() if value is not None}
        if item.image is not None:
            told["image"] = f"{item.step:06d}.png"
            save_png(item.image, folder / told["image"])
        lines.append(json.dumps(told) + "\n")
    path = folder / "items.jsonl"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    files.write_text(path, before + "".join(lines))
    message = "MLflow still does not answer; the next stage that it does answer logs what is in %s."
    log.warning(message, folder)


@mlflow_errors()
def log_kept() -> None:
    """Log what all runs of this store have left, and remove it; what cannot be read is left with a warning."""
    if not (kept := sorted((root() / "unlogged").glob("*/items.jsonl"))):
        return
    client = connect()
    with suppress(Timeout), FileLock(root() / "unlogged.lock", timeout=0):  # another process may be at it
        for path in kept:
            try:
                if path.exists() and is_active(client, path.parent.name):
                    _log_folder(client, path)
            except LekhaniError as error:
                log.warning("%s", error)


def _log_folder(client: mlflow.MlflowClient, path: Path) -> None:
    with files.reading(path, "remove its folder, which MLflow then never hears of"):
        items = [_item(json.loads(line), path.parent) for line in path.read_text(encoding="utf-8").splitlines()]
    for item in items:
        item.log(client, path.parent.name)
    files.remove(path.parent)


def _item(told: dict[str, Any], folder: Path) -> Item:
    if "image" in told:
        with Image.open(folder / Path(told["image"]).name) as picture:
            told["image"] = np.asarray(picture.convert("L"))
    return Item(**told)


def try_to_log(run_id: str, item: Item) -> None:
    """Log an item after all that its run has left, or keep it with that where MLflow does not answer."""
    try:
        log_kept()
        item.log(connect(), run_id)
    except Exception as error:  # MLflow, its database and its transport raise many kinds, and training must not fail
        log.warning("MLflow does not answer (%s).", first_line(error))
        keep(run_id, [item])
