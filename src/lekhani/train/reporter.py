"""Who hears how training goes: the progress bar, losses.csv and MLflow are reporters."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lekhani.errors import LekhaniError
from lekhani.files import remove, write_text
from lekhani.pictures import Picture, save_png

CURVES = ("losses.csv", "scores.csv", "speed.csv", "samples")
"""What `CurveFiles` writes."""


class Reporter:
    """Ignores everything; subclasses override what they are interested in."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Means since the last call; `values` always holds images_seen, images_per_second and seconds_left."""

    def images(self, step: int, grid: Picture) -> None:
        """A grid of samples from fixed noise, uint8 [H,W]."""

    def scores(self, step: int, values: Mapping[str, float]) -> None:
        """The judge's scores of the generator now; `values` always holds images_seen and judge_fid."""

    def resume(self, step: int) -> None:
        """Training starts, or goes on after `step`; what was reported beyond it will be reported again."""

    def close(self) -> None:
        """Training has ended, well or not."""


class Fanout(Reporter):
    """Passes everything on to several reporters."""

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        for method in ("metrics", "images", "scores", "resume", "close"):
            setattr(self, method, partial(self._all, [getattr(reporter, method) for reporter in reporters]))

    @staticmethod
    def _all(calls: Sequence[Callable[..., None]], *values: Any) -> None:
        for call in calls:
            call(*values)


class CurveFiles(Reporter):
    """losses.csv, scores.csv and speed.csv in `folder`, one row per report with `step` first, and samples/STEP.png.

    speed.csv alone differs between two equal runs. Rows are flushed as they come, so that a killed run keeps its
    curve; when it goes on, rows beyond its checkpoint are dropped.
    """

    def __init__(self, folder: Path) -> None:
        self.losses, self.score_file, self.speed, self.samples = (folder / name for name in CURVES)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        speed = {key: values[key] for key in ("images_seen", "images_per_second")}
        names = [key for key in values if key not in {"images_per_second", "seconds_left"}]
        names.sort(key=_losses_last)
        self._append(self.losses, {"step": float(step), **{name: values[name] for name in names}})
        self._append(self.speed, {"step": float(step), **speed})

    def scores(self, step: int, values: Mapping[str, float]) -> None:
        self._append(self.score_file, {"step": float(step), **values})

    def images(self, step: int, grid: Picture) -> None:
        save_png(grid, self.samples / f"{step:06d}.png", scale=2)

    def resume(self, step: int) -> None:
        with _writing(self.losses):
            self.samples.mkdir(parents=True, exist_ok=True)
            for path in self.samples.glob("*.png"):  # grids of another run would pass for this one's
                if step == 0 or not path.stem.isdecimal() or int(path.stem) > step:
                    remove(path)
            for path in (self.losses, self.score_file, self.speed):
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if step and path.exists() else []
                kept = [line for i, line in enumerate(lines) if i == 0 or float(line.split(",")[0]) <= step]
                write_text(path, "".join(kept))

    def _append(self, path: Path, row: Mapping[str, float]) -> None:
        with _writing(path), path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if not file.tell():
                writer.writeheader()
            writer.writerow({key: f"{value:.6g}" for key, value in row.items()})


def _losses_last(name: str) -> tuple[bool, bool, str]:
    """Sorts columns so that the generator's loss is the last one, which `dvc plots` draws unless it is told another."""
    is_loss = name.startswith("loss")
    return is_loss, name == "loss", name if is_loss else ""


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = f"Could not write {path}: {error.strerror or error}"
        raise LekhaniError(f"{problem}; free space or check permissions, then run again.") from error
