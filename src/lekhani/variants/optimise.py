"""What the steps of several variants share: schedules of the learning rate, and one step of an optimiser."""

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn


def cosine(progress: float, floor: float = 0.0) -> float:
    """Half a cosine over the share of the budget that is spent: 1 at the start, `floor` at the end."""
    return (1 + floor) / 2 + (1 - floor) / 2 * math.cos(math.pi * progress)


def warm_up(progress: float) -> float:
    """A ramp from 0.02 to 1 over the first fiftieth of the budget."""
    return min(1.0, progress / 0.02 + 0.02)


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameter groups; in place where it is a tensor, which a CUDA graph reads."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def optimise(loss: Tensor, optimiser: torch.optim.Optimizer, max_norm: float = 0.0) -> Tensor:
    """One step of `optimiser` on `loss`, the gradient's norm clipped to `max_norm` unless that is 0.

    Where several processes train together, the gradient is the mean of theirs. Returns the norm before clipping, a
    scalar.
    """
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    if dist.is_initialized():
        _average(gradients)
    norm = nn.utils.get_total_norm(gradients)
    if max_norm:
        nn.utils.clip_grads_with_norm_(weights, max_norm, norm)
    optimiser.step()
    return norm


def _average(gradients: list[Tensor]) -> None:
    """Make each the mean over all processes, which have them in the same order, in one exchange."""
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
