"""Our training loop beside a textbook loop on the same networks, batch size and optimiser.

    python benchmarks/train.py [--variants dcgan cgan draw] [--profile quick] [--seconds 20] [--out benchmarks/results/train.json]

The textbook loop is what tutorials show: a DataLoader with two workers and a per-image transform, eager float32 in torch's default memory
format, Adam as it comes, the discriminator's gradients computed in the generator's step too, and `.item()` of every loss at every step.
Ours is the loop that trains, in the precision that the profile asks for, averaging of the weights included.
Both loops run by turns in this one process, so that a busy machine slows both; the ratio is of their medians. On a GPU the peak memory is the
device's. The share of the roofline is the step's floating-point operations, counted by torch, against a large matrix product timed here.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from origin import origin
from roofline import peak_flops
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from lekhani import params
from lekhani.data.sources.embedded import devanagari
from lekhani.files import write_json
from lekhani.train.devices import pick_device
from lekhani.train.loop import _Session
from lekhani.train.reporter import Silent
from lekhani.variants import VARIANTS, Variant
from lekhani.variants.gan import Gan


class Images(Dataset[tuple[Tensor, int]]):
    """One image at a time, as a tutorial reads them."""

    def __init__(self, images: Any, labels: Any) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self.images[index]).unsqueeze(0).float() / 255, int(self.labels[index])


def textbook(variant: Variant, data: Any, batch_size: int, device: torch.device) -> Iterator[None]:
    """Yields after every step."""
    while True:
        for images, labels in DataLoader(Images(*data), batch_size, shuffle=True, num_workers=2, drop_last=True):
            step = textbook_gan if isinstance(variant, Gan) else textbook_draw
            step(variant, images.to(device), labels.to(device))
            yield


def textbook_gan(variant: Any, images: Tensor, labels: Tensor) -> None:
    """The DCGAN tutorial's step; a conditional discriminator gets the labels too."""
    g, d, choice = variant.g, variant.d, variant.choice
    if not hasattr(variant, "plain"):
        variant.plain = [
            torch.optim.Adam(net.parameters(), lr, choice.betas) for net, lr in ((g, choice.lr_g), (d, choice.lr_d))
        ]
    adam_g, adam_d = variant.plain
    look = (lambda x: d(x, labels)) if variant.conditional else d
    ones, zeros = torch.ones(len(images), device=images.device), torch.zeros(len(images), device=images.device)
    d.zero_grad()
    loss_real = F.binary_cross_entropy_with_logits(look(images * 2 - 1), ones)
    loss_real.backward()
    fake = g(torch.randn(len(images), choice.noise_dim, device=images.device), labels) * 2 - 1
    loss_fake = F.binary_cross_entropy_with_logits(look(fake.detach()), zeros)
    loss_fake.backward()
    adam_d.step()
    g.zero_grad()
    loss_g = F.binary_cross_entropy_with_logits(look(fake), ones)
    loss_g.backward()
    adam_g.step()
    variant.told = (loss_real.item(), loss_fake.item(), loss_g.item())


def textbook_draw(variant: Any, images: Tensor, labels: Tensor) -> None:
    """The bound and Adam, nothing else."""
    choice = variant.choice
    if not hasattr(variant, "plain"):
        variant.plain = torch.optim.Adam(variant.autoencoder.parameters(), choice.lr, choice.betas)
    variant.plain.zero_grad()
    noise = torch.randn(choice.steps, len(images), choice.latent_dim, device=images.device)
    reconstruction, kl = variant.autoencoder(torch.bernoulli(images), labels, noise)
    loss = reconstruction.mean() + kl.mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(variant.autoencoder.parameters(), choice.clip_norm)
    variant.plain.step()
    variant.told = (loss.item(), reconstruction.mean().item(), kl.mean().item())


def ours(session: _Session) -> Iterator[None]:
    """The loop's own steps and reports, without scores and sample grids, which are as many as one asks for."""
    while True:
        session.step()
        session.report()
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


