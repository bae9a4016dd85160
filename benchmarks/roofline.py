"""What a device could do at most."""

import time
from collections.abc import Callable, Sequence

import torch

_best: dict[tuple[str, torch.dtype, bool], float] = {}


def peak_flops(
    device: torch.device, dtype: torch.dtype = torch.float32, *, tf32: bool = False, sides: Sequence[int] = ()
) -> float:
    """Operations per second of the fastest large matrix product in `dtype` that was ever timed in this process.

    Each call times square products of several `sides` several times, on a GPU by its own events, and what an earlier
    call found counts on: a bound from a busy moment, or from one size alone, would be too low. On a CPU it is no less
    than one thread's speed times the threads, since those of a busy machine wait for each other. `tf32` lets float32
    products on a GPU use its tensor cores, as training does. It is a bound for work that is counted in the same
    operations; a convolution by Winograd's algorithm does with fewer.
    """
    on_gpu = device.type == "cuda"
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        found = [_product(side, device, dtype) for side in sides or ((2048, 4096, 8192) if on_gpu else (1024, 2048))]
        if not on_gpu and (threads := torch.get_num_threads()) > 1:
            torch.set_num_threads(1)
            try:
                found.append(threads * _product((sides or (1024,))[0], device, dtype))
            finally:
                torch.set_num_threads(threads)
    finally:
        torch.set_float32_matmul_precision(before)
    key = (device.type, dtype, tf32 and on_gpu)
    _best[key] = max(_best.get(key, 0.0), *found)
    return _best[key]


def _product(side: int, device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = a @ b  # warms up
    runs = 10 if device.type == "cuda" else max(1, (2048 // side) ** 2)

    def work() -> None:
        for _ in range(runs):
            torch.mm(a, b, out=out)

    return 2 * side**3 * runs / min(_seconds(work, device) for _ in range(repeats))


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
