"""Our training loop beside a textbook loop on the same networks, losses, batch size and optimiser.

    python benchmarks/train.py [--variants dcgan cgan draw] [--profile quick] [--seconds 20]
        [--out benchmarks/results/train.json]

The textbook loop is what tutorials show: a DataLoader with two workers and a per-image transform, eager float32 in
torch's default memory format, Adam as it comes, the discriminator's gradients computed in the generator's step too, and
`.item()` of every loss at every step; `resident` is the same without the DataLoader, on data that lies on the device.
Ours is the loop that trains, in the precision that the profile asks for, averaging of the weights included. All loops
take turns in this one process, so that a busy machine slows all of them; ratios are of their medians. On a GPU the peak
memory is the device's. The share of the roofline is the step's floating-point operations, counted by torch, against the
best of several large products, of matrices and by convolution, in the loop's precision, timed before and after.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from origin import origin
from roofline import peak_flops
from textbook import comparable, fill, loaded, resident, textbook
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from lekhani import params
from lekhani.files import write_json
from lekhani.train.devices import pick_device
from lekhani.train.loop import Trainer, TrainerConfig
from lekhani.variants import VARIANTS, Variant
from lekhani.variants.bare_bones import BareBones


def ours(trainer: Trainer) -> Iterator[None]:
    """The loop's own steps and reports, without scores and sample grids, whose number is a matter of settings."""
    while True:
        trainer.step()
        trainer.report()
        yield


def run(steps: Iterator[None], seconds: float, batch_size: int, device: torch.device) -> float:
    """Images per second over about `seconds`."""
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(5):
            next(steps)
        done += 5
        if device.type == "cuda":
            torch.cuda.synchronize()
    return done * batch_size / (time.perf_counter() - start)


def flops_per_image(variant: Variant, batch_size: int, device: torch.device) -> float | None:
    """Floating-point operations of one step per image; None where torch cannot count those of a second derivative."""
    images = torch.rand(batch_size, 1, 32, 32, device=device)
    try:
        with FlopCounterMode(display=False) as counter:
            variant.step(images, torch.zeros(batch_size, dtype=torch.int64, device=device))
    except (AssertionError, RuntimeError):
        return None
    return float(counter.get_total_flops()) / batch_size


def launches(step: Callable[[], object], device: torch.device, steps: int = 3) -> float | None:
    """Kernels that a step launches, as torch's profiler counts them; None where it sees none, as off a GPU."""
    on_gpu = device.type == "cuda"
    try:
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as found:
            for _ in range(steps):
                step()
            if on_gpu:
                torch.cuda.synchronize()
    except RuntimeError:  # some machines do not let their GPU be traced
        return None
    return sum(event.count for event in found.key_averages() if "LaunchKernel" in event.key) / steps or None


