"""What a device could do at most."""

import time

import torch


def peak_flops(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Operations per second of a large matrix product in `dtype`, the best of five times three."""
    side = 8192 if device.type == "cuda" else 2048  # large enough to keep the device busy, small enough to be quick
    a = torch.randn(side, side, device=device, dtype=dtype)
    best = 0.0
    for _ in range(5):
        _wait(device)
        start = time.perf_counter()
        for _ in range(3):
            a @ a
        _wait(device)
        best = max(best, 3 * 2 * side**3 / (time.perf_counter() - start))
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
