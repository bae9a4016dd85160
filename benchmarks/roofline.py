"""What a device could do at most."""

import time

import torch


def peak_flops(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Operations per second of a large matrix product."""
    a = torch.randn(2048, 2048, device=device, dtype=dtype)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(3):
            a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 3 * 2 * 2048**3 / (time.perf_counter() - start))
    return best
