"""How training tells what happens: one small protocol, implemented by the progress bar, losses.csv and MLflow."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TextIO

from lekhani.errors import LekhaniError
from lekhani.files import remove
from lekhani.pictures import Picture, save_png


class Reporter(Protocol):
    """Whoever wants to know how training goes."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Means since the last call; `values` always holds images_seen, images_per_second and seconds_left."""

    def images(self, step: int, grid: Picture) -> None:
        """A grid of samples from fixed noise, uint8 [H,W]."""

    def close(self) -> None:
        """Training has ended, well or not."""


class Fanout:
    """Tells several reporters the same."""

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        self.reporters = reporters

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See Reporter."""
        for reporter in self.reporters:
            reporter.metrics(step, values)

    def images(self, step: int, grid: Picture) -> None:
        """See Reporter."""
        for reporter in self.reporters:
            reporter.images(step, grid)

    def close(self) -> None:
        """See Reporter."""
        for reporter in self.reporters:
            reporter.close()


class LossFile:
    """losses.csv, one row per report with `step` first, and samples/STEP.png."""

    def __init__(self, losses: Path, samples: Path) -> None:
        self.losses, self.samples = losses, samples
        remove(samples)  # grids of an earlier run would pass for this one's
        try:
            samples.mkdir(parents=True)
            losses.parent.mkdir(parents=True, exist_ok=True)
            self.file: TextIO = losses.open("w", newline="", encoding="utf-8")
        except OSError as error:
            raise LekhaniError(f"Could not write {losses}: {error.strerror or error}; free space or check permissions, then run again.") from error
        self.writer: csv.DictWriter[str] | None = None

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See Reporter; rows are flushed, so that a killed run keeps its curve."""
        row = {"step": float(step), **values}
        try:
            if self.writer is None:
                self.writer = csv.DictWriter(self.file, list(row), lineterminator="\n")
                self.writer.writeheader()
            self.writer.writerow({key: f"{value:.6g}" for key, value in row.items()})
            self.file.flush()
        except OSError as error:
            raise LekhaniError(f"Could not write {self.losses}: {error.strerror or error}; free space, then run again.") from error

    def images(self, step: int, grid: Picture) -> None:
        """See Reporter."""
        save_png(grid, self.samples / f"{step:06d}.png", scale=2)

    def close(self) -> None:
        """See Reporter."""
        self.file.close()
