"""What steps of several variants share: schedules of the learning rate, an optimiser's step, and agreeing on one."""

import math
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lekhani.errors import LekhaniError, first_line


def cosine(progress: float, floor: float = 0.0) -> float:
    """Half a cosine over the share of the budget that is spent: 1 at the start, `floor` at the end."""
    return (1 + floor) / 2 + (1 - floor) / 2 * math.cos(math.pi * progress)


def warm_up(progress: float) -> float:
    """A ramp from 0.02 to 1 over the first fiftieth of the budget."""
    return min(1.0, progress / 0.02 + 0.02)


def share_of_lr(schedule: Literal["constant", "cosine"], progress: float) -> float:
    """What is left of a learning rate by the `schedule` of the params: all of it, or a cosine that falls to a tenth."""
    return 1.0 if schedule == "constant" else cosine(progress, floor=0.1)


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameter groups; in place where it is a tensor, which a CUDA graph reads."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def optimise(loss: Tensor, optimiser: torch.optim.Optimizer, max_norm: float = 0.0) -> Tensor:
    """One step of `optimiser` on `loss`, the gradient's norm clipped to `max_norm` unless that is 0.

    Where several processes train together, the gradient is the mean of theirs, so all have to take the same steps, with
    gradients of the same weights; a weight without one stays as it is. Returns the norm before clipping, a scalar.
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


def any_of(mine: bool, device: torch.device) -> bool:
    """Whether that is true in any of the processes that train together; all of them have to ask."""
    if not dist.is_initialized():
        return mine
    flag = torch.tensor(float(mine), device=device)
    _add_up(flag)
    return bool(flag)


def _average(gradients: list[Tensor]) -> None:
    """Make each the mean over all processes, which have them in the same order, in one exchange."""
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    _add_up(flat)
    flat /= dist.get_world_size()
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def _add_up(tensor: Tensor) -> None:
    """Make it the sum over all processes; raises LekhaniError where one of them is gone."""
    try:
        dist.all_reduce(tensor)
    except RuntimeError as error:
        problem = f"Another process of this training is gone ({first_line(error)})"
        raise LekhaniError(f"{problem}; see what it said, and run the same command to go on.") from error
