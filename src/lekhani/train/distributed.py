"""Several processes, each with a share of every batch; torchrun starts them and says which one this is.

Gradients are averaged as they arrive, parameter by parameter, instead of by wrapping networks in DistributedDataParallel: a GAN's step
runs a network several times and differentiates through gradients, which that wrapper does not allow. The result is the same.
"""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from lekhani.errors import LekhaniError
from lekhani.variants.base import Variant


@dataclass(frozen=True)
class Ranks:
    """Which process it is among all: `rank` counts from 0 to `world` - 1."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """True for the one process that logs, samples and writes files."""
        return self.rank == 0


def ranks() -> Ranks:
    """Where torchrun has put this process; alone without torchrun."""
    return Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def device_of(choice: torch.device) -> torch.device:
    """Each process its own GPU."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if choice.type == "cuda" else choice


def join(device: torch.device) -> Ranks:
    """Meet the other processes: NCCL between GPUs, gloo between CPUs."""
    here = ranks()
    if here.world > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=here.rank, world_size=here.world)
    return here


def leave() -> None:
    """Part from the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def share_gradients(variant: Variant, here: Ranks) -> None:
    """From now on every gradient of `variant` is the mean over all processes; raises LekhaniError where there is none to share."""
    if here.world == 1:
        return
    parameters = [p for part in variant.optimisers() for group in part.param_groups for p in group["params"]]
    if not parameters:
        raise LekhaniError(
            f"{variant.name} keeps its gradients to itself, so it trains in one process; start it without torchrun."
        )

    def average(parameter: Tensor) -> None:
        if parameter.grad is not None:  # always so here; torch's types do not know it
            dist.all_reduce(parameter.grad)
            parameter.grad /= here.world

    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(average)
        dist.broadcast(parameter.data, 0)
