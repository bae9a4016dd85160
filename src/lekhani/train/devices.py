"""Where training runs, and in which precision."""

import torch

from lekhani import params
from lekhani.errors import LekhaniError


def pick_device(choice: str) -> torch.device:
    """`auto` takes a GPU when there is one; asking for one that is not there is a LekhaniError."""
    if choice == "cuda" and not torch.cuda.is_available():
        raise LekhaniError("train.device is `cuda`, but torch sees no GPU here; set it to `auto` or `cpu`.")
    return torch.device("cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu")


def takes_bf16(choice: params.Train, device: torch.device) -> bool:
    """Whether forward passes of training run in bfloat16.

    `auto` takes it where a GPU or a CPU's matrix unit (AMX) computes in it. AVX-512's instructions for it do not count:
    with them alone every variant and the judge trained 1.2 to 1.7 times slower than in float32.
    """
    if choice.precision != "auto":
        return choice.precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))
