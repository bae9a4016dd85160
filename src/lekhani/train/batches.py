"""The order in which training shows images."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch


def batches(n: int, batch_size: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Indices of endless batches: each pass is a fresh permutation of 0..n-1, and batches run on across passes."""
    rng = np.random.default_rng([seed, 1])
    rest = np.empty(0, np.int64)
    while True:
        while len(rest) < batch_size:
            rest = np.concatenate([rest, rng.permutation(n)])
        yield rest[:batch_size]
        rest = rest[batch_size:]


def on_device(rows: Iterator[npt.NDArray[np.int64]], device: torch.device) -> Iterator[torch.Tensor]:
    """Endless batches of equal size as tensors there; 64 at a time, as each transfer waits for all that is running."""
    while True:
        yield from torch.from_numpy(np.stack(list(islice(rows, 64)))).to(device)
