"""Exponential moving average of a generator's weights, which is what ships."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from lekhani.variants.state import load_part, require_count


class Ema:
    """Averages `live` into `average` after every step.

    The decay is capped at (1 + step) / (10 + step), so that the average does not drag the first, random weights along
    (Karras et al. 2018; TensorFlow's ExponentialMovingAverage). Buffers such as BatchNorm's statistics are copied.
    """

    def __init__(self, live: nn.Module, decay: float) -> None:
        self.live, self.decay, self.steps = live, decay, 0
        self.average = copy.deepcopy(live).requires_grad_(False).eval()

    def state_dict(self) -> dict[str, Any]:
        """The average and how many steps it has taken."""
        return {"average": self.average.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`; raises ValueError or KeyError for anything but its state."""
        steps = require_count("steps of the average", state["steps"])
        load_part("average", self.average, state["average"])
        self.steps = steps

    @torch.no_grad()
    def copy(self) -> None:
        """Take the live weights as they are."""
        self.average.load_state_dict(self.live.state_dict())

    @torch.no_grad()
    def update(self) -> None:
        """Take one step of the average towards the live weights."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        mine: list[Tensor] = list(self.average.parameters())
        theirs: list[Tensor] = list(self.live.parameters())
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for buffer, source in zip(self.average.buffers(), self.live.buffers(), strict=True):
            buffer.copy_(source)
