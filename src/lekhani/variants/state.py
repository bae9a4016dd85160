"""A state from a file is taken as a whole or not at all: its names, shapes and types must be those of a fresh one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def load_part(name: str, part: Any, state: Any) -> None:
    """`part.load_state_dict` for a network, an optimiser or a counter; raises ValueError for anything but its state.

    An optimiser keeps its own settings: those of a checkpoint are the same, or its run would have been refused.
    """
    if isinstance(part, nn.Module):
        require_weights(name, part, state)
        part.load_state_dict(state)
    elif isinstance(part, torch.optim.Optimizer):
        _require_moments(name, part, state)
        part.load_state_dict({"state": state["state"], "param_groups": part.state_dict()["param_groups"]})
    elif isinstance(state, Mapping) and state.keys() == part.state_dict().keys():
        part.load_state_dict(state)
    else:
        raise ValueError(f"{name} has other entries than {', '.join(part.state_dict())}")


def require_weights(name: str, module: nn.Module, state: Any) -> None:
    """Raise ValueError where `state` is not the state of such a module, or not finite."""
    expected = module.state_dict()
    if not isinstance(state, Mapping) or state.keys() != expected.keys():
        found = set(state) if isinstance(state, Mapping) else set()
        differing = sorted(map(str, found ^ set(expected)))[:1] or ["all"]
        raise ValueError(f"{name} has other weights, such as {differing[0]!r}")
    for key, value in expected.items():
        require_like(f"{name}.{key}", state[key], value)
        if not bool(torch.isfinite(state[key]).all()):
            raise ValueError(f"{name}.{key} is not finite")


def _require_moments(name: str, optimiser: torch.optim.Optimizer, state: Any) -> None:
    """Raise ValueError where `state` does not have the two moments of every weight, or, before the first step, none."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    moments = state["state"] if isinstance(state, Mapping) and set(state) == {"state", "param_groups"} else None
    if not isinstance(moments, Mapping) or (moments and set(moments) != set(range(len(weights)))):
        raise ValueError(f"{name} is not the state of the optimiser of {len(weights)} weights")
    for number, found in moments.items():
        weight = weights[number]
        expected = {"step": torch.zeros((), dtype=torch.float32), "exp_avg": weight, "exp_avg_sq": weight}
        if not isinstance(found, Mapping) or set(found) != set(expected):
            raise ValueError(f"{name} does not have the two moments of weight {number}")
        for key, value in expected.items():
            require_like(f"{name}.{number}.{key}", found[key], value)
        if found["step"] != moments[0]["step"]:
            raise ValueError(f"{name} has taken another number of steps for weight {number}")


def require_untrained(name: str, optimiser: torch.optim.Optimizer, fresh: list[Tensor]) -> None:
    """Raise ValueError where an optimiser has no moments, and its weights are not the `fresh` ones."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    if not optimiser.state and not all(map(torch.equal, weights, fresh)):
        raise ValueError(f"{name} has no moments, though its weights have been trained")


def require_like(name: str, found: Any, expected: Tensor) -> None:
    """Raise ValueError where `found` is no tensor of this shape and type."""
    if not isinstance(found, Tensor) or found.layout != torch.strided:
        raise ValueError(f"{name} is no tensor")
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        what = f"{found.dtype} {list(found.shape)}"
        raise ValueError(f"{name} is {what}, and should be {expected.dtype} {list(expected.shape)}")


def require_scalar(value: Any) -> Tensor:
    """`value` if it is a metric, a dense floating-point tensor without axes; raises ValueError otherwise."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.shape != ():
        raise ValueError("a metric is no scalar")
    if not value.is_floating_point():
        raise ValueError(f"a metric is {value.dtype}")
    return value


def require_count(name: str, value: Any) -> int:
    """`value` if it counts something; raises ValueError otherwise."""
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise ValueError(f"{name} is {value!r:.40}, and should be a whole number from 0")
    return value
