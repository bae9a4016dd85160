"""Training beside textbook loops on the same device."""

from functools import partial

from gpu_phases.common import Results, Run, check, conclude
from train import HEAD, measure, row

VARIANTS = ("dcgan", "cgan", "draw", "r3gan", "flow_matching", "turbo", "drifting")
MINIATURE = ("cgan", "flow_matching", "turbo", "drifting")  # one for each kind of textbook step but DRAW's


def speed(run: Run, results: Results) -> None:
    """Images per second of each variant at full size."""
    found: Results = results.setdefault("variants", {})
    names = MINIATURE if run.miniature else VARIANTS
    for number, name in enumerate(names):
        # A third goes to building, warming up and counting.
        seconds = 0.3 if run.miniature else 0.65 * max(0.0, run.left()) / (len(names) - number)
        turns = 1 if run.miniature else 5
        work = partial(measure, name, run.full, run.data.train, run.device, seconds, turns, run.sides)
        check(run, found, name, work)
        run.save()
    print(HEAD)
    for name, one in found.items():
        if one["state"] == "passed":
            print(row(name, one))
    conclude(results, found)
