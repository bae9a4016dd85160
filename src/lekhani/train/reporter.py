"""How training tells what happens: one small protocol, implemented by the progress bar, losses.csv and MLflow."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from lekhani.errors import LekhaniError
from lekhani.files import remove, write_text
from lekhani.pictures import Picture, save_png


class Reporter(Protocol):
    """Whoever wants to know how training goes."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Means since the last call; `values` always holds images_seen, images_per_second and seconds_left."""

    def images(self, step: int, grid: Picture) -> None:
        """A grid of samples from fixed noise, uint8 [H,W]."""

    def scores(self, step: int, values: Mapping[str, float]) -> None:
        """What the judge says of the generator now; `values` always holds images_seen and judge_fid."""

    def resume(self, step: int) -> None:
        """Training starts, or goes on after `step`; what was reported beyond it will be reported again."""

    def close(self) -> None:
        """Training has ended, well or not."""


class Silent:
    """Tells nobody: for the processes that only help."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See Reporter."""

    def images(self, step: int, grid: Picture) -> None:
        """See Reporter."""

    def scores(self, step: int, values: Mapping[str, float]) -> None:
        """See Reporter."""

    def resume(self, step: int) -> None:
        """See Reporter."""

    def close(self) -> None:
        """See Reporter."""


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

    def scores(self, step: int, values: Mapping[str, float]) -> None:
        """See Reporter."""
        for reporter in self.reporters:
            reporter.scores(step, values)

    def resume(self, step: int) -> None:
        """See Reporter."""
        for reporter in self.reporters:
            reporter.resume(step)

    def close(self) -> None:
        """See Reporter."""
        for reporter in self.reporters:
            reporter.close()


class LossFile:
    """losses.csv and scores.csv, one row per report with `step` first, and samples/STEP.png.

    Rows are flushed as they come, so that a killed run keeps its curve; when it goes on, rows beyond its checkpoint are dropped.
    """

    def __init__(self, losses: Path, scores: Path, samples: Path) -> None:
        self.losses, self.score_file, self.samples = losses, scores, samples

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See Reporter."""
        self._append(self.losses, {"step": float(step), **values})

    def scores(self, step: int, values: Mapping[str, float]) -> None:
        """See Reporter."""
        self._append(self.score_file, {"step": float(step), **values})

    def images(self, step: int, grid: Picture) -> None:
        """See Reporter."""
        save_png(grid, self.samples / f"{step:06d}.png", scale=2)

    def resume(self, step: int) -> None:
        """See Reporter."""
        with _writing(self.losses):
            self.samples.mkdir(parents=True, exist_ok=True)
            for picture in self.samples.glob("*.png"):  # grids of another run would pass for this one's
                if step == 0 or not picture.stem.isdecimal() or int(picture.stem) > step:
                    remove(picture)
            for path in (self.losses, self.score_file):
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if step and path.exists() else []
                write_text(
                    path, "".join(line for i, line in enumerate(lines) if i == 0 or float(line.split(",")[0]) <= step)
                )

    def close(self) -> None:
        """See Reporter."""

    def _append(self, path: Path, row: Mapping[str, float]) -> None:
        with _writing(path), path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if not file.tell():
                writer.writeheader()
            writer.writerow({key: f"{value:.6g}" for key, value in row.items()})


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LekhaniError(
            f"Could not write {path}: {error.strerror or error}; free space or check permissions, then run again."
        ) from error
