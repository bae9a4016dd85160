"""Several processes, each with a share of every batch; torchrun starts them and says which one this is.

`variants.optimise` averages gradients before each step, instead of DistributedDataParallel around the networks: a GAN's
step runs a network several times and differentiates through gradients, which that wrapper does not allow. The result is
the same.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from lekhani.errors import LekhaniError
from lekhani.variants.base import Variant

T = TypeVar("T")


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


def share_weights(variant: Variant, here: Ranks) -> None:
    """Give all processes the first one's weights, from which equal gradients lead to equal ones.

    Raises LekhaniError for a variant without gradients of torch.
    """
    if here.world == 1:
        return
    parameters = [p for optimiser in variant.optimisers() for group in optimiser.param_groups for p in group["params"]]
    if not parameters:
        problem = f"{variant.name} computes its gradients without torch, so it trains in one process"
        raise LekhaniError(f"{problem}; start it without torchrun.")
    for parameter in parameters:
        dist.broadcast(parameter.data, 0)


def of_first(work: Callable[[], T]) -> T:
    """What `work` returns in the first process, in all of them; raises the LekhaniError that it raises there."""
    if not dist.is_initialized():
        return work()
    found: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            found = [work()]
        except LekhaniError as error:
            found = [error]
    dist.broadcast_object_list(found)
    if isinstance(found[0], LekhaniError):
        raise found[0]
    return found[0]  # type: ignore[no-any-return]
