"""The one training loop: it draws batches, sequences steps, keeps the average and reports. Losses are the variants' own."""

import math
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lekhani.data.spec import Bytes, Labels
from lekhani.errors import LekhaniError
from lekhani.pictures import grid, to_uint8
from lekhani.train.ema import Ema
from lekhani.train.reporter import Reporter
from lekhani.variants.base import Variant


@dataclass(frozen=True)
class Trained:
    """What training leaves: the averaged generator on the CPU, and figures of the run."""

    generator: nn.Module
    variant: Variant
    images_seen: int
    steps: int
    seconds: float
    images_per_second: float
    peak_memory_mb: float
    device: str


def pick_device(choice: str) -> torch.device:
    """`auto` takes a GPU when there is one; asking for one that is not there is a LekhaniError."""
    if choice == "cuda" and not torch.cuda.is_available():
        raise LekhaniError("train.device is `cuda`, but torch sees no GPU here; set it to `auto` or `cpu`.")
    return torch.device("cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu")


def train(
    build: Callable[[torch.device], Variant],
    images: Bytes,
    labels: Labels,
    *,
    images_seen: int,
    batch_size: int,
    ema_decay: float,
    seed: int,
    log_every: int,
    sample_every: int,
    device: torch.device,
    reporter: Reporter,
) -> Trained:
    """Train what `build` makes on uint8 images [N,H,W] with int64 labels [N] until `images_seen` images were shown.

    Same arguments, same machine kind: same weights on the CPU. Raises LekhaniError when a loss stops being finite.
    """
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)  # a step over subnormal numbers is many times slower and no better
    variant = build(device)
    ema = Ema(variant.generator(), ema_decay)
    pixels = torch.from_numpy(images).to(device)
    classes = torch.from_numpy(labels).to(device)
    batch_size = min(batch_size, len(images))
    steps = max(1, math.ceil(images_seen / batch_size))
    total = steps * batch_size
    order = batches(len(images), batch_size, seed)
    noise, sample_labels = fixed_inputs(variant.noise_dim, int(labels.max()) + 1, seed)
    noise, sample_labels = noise.to(device), sample_labels.to(device)

    pending: list[dict[str, Tensor]] = []
    sampled = 0
    started = time.perf_counter()
    for step in range(1, steps + 1):
        chosen = torch.from_numpy(next(order)).to(device)
        variant.progress = (step - 1) / steps
        pending.append(variant.step(pixels[chosen].unsqueeze(1).float().div_(255), classes[chosen]))
        ema.update()
        seen = step * batch_size
        if step % log_every == 0 or step == steps:
            means = _means(pending)  # the only place that waits for the device
            pending.clear()
            for name, value in means.items():
                if not math.isfinite(value):
                    raise LekhaniError(f"{name} is {value} by step {step}; lower the learning rate of {variant.name} in params.yaml and train again.")
            speed = seen / (time.perf_counter() - started)
            reporter.metrics(step, {"images_seen": seen, **means, "images_per_second": speed, "seconds_left": (total - seen) / speed})
        if seen // sample_every > sampled or step == steps:
            sampled = seen // sample_every
            reporter.images(step, sample(ema.average, noise, sample_labels))
    seconds = time.perf_counter() - started
    return Trained(ema.average.cpu(), variant, total, steps, seconds, total / seconds, _peak_memory_mb(device), str(device))


def batches(n: int, batch_size: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Indices of endless batches: each pass is a fresh permutation of 0..n-1, and batches run on across passes."""
    rng = np.random.default_rng([seed, 1])
    rest = np.empty(0, np.int64)
    while True:
        while len(rest) < batch_size:
            rest = np.concatenate([rest, rng.permutation(n)])
        yield rest[:batch_size]
        rest = rest[batch_size:]


def fixed_inputs(noise_dim: int, n_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise and labels of the sample grid: the classes in order, as often as fills about a hundred cells."""
    labels = torch.arange(n_classes).repeat(max(1, 100 // n_classes))
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(labels), noise_dim, generator=generator), labels


@torch.no_grad()
def sample(generator: nn.Module, noise: Tensor, labels: Tensor) -> npt.NDArray[np.uint8]:
    """A grid of what `generator` makes of the fixed inputs, uint8 [H,W]."""
    n_classes = int(labels.max()) + 1
    return grid(to_uint8(generator(noise, labels).float().cpu().numpy()), columns=n_classes if n_classes <= 16 else 23)


def _means(rows: list[dict[str, Tensor]]) -> dict[str, float]:
    stacked = torch.stack([torch.stack([value.float() for value in row.values()]) for row in rows]).mean(0).tolist()
    return dict(zip(rows[0], stacked, strict=True))


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
