"""What every variant is to the rest of the house."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lekhani import params


class Stepwise(nn.Module):
    """A generator that takes one step over and over: noise -> state, `steps` times state -> state, state -> images.

    Written in these three parts, it is exported by tracing one step and repeating it in the graph, with one copy of the weights.
    """

    steps: int

    def begin(self, noise: Tensor, labels: Tensor) -> Tensor:
        """The first state [N, ...] from noise float32 [N, noise_dim] and labels int64 [N]."""
        raise NotImplementedError

    def advance(self, state: Tensor, position: Tensor, labels: Tensor) -> Tensor:
        """The next state; `position` float32 [1] is the share of steps already taken, 0 at the first."""
        raise NotImplementedError

    def finish(self, state: Tensor) -> Tensor:
        """Images float32 [N,1,H,W] in [0,1] from the last state."""
        raise NotImplementedError

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """All steps in a row."""
        state = self.begin(noise, labels)
        for i in range(self.steps):
            state = self.advance(state, torch.full((1,), i / self.steps, device=noise.device), labels)
        return self.finish(state)


class Variant(ABC):
    """A family of generative model together with its loss, optimisers and one training step.

    Random numbers come from torch's global generator, which the training loop seeds.
    Schedules run over images seen: `progress` is the share of the budget spent, set by the loop before each step.
    """

    name: ClassVar[str]
    conditional: ClassVar[bool]
    """Does the label steer the image?"""

    noise_dim: int
    progress: float = 0.0

    @classmethod
    @abstractmethod
    def build(cls, choice: params.Variants, image_size: int, n_classes: int, device: torch.device) -> "Variant":
        """A fresh variant for square images of `image_size` pixels (a multiple of 4) and `n_classes` classes."""

    @abstractmethod
    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One optimisation step on `images` float32 [N,1,H,W] in [0,1] and `labels` int64 [N].

        Returns losses and diagnostics as scalar tensors, left on the device.
        """

    @abstractmethod
    def generator(self) -> nn.Module:
        """The network that ships, sharing its weights with training.

        It maps noise float32 [N, noise_dim] (standard normal) and labels int64 [N] to images float32 [N,1,H,W] in [0,1].
        """

    @abstractmethod
    def _parts(self) -> dict[str, Any]:
        """Everything with a state: networks and optimisers by name."""

    def state_dict(self) -> dict[str, Any]:
        """All that training needs to go on from here, but for the random state and the data order."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
