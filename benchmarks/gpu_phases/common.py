"""What every phase of benchmarks/gpu.py gets, and how it notes what it finds."""

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lekhani import params
from lekhani.data.spec import DEVANAGARI, Bytes, Labels
from lekhani.errors import first_line
from lekhani.train.loop import Trainer, TrainerConfig
from lekhani.variants import VARIANTS, Variant

CPU = torch.device("cpu")
SEED, SIDE, CLASSES = 7, 32, DEVANAGARI
Results = dict[str, Any]


class CheckError(Exception):
    """What a phase was to prove is not so."""


class SkipError(Exception):
    """A phase cannot run here, and that is no fault."""


@dataclass(frozen=True)
class Data:
    """Images uint8 [N,32,32], white on black, with labels int64 [N] of the 46 classes."""

    train: tuple[Bytes, Labels]
    test: tuple[Bytes, Labels]


@dataclass
class Run:
    """The device, the choices and the clock. `full` and `quick` are the two profiles."""

    device: torch.device
    full: params.Params
    quick: params.Params
    data: Data
    out: Path
    miniature: bool
    save: Callable[[], None]
    """Writes all that was found until now."""
    flow_seconds: float
    student: str
    student_seconds: float
    judge_images: int
    compiled: bool
    deadline: float = field(default=0.0)
    """When the present phase is to be done, on time.perf_counter's clock."""

    def left(self) -> float:
        """Seconds that the present phase has."""
        return self.deadline - time.perf_counter()

    @property
    def sides(self) -> tuple[int, ...]:
        """Of the matrix products of peak_flops; none: large ones."""
        return (512,) if self.miniature else ()

    def trainer(self, name: str, p: params.Params, images_seen: int, **changes: Any) -> Trainer:
        """The loop for a variant on the device, without scores and sample grids; `changes` to its config."""
        settings = getattr(p.variants, name)
        teacher: nn.Module | None = changes.pop("teacher", None)

        def build(device: torch.device) -> Variant:
            variant = VARIANTS[name].build(p.variants, SIDE, len(CLASSES), device)
            if teacher is not None:
                variant.learn_from(teacher)
            return variant

        config: dict[str, Any] = {
            "build": build,
            "images": self.data.train[0],
            "labels": self.data.train[1],
            "images_seen": images_seen,
            "batch_size": settings.batch_size,
            "ema_decay": settings.ema_decay,
            "ema_start": settings.ema_start,
            "seed": SEED,
            "settings": p.train.model_copy(update={"score_every": 0, "sample_every": 10**12}),
            "device": self.device,
        }
        return Trainer(TrainerConfig(**{**config, **changes}))


def check(run: Run, results: Results, name: str, work: Callable[[], Mapping[str, Any]]) -> None:
    """Note what `work` found, or how it failed; past the phase's deadline it is left out."""
    start = time.perf_counter()
    if run.left() <= 0:
        results[name] = {"state": "left out"}
        return
    try:
        results[name] = {"state": "passed", **work()}
    except Exception as error:  # whatever it is, the next check is to run
        results[name] = {"state": "failed", "error": described(error), "traceback": traceback.format_exc()}
    results[name]["seconds"] = round(time.perf_counter() - start, 2)


def conclude(results: Results, counted: Mapping[str, Any]) -> None:
    """Sum `counted` checks up in `results`; raises CheckError that names those that failed."""
    states = [one["state"] for one in counted.values()]
    results["left_out"] = [name for name, one in counted.items() if one["state"] == "left out"]
    results["headline"] = f"{states.count('passed')} of {len(states)} passed"
    if results["left_out"]:
        results["headline"] += f", {len(results['left_out'])} left out for lack of time"
    failed = [f"{name}: {one['error']}" for name, one in counted.items() if one["state"] == "failed"]
    if failed:
        raise CheckError(f"{len(failed)} of {len(states)} failed; {'; '.join(failed)}")


def described(error: BaseException) -> str:
    """An error in one line, with its class where that says more."""
    return first_line(error) if isinstance(error, CheckError) else f"{type(error).__name__}: {first_line(error)}"


def require(name: str, value: float, most: float) -> float:
    """`value`, rounded, where it is at most so much; raises CheckError otherwise, also for NaN."""
    if not value <= most:
        raise CheckError(f"{name} is {value:.3g}, more than {most:.3g}")
    return float(f"{value:.3g}")
