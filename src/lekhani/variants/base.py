"""The interface that every variant has for training, export and evaluation."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lekhani import params
from lekhani.variants.state import load_part, require_untrained


class Stepwise(nn.Module):
    """A generator that repeats one step: noise -> state, `steps` times state -> state, state -> images.

    Written in these three parts, it is exported by tracing one step and repeating it in the graph, with one copy of the
    weights. Where steps are of several kinds, `move` says which method takes which, and one of each kind is traced.
    """

    steps: int

    def begin(self, noise: Tensor, labels: Tensor) -> Tensor:
        """The first state [N, ...] from noise float32 [N, noise_dim] and labels int64 [N]."""
        raise NotImplementedError

    def advance(self, state: Tensor, position: Tensor, labels: Tensor) -> Tensor:
        """The next state; `position` float32 [1] is the share of steps already taken, 0 at the first."""
        raise NotImplementedError

    def move(self, step: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The method that takes step number `step`: `advance`, or another one with its arguments and result."""
        return self.advance

    def finish(self, state: Tensor) -> Tensor:
        """Images float32 [N,1,H,W] in [0,1] from the last state."""
        raise NotImplementedError

    def window(self, state: Tensor) -> Tensor | None:
        """Where the step before this state wrote, float32 [N,3]; None for a generator without attention.

        That is the centre's x and y and the side of a square, in parts of the image's side.
        """
        return None

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """All steps in a row: noise float32 [N, noise_dim], labels int64 [N] -> images float32 [N,1,H,W] in [0,1]."""
        *_, last = self.states(noise, labels)
        return self.finish(last)

    def states(self, noise: Tensor, labels: Tensor) -> Iterator[Tensor]:
        """The state before the first step and after each one."""
        state = self.begin(noise, labels)
        yield state
        for i in range(self.steps):
            state = self.move(i)(state, torch.full((1,), i / self.steps, device=noise.device), labels)
            yield state


def _call(work: Callable[..., dict[str, Tensor]], *inputs: Tensor, **choices: Any) -> dict[str, Tensor]:
    return work(*inputs, **choices)


class Variant(ABC):
    """A family of generative model together with its loss, optimisers and one training step.

    Random numbers come from torch's global generator, which the training loop seeds.
    Schedules run over images seen: `progress` is the share of the budget spent, set by the loop before each step.
    """

    name: ClassVar[str]
    """As in `params.register`, and the name of its file."""
    conditional: bool
    """Whether the label steers the image."""
    noise_dim: int
    progress: float = 0.0
    autocast: AbstractContextManager[Any] = nullcontext()
    """The precision of forward passes; the loop sets it, and a step enters it for its networks, not for backward."""
    capturable: ClassVar[bool] = False
    """Whether a step leaves its work on the device to `run`, so that `lekhani.train.graphs` can replay it.

    The method that `run` gets never waits for the device, and counts nothing: what changes from step to step is set
    before it, in a tensor.
    """
    run: Callable[..., dict[str, Tensor]] = staticmethod(_call)
    """Calls a method with tensors, and with choices by name, for its metrics; the loop may replay a graph instead."""

    @abstractmethod
    def __init__(self, settings: Any, image_size: int, n_classes: int, device: torch.device) -> None:
        """For square images of `image_size` pixels, a multiple of 4; `settings` are the variant's own in `params`."""

    @classmethod
    def build(cls, settings: params.Variants, image_size: int, n_classes: int, device: torch.device) -> "Variant":
        """A fresh one from the settings of all variants."""
        return cls(getattr(settings, cls.name), image_size, n_classes, device)

    def learn_from(self, teacher: nn.Module) -> None:
        """Take the trained generator of the settings' `teacher`; called once, before the first step."""
        raise NotImplementedError(f"{self.name} has no teacher")

    @abstractmethod
    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One optimisation step on `images` float32 [N,1,H,W] in [0,1] and `labels` int64 [N].

        Returns losses and diagnostics as scalar tensors, left on the device.
        """

    @abstractmethod
    def generator(self) -> nn.Module:
        """The network that is exported, sharing its weights with training.

        It maps noise float32 [N, noise_dim] (standard normal) and labels int64 [N] to images float32 [N,1,H,W] in
        [0,1].
        """

    def bound(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor] | None:
        """Reconstruction and KL divergence, float32 [N] in nats, whose sum is at least -log p(image).

        `images` float32 [N,1,H,W] in [0,1] and `labels` int64 [N] as in `step`; one sample of the latent each, in
        float32 and with the weights of `generator`. Where labels steer the image, the bound is on
        -log p(image | label). None without a likelihood.
        """
        return None

    @abstractmethod
    def _parts(self) -> dict[str, Any]:
        """Everything with a state: networks and optimisers by name."""

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """The optimisers whose gradients several processes are to share."""
        return [part for part in self._parts().values() if isinstance(part, torch.optim.Optimizer)]

    def networks(self) -> list[nn.Module]:
        """The networks, for the loop to compile."""
        return [part for part in self._parts().values() if isinstance(part, nn.Module)]

    def state_dict(self) -> dict[str, Any]:
        """All that training needs to resume, but for the random state and the data order."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`; the tensors may lie on another device.

        Raises ValueError, KeyError or TypeError for anything but the state of such a variant.
        """
        parts = self._parts()
        if state.keys() != parts.keys():
            raise ValueError(f"it has the parts {', '.join(map(str, state))}, and not {', '.join(parts)}")
        fresh = {
            name: [weight.detach().clone() for group in part.param_groups for weight in group["params"]]
            for name, part in parts.items()
            if isinstance(part, torch.optim.Optimizer)
        }
        for name, part in parts.items():
            load_part(name, part, state[name])
        for name, weights in fresh.items():
            require_untrained(name, parts[name], weights)
