"""Random images of three classes, as training shows them to a variant."""

import torch
from torch import Tensor

CPU = torch.device("cpu")
K = 3


def batch(n: int = 8, size: int = 28) -> tuple[Tensor, Tensor]:
    """Images float32 [n,1,size,size] in [0,1] and labels int64 [n]."""
    return torch.rand(n, 1, size, size), torch.arange(n) % K
