"""From a torch module to an ONNX file with one common signature, and the proof that both compute the same."""

import logging
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lekhani.errors import LekhaniError
from lekhani.files import replacing

OPSET = 20
MAX_BATCH = 4096


def export_onnx(module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], path: Path, metadata: dict[str, str]) -> None:
    """Write `module` as ONNX with the first axis of every input and output free (1 to 4096), and `metadata` as metadata_props."""
    import onnx

    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise LekhaniError(f"torch.onnx could not export to {path}; this is a bug, please report it.")
    model = program.model_proto
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    with replacing(path) as temporary:
        onnx.save(model, temporary)


def parity(module: nn.Module, path: Path, inputs: dict[str, Tensor], batches: tuple[int, ...] = (1, 3, 17)) -> float:
    """Largest absolute difference between torch and ONNX Runtime over fresh inputs of several batch sizes.

    `inputs` shows the form: float tensors are drawn anew from N(0, 1), integer ones from 0 to their largest value.
    Several sizes, because an export that froze the batch size fails only at another one; such a failure is a LekhaniError.
    """
    import onnxruntime as ort

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for n in batches:
        feed = {name: _like(value, n, generator) for name, value in inputs.items()}
        with torch.no_grad():
            expected = module.eval()(*feed.values())
        try:
            got = session.run(None, {name: value.numpy() for name, value in feed.items()})
        except Exception as error:  # onnxruntime raises several classes of its own
            raise LekhaniError(f"{path} does not run at batch size {n}: {str(error).splitlines()[0]}") from error
        for one, other in zip(expected if isinstance(expected, tuple) else (expected,), got, strict=True):
            difference = float(np.abs(one.numpy() - other).max()) if one.shape == other.shape else float("inf")
            worst = max(worst, difference if np.isfinite(difference) else float("inf"))
    return worst


def latency_ms(path: Path, inputs: dict[str, Tensor], batch: int = 1, repeats: int = 20) -> float:
    """Median milliseconds of one ONNX Runtime call on the CPU at `batch`, after three calls of warm-up."""
    import onnxruntime as ort

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    feed = {name: _like(value, batch, generator).numpy() for name, value in inputs.items()}
    times = []
    for _ in range(3 + repeats):
        started = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - started)
    return float(np.median(times[3:]) * 1000)


def generator_inputs(noise_dim: int, n_classes: int) -> dict[str, Tensor]:
    """Example inputs of the common signature: `noise` float32 [3, noise_dim], `labels` int64 [3] reaching to the last class."""
    return {"noise": torch.zeros(3, noise_dim), "labels": torch.tensor([0, n_classes // 2, n_classes - 1])}


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata_props of an ONNX file."""
    import onnx

    model: Any = onnx.load(path, load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props}


def _like(example: Tensor, n: int, generator: torch.Generator) -> Tensor:
    shape = (n, *example.shape[1:])
    if example.is_floating_point():
        return torch.randn(shape, generator=generator)
    return torch.randint(0, int(example.max()) + 1, shape, generator=generator)
