"""Several processes, each with a share of every batch; torchrun starts them and says which one this is.

Gradients are averaged as they arrive, parameter by parameter, instead of by wrapping networks in
DistributedDataParallel: a GAN's step runs a network several times and differentiates through gradients, which that
wrapper does not allow. The result is the same.
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
    """Which process this is: `rank` counts from 0 to `world` - 1."""

    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """True for the one process that logs, samples and writes files."""
        return self.rank == 0


def ranks() -> Ranks:
    """As torchrun has set it; one process alone without torchrun."""
    return Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def local_device(device: torch.device) -> torch.device:
    """The own GPU of this process when `device` is a GPU, else `device`."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if device.type == "cuda" else device


def init(device: torch.device) -> Ranks:
    """Connect to the other processes, if there are any: by NCCL between GPUs, by gloo between CPUs."""
    here = ranks()
    if here.world > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=here.rank, world_size=here.world)
    return here


def shutdown() -> None:
    """Undo `init`."""
    if dist.is_initialized():
        dist.destroy_process_group()


def average_gradients(variant: Variant, here: Ranks) -> None:
    """Make every gradient of `variant` the mean over all processes, from weights that are equal in all of them.

    Raises LekhaniError for a variant without gradients of torch.
    """
    if here.world == 1:
        return
    parameters = [p for optimiser in variant.optimisers() for group in optimiser.param_groups for p in group["params"]]
    if not parameters:
        problem = f"{variant.name} computes its gradients without torch, so it trains in one process"
        raise LekhaniError(f"{problem}; start it without torchrun.")

    def average(parameter: Tensor) -> None:
        if parameter.grad is not None:  # always so here, which torch's types do not say
            dist.all_reduce(parameter.grad)
            parameter.grad /= here.world

    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(average)
        dist.broadcast(parameter.data, 0)