def build(name: str, choices: params.Variants, device: torch.device) -> Variant:
    """A variant without the tricks that the textbook step has not."""
    if name == "dcgan":
        choices = choices.model_copy(
            update={"dcgan": choices.dcgan.model_copy(update={"smoothing": "none", "instance_noise": 0.0})}
        )
    return VARIANTS[name].build(choices, 32, 46, device)


def measure(name: str, p: params.Params, data: Any, device: torch.device, seconds: float) -> dict[str, Any]:
    """Both loops by turns."""
    batch_size = getattr(p.variants, name).batch_size
    torch.manual_seed(7)
    torch.set_flush_denormal(False)
    theirs = build(name, p.variants, device)
    for part in theirs.networks():
        part.to(memory_format=torch.contiguous_format)
    train = p.train.model_copy(update={"score_every": 0, "sample_every": 10**12})
    choice = getattr(p.variants, name)
    session = _Session(
        lambda on: build(name, p.variants, on), *data, 10**9, batch_size, (choice.ema_decay, 0.0), 7, train, device
    )
    session.reporter, session.checkpoints, session.score = Silent(), None, None
    session.restore()
    loops = {"textbook": textbook(theirs, data, batch_size, device), "lekhani": ours(session)}
    for steps in loops.values():
        for _ in range(3):
            next(steps)  # warm-up outside the clock
    speeds: dict[str, list[float]] = {"textbook": [], "lekhani": []}
    for _ in range(5):
        for loop, steps in loops.items():
            torch.set_flush_denormal(loop == "lekhani")
            speeds[loop].append(run(steps, seconds / 10, batch_size, device))
    with FlopCounterMode(display=False) as counter:
        session.variant.step(
            torch.rand(batch_size, 1, 32, 32, device=device), torch.zeros(batch_size, dtype=torch.int64, device=device)
        )
    medians = {loop: statistics.median(values) for loop, values in speeds.items()}
    per_image = counter.get_total_flops() / batch_size
    return {
        "batch_size": batch_size,
        "images_per_second": {loop: round(value, 1) for loop, value in medians.items()},
        "spread": {loop: [round(min(values), 1), round(max(values), 1)] for loop, values in speeds.items()},
        "precision": "fp32" if isinstance(session.variant.autocast, nullcontext) else "bf16",
        "ratio": round(medians["lekhani"] / medians["textbook"], 2),
        "mflop_per_image": round(per_image / 1e6, 2),
        "roofline_share": round(medians["lekhani"] * per_image / peak_flops(device), 3),
        "peak_mb": round(torch.cuda.max_memory_allocated() / 2**20) if device.type == "cuda" else None,
    }


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=["dcgan", "cgan", "draw"])
    parser.add_argument("--profile", choices=["quick", "full"], default="full")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], help="of our loop; else as the profile says")
    parser.add_argument("--seconds", type=float, default=60.0, help="per variant")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    p = params.resolve(params.read(Path("params.yaml")) | {"profile": given.profile})
    if given.precision:
        p = p.model_copy(update={"train": p.train.model_copy(update={"precision": given.precision})})
    device = pick_device("auto")
    glyphs = devanagari(7, 40, 1)
    data = np.stack(list(glyphs.images)), glyphs.labels
    results = {name: measure(name, p, data, device, given.seconds) for name in given.variants}
    print(f"{'variant':10} {'batch':>5} {'textbook':>10} {'lekhani':>10} {'ratio':>6}  in    roofline")
    for name, one in results.items():
        speed = one["images_per_second"]
        row = f"{name:10} {one['batch_size']:5} {speed['textbook']:10.1f} {speed['lekhani']:10.1f} {one['ratio']:6.2f}"
        print(f"{row}  {one['precision']}  {one['roofline_share']:.1%}")
    if given.out:
        named = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        write_json(given.out, {**origin("torch"), "device": named, "profile": given.profile, "results": results})


if __name__ == "__main__":
    main()
