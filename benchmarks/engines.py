"""A generator in ONNX Runtime beside the torch module that it was exported from."""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lekhani.inference.session import Generator


def engines(
    generator: Generator,
    module: nn.Module,
    batch_size: int,
    repeats: int,
    *,
    compiled: bool = True,
    turn: float = 0.3,
) -> dict[str, float]:
    """Images per second of torch, compiled too unless told otherwise, and of the session, and ratios to eager torch.

    Each way runs for `turn` seconds, by turns.
    """
    noise = np.random.default_rng(0).standard_normal((batch_size, generator.noise_dim), dtype=np.float32)
    labels = np.arange(batch_size, dtype=np.int64) % len(generator.classes)
    device = device_of(generator)
    tensors = torch.from_numpy(noise), torch.from_numpy(labels)
    ways: dict[str, Callable[[], object]] = {"eager": lambda: module(*(one.to(device) for one in tensors)).cpu()}
    if compiled:
        fused = torch.compile(module, dynamic=False)
        ways["compile"] = lambda: fused(*(one.to(device) for one in tensors)).cpu()
    ways["session"] = lambda: generator.run(noise, labels)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        for round_ in range(repeats + 1):
            for name, work in ways.items():
                if round_ == 0:  # compiles and warms up
                    work()
                start, runs = time.perf_counter(), 0
                while time.perf_counter() - start < turn:
                    work()
                    runs += 1
                if round_:
                    taken[name].append(runs * batch_size / (time.perf_counter() - start))
    middle = {name: statistics.median(values) for name, values in taken.items()}
    return {name: round(value, 1) for name, value in middle.items()} | {
        f"{name}_ratio": round(middle[name] / middle["eager"], 2) for name in ways if name != "eager"
    }


def operations(generator: Generator, module: nn.Module) -> float:
    """Floating-point operations for an image."""
    noise, labels = torch.zeros(8, generator.noise_dim), torch.zeros(8, dtype=torch.int64)
    device = device_of(generator)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(noise.to(device), labels.to(device))
    return float(counter.get_total_flops()) / 8


def device_of(generator: Generator) -> torch.device:
    """Where the session runs, as torch calls it."""
    return torch.device("cpu" if generator.device == "CPU" else "cuda")
