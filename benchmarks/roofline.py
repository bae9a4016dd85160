"""What a device could do at most."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F

REPEATS = 5
_best: dict[tuple[str, torch.dtype, bool], float] = {}


def peak_flops(
    device: torch.device, dtype: torch.dtype = torch.float32, *, tf32: bool = False, sides: Sequence[int] = ()
) -> float:
    """Operations per second of the fastest large product in `dtype` that was ever timed in this process.

    Each call times square matrix products of several `sides`, and a 3x3 convolution of many channels, which another
    library computes and on some CPUs a third faster; each several times, on a GPU by its own events. What an earlier
    call found counts on: a bound from a busy moment, or from one size alone, would be too low. On a CPU it is no less
    than one thread's speed times the threads, since those of a busy machine wait for each other. `tf32` lets float32 on
    a GPU use its tensor cores, as training does.
    """
    on_gpu = device.type == "cuda"
    with _tf32(tf32):
        found = [_products(device, dtype, sides or ((2048, 4096, 8192) if on_gpu else (1024, 2048)))]
        if not on_gpu and (threads := torch.get_num_threads()) > 1:
            torch.set_num_threads(1)
            try:
                found.append(threads * _products(device, dtype, sides or (1024,)))
            finally:
                torch.set_num_threads(threads)
    key = (device.type, dtype, tf32 and on_gpu)
    _best[key] = max(_best.get(key, 0.0), *found)
    return _best[key]


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def _products(device: torch.device, dtype: torch.dtype, sides: Sequence[int]) -> float:
    return max(_convolution(device, dtype), *(_matrices(side, device, dtype) for side in sides))


def _matrices(side: int, device: torch.device, dtype: torch.dtype) -> float:
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = a @ b
    return _rate(lambda: torch.mm(a, b, out=out), 2 * side**3, device)


def _convolution(device: torch.device, dtype: torch.dtype, channels: int = 256) -> float:
    images, side = (256, 32) if device.type == "cuda" else (32, 8)
    x = torch.randn(images, channels, side, side, device=device, dtype=dtype)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    x, weight = (one.contiguous(memory_format=torch.channels_last) for one in (x, weight))
    with torch.no_grad():
        return _rate(lambda: F.conv2d(x, weight, padding=1), 2 * 9 * images * side**2 * channels**2, device)


def _rate(work: Callable[[], object], operations: float, device: torch.device) -> float:
    """Operations per second of the fastest of REPEATS goes, after one that warms up."""
    work()
    runs = 10 if device.type == "cuda" else 1

    def go() -> None:
        for _ in range(runs):
            work()

    return operations * runs / min(_seconds(go, device) for _ in range(REPEATS))


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    first.record()
    work()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1000