def measure(
    name: str,
    p: params.Params,
    data: Any,
    device: torch.device,
    seconds: float,
    turns: int = 5,
    sides: Sequence[int] = (),
) -> dict[str, Any]:
    """All loops by turns; `sides` as in `peak_flops`."""
    choices = comparable(p.variants)
    settings = getattr(choices, name)

    def build(on: torch.device) -> Variant:
        variant = VARIANTS[name].build(choices, 32, 46, on)
        fill(variant, data, on)
        return variant

    torch.manual_seed(7)
    torch.set_flush_denormal(False)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    theirs = [build(device) for _ in range(2)]
    for part in (part for variant in theirs for part in variant.networks()):
        part.to(memory_format=torch.contiguous_format)
    config = TrainerConfig(
        build=build,
        images=data[0],
        labels=data[1],
        images_seen=10**9,
        batch_size=settings.batch_size,
        ema_decay=settings.ema_decay,
        seed=7,
        settings=p.train.model_copy(update={"score_every": 0, "sample_every": 10**12}),
        device=device,
    )
    trainer = Trainer(config)
    trainer.restore()
    fp32 = isinstance(trainer.variant.autocast, nullcontext)
    dtype, size = torch.float32 if fp32 else torch.bfloat16, trainer.batch_size
    peak_flops(device, dtype, tf32=True, sides=sides)
    loops = {
        "textbook": textbook(theirs[0], loaded(data, size, device)),
        "resident": textbook(theirs[1], resident(data, size, device)),
        "lekhani": ours(trainer),
    }
    for steps in loops.values():
        for _ in range(3):
            next(steps)  # warm-up outside the clock
    speeds: dict[str, list[float]] = {loop: [] for loop in loops}
    for _ in range(turns):
        for loop, steps in loops.items():
            torch.set_flush_denormal(loop == "lekhani")
            speeds[loop].append(run(steps, seconds / turns / len(loops), size, device))
    medians = {loop: statistics.median(values) for loop, values in speeds.items()}
    peak_mb = round(torch.cuda.max_memory_allocated() / 2**20) if device.type == "cuda" else None
    launched = {loop: launches(lambda steps=steps: next(steps), device) for loop, steps in loops.items()}  # type: ignore[misc]
    for steps in loops.values():
        steps.close()  # type: ignore[attr-defined] # ends the DataLoader's workers
    flops = flops_per_image(trainer.variant, size, device)
    return {
        "batch_size": size,
        "images_per_second": {loop: round(value, 1) for loop, value in medians.items()},
        "spread": {loop: [round(min(values), 1), round(max(values), 1)] for loop, values in speeds.items()},
        "precision": "fp32" if fp32 else "bf16",
        "ratio": round(medians["lekhani"] / medians["textbook"], 2),
        "ratio_resident": round(medians["lekhani"] / medians["resident"], 2),
        "launches_per_step": launched,
        "mflop_per_image": flops and round(flops / 1e6, 2),
        "roofline_share": flops
        and round(medians["lekhani"] * flops / peak_flops(device, dtype, tf32=True, sides=sides), 3),
        "peak_mb": peak_mb,
    }


def row(name: str, one: dict[str, Any]) -> str:
    """A line of the table that HEAD heads."""
    speed, share = one["images_per_second"], one["roofline_share"]
    rates = f"{speed['textbook']:10.1f} {speed['resident']:10.1f} {speed['lekhani']:10.1f}"
    shown = f"{one['ratio']:6.2f} {one['ratio_resident']:8.2f}  {one['precision']}"
    return f"{name:14} {one['batch_size']:5} {rates} {shown}  {'-' if share is None else f'{share:.1%}'}"


_RATES = " ".join(f"{loop:>10}" for loop in ("textbook", "resident", "lekhani"))
HEAD = f"{'variant':14} batch {_RATES} {'ratio':>6} {'resident':>8}  in    roofline"


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measurable = [name for name, kind in VARIANTS.items() if kind is not BareBones]  # which trains without torch
    parser.add_argument("--variants", nargs="+", default=["dcgan", "cgan", "draw"], choices=measurable)
    parser.add_argument("--profile", choices=["quick", "full"], default="full")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], help="of our loop; else as the profile says")
    parser.add_argument("--seconds", type=float, default=60.0, help="per variant")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    p = params.resolve(params.read(Path("params.yaml")) | {"profile": given.profile})
    if given.precision:
        p = p.model_copy(update={"train": p.train.model_copy(update={"precision": given.precision})})
    device = pick_device("auto")
    from lekhani.data.sources.embedded import devanagari  # needs a text shaper, which a GPU's machine may lack

    glyphs = devanagari(7, 40, 1)
    data = np.stack(list(glyphs.images)), glyphs.labels
    results = {name: measure(name, p, data, device, given.seconds) for name in given.variants}
    print(HEAD)
    for name, one in results.items():
        print(row(name, one))
    if given.out:
        named = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        write_json(given.out, {**origin("torch"), "device": named, "profile": given.profile, "results": results})


if __name__ == "__main__":
    main()
