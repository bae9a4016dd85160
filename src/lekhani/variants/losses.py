"""Losses that more than one variant may use."""

import torch
import torch.nn.functional as F
from torch import Tensor


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-E[log D(x)] - E[log(1 - D(G(z)))] from logits [N], with one-sided smoothing: the real target is 1 - `label_smoothing`.

    Goodfellow et al. 2014; one-sided smoothing from Salimans et al. 2016.
    """
    real = F.binary_cross_entropy_with_logits(real_logits, torch.full_like(real_logits, 1.0 - label_smoothing))
    fake = F.binary_cross_entropy_with_logits(fake_logits, torch.zeros_like(fake_logits))
    return real + fake


def non_saturating_loss(fake_logits: Tensor) -> Tensor:
    """-E[log D(G(z))] from logits [N]: the generator's loss that keeps its gradient while D wins (Goodfellow et al. 2014)."""
    return F.softplus(-fake_logits).mean()
