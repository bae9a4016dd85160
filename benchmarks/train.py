"""Our training loop beside a textbook loop on the same networks, losses, batch size and optimiser.

    python benchmarks/train.py [--variants dcgan cgan draw] [--profile quick] [--seconds 20]
        [--out benchmarks/results/train.json]

The textbook loop is what tutorials show: a DataLoader with two workers and a per-image transform, eager float32 in
torch's default memory format, Adam as it comes, the discriminator's gradients computed in the generator's step too, and
`.item()` of every loss at every step. Ours is the loop that trains, in the precision that the profile asks for,
averaging of the weights included. Both loops take turns in this one process, so that a busy machine slows both; the
ratio is of their medians. On a GPU the peak memory is the device's. The share of the roofline is the step's
floating-point operations, counted by torch, against a large matrix product timed here.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
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
from lekhani.train.loop import Trainer, TrainerConfig
from lekhani.variants import VARIANTS, Variant
from lekhani.variants.draw import Draw
from lekhani.variants.flow_matching import FlowMatching
from lekhani.variants.gan import Gan

Step = Callable[[Tensor, Tensor], None]


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
    steps: dict[type[Variant], Callable[[Any], Step]] = {Gan: gan_step, Draw: draw_step, FlowMatching: flow_step}
    step = next(make(variant) for kind, make in steps.items() if isinstance(variant, kind))
    while True:
        for images, labels in DataLoader(Images(*data), batch_size, shuffle=True, num_workers=2, drop_last=True):
            step(images.to(device), labels.to(device))
            yield


def gan_step(variant: Gan) -> Step:
    """The DCGAN tutorial's step with the variant's own losses; G moves at every step."""
    g, d, settings = variant.g, variant.d, variant.settings
    adam_g = torch.optim.Adam(g.parameters(), settings.lr_g, settings.betas)
    adam_d = torch.optim.Adam(d.parameters(), settings.lr_d, settings.betas)

    def step(images: Tensor, labels: Tensor) -> None:
        real = images * 2 - 1
        d.zero_grad()
        fake = g(torch.randn(len(images), settings.noise_dim, device=images.device), labels) * 2 - 1
        loss_d = variant.discriminator_loss(real, fake.detach(), labels).loss
        loss_d.backward()
        adam_d.step()
        g.zero_grad()
        loss_g = variant.generator_loss(real, fake, labels)
        loss_g.backward()
        adam_g.step()
        loss_d.item(), loss_g.item()

    return step


def draw_step(variant: Draw) -> Step:
    """The bound and Adam, nothing else."""
    settings, net = variant.settings, variant.autoencoder
    adam = torch.optim.Adam(net.parameters(), settings.lr, settings.betas)

    def step(images: Tensor, labels: Tensor) -> None:
        adam.zero_grad()
        noise = torch.randn(settings.steps, len(images), settings.latent_dim, device=images.device)
        reconstruction, kl = (part.mean() for part in net(torch.bernoulli(images), labels, noise))
        loss = reconstruction + kl
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), settings.clip_norm)
        adam.step()
        loss.item(), reconstruction.item(), kl.item()

    return step


def flow_step(variant: FlowMatching) -> Step:
    """The velocity's squared error and AdamW, without hidden labels."""
    settings, net = variant.settings, variant.velocity
    adam = torch.optim.AdamW(net.parameters(), settings.lr, settings.betas, weight_decay=settings.weight_decay)

    def step(images: Tensor, labels: Tensor) -> None:
        adam.zero_grad()
        target, t = images * 2 - 1, torch.randn(len(images), device=images.device).sigmoid()
        noise = torch.randn_like(target)
        loss = F.mse_loss(net(torch.lerp(noise, target, t[:, None, None, None]), t, labels), target - noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
        loss.item()

    return step


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
    return counter.get_total_flops() / batch_size


def measure(name: str, p: params.Params, data: Any, device: torch.device, seconds: float) -> dict[str, Any]:
    """Both loops by turns."""
    if name == "dcgan":  # without the tricks that the textbook step does not have
        plain = p.variants.dcgan.model_copy(update={"smoothing": "none", "instance_noise": 0.0})
        p = p.model_copy(update={"variants": p.variants.model_copy(update={"dcgan": plain})})
    settings = getattr(p.variants, name)

    def build(on: torch.device) -> Variant:
        return VARIANTS[name].build(p.variants, 32, 46, on)

    torch.manual_seed(7)
    torch.set_flush_denormal(False)
    theirs = build(device)
    for part in theirs.networks():
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
    loops = {"textbook": textbook(theirs, data, settings.batch_size, device), "lekhani": ours(trainer)}
    for steps in loops.values():
        for _ in range(3):
            next(steps)  # warm-up outside the clock
    speeds: dict[str, list[float]] = {"textbook": [], "lekhani": []}
    for _ in range(5):
        for loop, steps in loops.items():
            torch.set_flush_denormal(loop == "lekhani")
            speeds[loop].append(run(steps, seconds / 10, settings.batch_size, device))
    medians = {loop: statistics.median(values) for loop, values in speeds.items()}
    flops = flops_per_image(trainer.variant, settings.batch_size, device)
    return {
        "batch_size": settings.batch_size,
        "images_per_second": {loop: round(value, 1) for loop, value in medians.items()},
        "spread": {loop: [round(min(values), 1), round(max(values), 1)] for loop, values in speeds.items()},
        "precision": "fp32" if isinstance(trainer.variant.autocast, nullcontext) else "bf16",
        "ratio": round(medians["lekhani"] / medians["textbook"], 2),
        "mflop_per_image": flops and round(flops / 1e6, 2),
        "roofline_share": flops and round(medians["lekhani"] * flops / peak_flops(device), 3),
        "peak_mb": round(torch.cuda.max_memory_allocated() / 2**20) if device.type == "cuda" else None,
    }


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measurable = [name for name, kind in VARIANTS.items() if issubclass(kind, Gan | Draw | FlowMatching)]
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
    glyphs = devanagari(7, 40, 1)
    data = np.stack(list(glyphs.images)), glyphs.labels
    results = {name: measure(name, p, data, device, given.seconds) for name in given.variants}
    print(f"{'variant':14} {'batch':>5} {'textbook':>10} {'lekhani':>10} {'ratio':>6}  in    roofline")
    for name, one in results.items():
        speed, share = one["images_per_second"], one["roofline_share"]
        row = f"{name:14} {one['batch_size']:5} {speed['textbook']:10.1f} {speed['lekhani']:10.1f} {one['ratio']:6.2f}"
        print(f"{row}  {one['precision']}  {'-' if share is None else f'{share:.1%}'}")
    if given.out:
        named = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        write_json(given.out, {**origin("torch"), "device": named, "profile": given.profile, "results": results})


if __name__ == "__main__":
    main()
