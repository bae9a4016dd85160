"""What the steps of several variants do alike: schedules of the learning rate over the budget, and one step of descent."""

import math

import torch
from torch import Tensor, nn


def cosine(progress: float, floor: float = 0.0) -> float:
    """Half a cosine over the share of the budget that is spent: 1 at the start, `floor` at the end."""
    return (1 + floor) / 2 + (1 - floor) / 2 * math.cos(math.pi * progress)


def warm_up(progress: float) -> float:
    """A ramp from 0.02 to 1 over the first fiftieth of the budget."""
    return min(1.0, progress / 0.02 + 0.02)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all that `optimiser` moves."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def descend(loss: Tensor, optimiser: torch.optim.Optimizer, max_norm: float = 0.0) -> Tensor:
    """One step of `optimiser` on `loss`; returns the norm of the gradient before it is clipped to `max_norm`, which 0 leaves out."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    norm = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
    if max_norm:
        nn.utils.clip_grads_with_norm_(weights, max_norm, norm)
    optimiser.step()
    return norm
