"""The order in which training shows images."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt


def batches(n: int, batch_size: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Indices of endless batches: each pass is a fresh permutation of 0..n-1, and batches run on across passes."""
    rng = np.random.default_rng([seed, 1])
    rest = np.empty(0, np.int64)
    while True:
        while len(rest) < batch_size:
            rest = np.concatenate([rest, rng.permutation(n)])
        yield rest[:batch_size]
        rest = rest[batch_size:]
