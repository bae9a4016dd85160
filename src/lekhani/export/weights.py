"""Weights as safetensors: no pickle is written or read."""

from pathlib import Path

from safetensors.torch import load_file, save
from torch import nn

from lekhani.errors import LekhaniError, first_line
from lekhani.files import replacing
from lekhani.variants.state import load_part


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's state; the same weights give the same bytes, whatever their layout in memory."""
    with replacing(path) as temporary:
        # Written by Python, so that a full disk is an OSError like any other.
        temporary.write_bytes(save({name: value.contiguous() for name, value in module.state_dict().items()}))


def load_weights(module: nn.Module, path: Path, remedy: str = "run the stage that writes it again") -> None:
    """Fill a module from `save_weights`' file; raises LekhaniError, which ends in `remedy`, where it is of another."""
    try:
        load_part("weights", module, load_file(path))
    except Exception as error:  # safetensors and torch raise several classes of their own
        raise LekhaniError(f"{path} does not hold the weights it should ({first_line(error)}); {remedy}.") from error
