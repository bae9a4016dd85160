"""CUDA graphs of training steps: the kernels of a step are recorded once, and then launched all together.

A small network's step is hundreds of kernels, each of which runs for less time than Python takes to launch it. Recorded
is what a variant gives to `Variant.run`, as torch's documentation recommends for whole networks: inputs in memory that
stays, a few steps before on the stream that records, optimisers that are `capturable`, learning rates as tensors.
The average of the weights is left outside: its decay is a number, and its few kernels run while Python goes on.
"""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lekhani.errors import LekhaniError, first_line
from lekhani.variants.base import Variant

log = logging.getLogger("lekhani")

Work = Callable[[], object]
WARM_UP = 3  # steps in which libraries choose their algorithms and networks are compiled


def use_graphs(variant: Variant, device: torch.device, world: int) -> None:
    """Let `variant` replay its steps from CUDA graphs, or log why it cannot; `world` is the number of processes."""
    if device.type != "cuda":
        why = "there is no GPU"
    elif world > 1:
        why = "it is for one process alone"
    elif not variant.capturable:
        why = f"what a step of {variant.name} does depends on what it has computed"
    else:
        variant.run = Graphs(variant)
        return
    log.warning("train.cuda_graphs is left out, since %s.", why)


def record(work: Work) -> Work:
    """What runs the kernels of `work` again, on the memory that they had; before, `work` is called a few times."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        work()
    return graph.replay


class Graphs:
    """Takes the place of `variant.run`: one graph for each method and its choices, recorded at the first call.

    So that training goes on as without it, weights, moments and random numbers are put back after recording. A state is
    to be loaded before the first call, as an optimiser's would come to lie elsewhere. Raises LekhaniError where torch
    cannot record a step.
    """

    def __init__(self, variant: Variant, record: Callable[[Work], Work] = record) -> None:
        self.variant, self.record = variant, record
        self.graphs: dict[object, _Graph] = {}
        for optimiser in variant.optimisers():
            for group in optimiser.param_groups:
                group["lr"] = torch.tensor(group["lr"], device=group["params"][0].device)
                group["capturable"] = True

    def __call__(self, work: Callable[..., dict[str, Tensor]], *inputs: Tensor, **choices: Any) -> dict[str, Tensor]:
        """See Variant.run; inputs are of the same shapes at every call."""
        key = work.__name__, *choices.items()
        if key not in self.graphs:
            self.graphs[key] = self._recorded(work, inputs, choices)
        memory, told, replay = self.graphs[key]
        for kept, given in zip(memory, inputs, strict=True):
            kept.copy_(given)
        replay()
        row = torch.stack([value.float() for value in told.values()])  # a copy, as the next replay writes over them
        return dict(zip(told, row.unbind(), strict=True))

    def _recorded(
        self, work: Callable[..., dict[str, Tensor]], inputs: tuple[Tensor, ...], choices: dict[str, Any]
    ) -> "_Graph":
        memory, told = [given.clone() for given in inputs], dict[str, Tensor]()
        try:
            with _put_back(self.variant, inputs[0].device):
                replay = self.record(lambda: told.update(work(*memory, **choices)))
        except RuntimeError as error:
            problem = f"A step of {self.variant.name} cannot be recorded as a CUDA graph ({first_line(error)})"
            raise LekhaniError(f"{problem}; set train.cuda_graphs to false.") from error
        return _Graph(memory, told, replay)


class _Graph(NamedTuple):
    """Memory of the inputs and of the metrics, and what computes the second from the first."""

    memory: list[Tensor]
    told: dict[str, Tensor]
    replay: Work


@contextmanager
def _put_back(variant: Variant, device: torch.device) -> Iterator[None]:
    """Undo what steps in the block change, in place, where recorded kernels look for it."""
    before = copy.deepcopy(variant.state_dict())
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
    _copy(before, variant.state_dict())


def _copy(before: dict[Any, Any], now: dict[Any, Any]) -> None:
    """Write the tensors of `before` into those of `now`, and 0 into moments that were not there before."""
    for key, value in now.items():
        if isinstance(value, dict):
            _copy(before.get(key, {}), value)
        elif isinstance(value, Tensor):
            value.copy_(before[key]) if key in before else value.zero_()
