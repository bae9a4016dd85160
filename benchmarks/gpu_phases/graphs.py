"""Steps that are replayed from CUDA graphs: the same losses as without, going on from a checkpoint, and the speed.

The last phase, since torch may draw no more random numbers once recording a graph has failed.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from gpu_phases.common import Results, Run, check, conclude, require
from gpu_phases.correctness import (
    EARLY,
    LATE,
    RESUMED,
    STEPS,
    exact,
    loss_columns,
    relative,
    resuming,
    rows,
    short,
)
from textbook import comparable
from train import launches, ours
from train import run as timed

from lekhani.train.loop import Trainer
from lekhani.variants import VARIANTS

SPEED = ("dcgan", "cgan", "draw", "r3gan", "flow_matching", "turbo")
COMPILED = ("flow_matching", "draw")


def graphs(run: Run, results: Results) -> None:
    """Every check by its name; one that fails stops no other."""
    checks: Results = results.setdefault("checks", {})

    def add(name: str, work: Callable[[], Mapping[str, Any]]) -> None:
        check(run, checks, name, partial(renewing, run, work))
        run.save()

    for name in (name for name, kind in VARIANTS.items() if kind.capturable):
        add(f"losses of {name}", partial(same_losses, run, name))
    for name in RESUMED:
        add(f"resuming {name}", partial(resuming, run, name, cuda_graphs=True))
    names = SPEED[:1] if run.miniature else SPEED
    for name in names:
        add(f"speed of {name}", partial(speeds, run, name))
    if run.compiled:  # last, since a compilation takes so long
        for name in COMPILED:
            add(f"speed of {name}, compiled", partial(speeds, run, name, compile=True))
    conclude(results, checks)
    ratios = {name: checks[f"speed of {name}"].get("ratio") for name in names}
    results["headline"] += "; speed of " + ", ".join(f"{name} x{ratio}" for name, ratio in ratios.items() if ratio)


def renewing(run: Run, work: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """What `work` finds; where it fails on a GPU, the device gets new random numbers that are not being recorded."""
    try:
        return work()
    except Exception:
        if run.device.type == "cuda":
            generator = torch.cuda.default_generators[torch.cuda.current_device()]
            generator.graphsafe_set_state(torch.Generator(run.device).graphsafe_get_state())
        raise


def same_losses(run: Run, name: str) -> dict[str, Any]:
    """Losses of steps in float32 with graphs and without, from the same weights and random numbers."""
    steps = 6 if run.miniature else STEPS
    variants = short(run.quick.variants)

    def told(graphs: bool) -> list[dict[str, float]]:
        settings = {"log_every": 1, "precision": "fp32", "cuda_graphs": graphs}
        train = run.quick.train.model_copy(update=settings)
        p = run.quick.model_copy(update={"train": train, "variants": variants})
        trainer = run.trainer(name, p, steps * getattr(variants, name).batch_size)
        trainer.restore()
        return rows(trainer, steps)

    with exact():
        expected, got = told(False), told(True)
    differences = relative(loss_columns(expected), loss_columns(got))
    return {
        "first": require("the first step's difference to a step without graphs", differences[0], EARLY),
        "largest": require(f"that within {steps} steps", max(differences), LATE),
        "differences": differences,
    }


def speeds(run: Run, name: str, **train: Any) -> dict[str, Any]:
    """Images per second of our loop at full size, with graphs and without; `train` to its settings."""
    variants = comparable(run.full.variants)
    seconds, rates, launched = (0.05 if run.miniature else 0.7), {}, {}
    for loop, on in (("lekhani", False), ("graph", True)):
        settings = run.full.train.model_copy(update={"cuda_graphs": on, **train})
        trainer: Trainer = run.trainer(
            name, run.full.model_copy(update={"train": settings, "variants": variants}), 10**9
        )
        trainer.restore()
        steps = ours(trainer)
        for _ in range(3):
            next(steps)  # outside the clock: graphs are recorded here
        rates[loop] = round(timed(steps, seconds, trainer.batch_size, run.device), 1)
        launched[loop] = launches(partial(next, steps), run.device)
    return {
        "images_per_second": rates,
        "ratio": round(rates["graph"] / rates["lekhani"], 2),
        "launches_per_step": launched,
    }
