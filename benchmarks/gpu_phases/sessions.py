"""ONNX Runtime on the device: the same images as on the CPU, in both precisions, and how fast beside torch."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from engines import engines, operations
from gpu_phases.common import CLASSES, SIDE, CheckError, Results, Run, SkipError, check, conclude, require
from gpu_phases.flow import PRETRAINED, choices, export
from roofline import peak_flops
from torch import Tensor, nn

from lekhani.export.weights import load_weights
from lekhani.inference.session import HALF_TOLERANCE, Generator, Precision
from lekhani.variants import VARIANTS

PRECISIONS: tuple[Precision, ...] = ("float32", "float16")
TOLERANCE = {"float32": 1e-3, "float16": HALF_TOLERANCE}
PARITY_SIZES = (1, 3, 64, 1024)
SPEED_SIZES = (1, 64, 1024, 4096)


class Half(nn.Module):
    """A generator whose products are in float16, as those of the session that it is held against."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.module, self.device = module, device

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """See Variant.generator."""
        with torch.autocast(self.device.type, torch.float16):
            return self.module(noise, labels).float()  # type: ignore[no-any-return]


def sessions(run: Run, results: Results) -> None:
    """Parity of the shipped generators and of this run's, then speed of this run's."""
    if run.device.type == "cuda" and "CUDAExecutionProvider" not in ort.get_available_providers():
        raise SkipError("onnxruntime-gpu is not installed here")
    checks: Results = results.setdefault("checks", {})
    with tempfile.TemporaryDirectory() as folder:
        models = {name: model(run, name, Path(folder)) for name in ("flow_matching", run.student)}
        paths = {f"shipped {name}": PRETRAINED / f"{name}.onnx" for name in ("generator", "drifting")}
        paths |= {name: path for name, (path, _) in models.items()}
        for name, path in list(paths.items())[-1 if run.miniature else 0 :]:
            check(run, checks, f"parity of {name}", partial(same_images, run, path))
        for precision in PRECISIONS[: 1 if run.miniature else None]:
            for name, (path, module) in reversed(models.items()):
                check(run, checks, f"speed of {name} in {precision}", partial(speeds, run, path, module, precision))
        path, module = models[run.student]
        check(run, checks, f"channels last for {run.student}", partial(channels_last, run, path, module))
        run.save()
        if run.device.type == "cuda" and find_spec("tensorrt"):
            check(run, checks, "TensorRT", partial(tensorrt, run, path, module, Path(folder)))
        else:
            results["tensorrt"] = "not installed here"
        if run.compiled:  # last, since each size takes so long
            for size in SPEED_SIZES:
                work = partial(speeds, run, path, module, "float32", (size,), compiled=True)
                check(run, checks, f"{run.student} beside torch.compile at {size}", work)
    conclude(results, checks)


def model(run: Run, name: str, folder: Path) -> tuple[Path, nn.Module]:
    """A generator as ONNX and in torch: what the phase before left in the folder, or else an untrained one."""
    variant = VARIANTS[name].build(choices(run).variants, SIDE, len(CLASSES), run.device)
    module, path, weights = variant.generator().eval(), run.out / f"{name}.onnx", run.out / f"{name}.safetensors"
    if path.exists() and weights.exists():
        load_weights(module, weights)
    else:
        path = folder / f"{name}.onnx"
        export(module, variant, path)
    return path, module


def opened(run: Run, path: Path, precision: Precision, device: str = "CUDA") -> Generator:
    """A session on the device; raises CheckError where it is on another one."""
    generator = Generator(path, "auto" if run.device.type == "cuda" else "cpu", precision)
    if run.device.type == "cuda" and generator.device != device:
        raise CheckError(f"ONNX Runtime opened {path.name} on {generator.device}, not on {device}")
    return generator


def same_images(
    run: Run, path: Path, precisions: tuple[Precision, ...] = PRECISIONS, device: str = "CUDA"
) -> dict[str, Any]:
    """The largest difference of a pixel to the CPU's float32 session, at several batch sizes."""
    reference, inputs = Generator(path, "cpu"), {}
    for n in PARITY_SIZES[: 2 if run.miniature else None]:
        noise = np.random.default_rng(n).standard_normal((n, reference.noise_dim), dtype=np.float32)
        labels = np.arange(n, dtype=np.int64) % len(reference.classes)
        inputs[n] = noise, labels, reference.run(noise, labels)
    found: dict[str, Any] = {}
    for precision in precisions:
        generator = opened(run, path, precision, device)
        found[precision] = {"device": generator.device, "ran_in": generator.precision}
        for n, (noise, labels, expected) in inputs.items():
            difference = float(np.abs(generator.run(noise, labels) - expected).max())
            what = f"the difference of {n} images in {precision} to the CPU's"
            # TensorRT computes float32 in TF32, which has the digits of float16.
            most = HALF_TOLERANCE if device == "Tensorrt" else TOLERANCE[precision]
            found[precision][str(n)] = require(what, difference, most)
    return found


def speeds(
    run: Run,
    path: Path,
    module: nn.Module,
    precision: Precision,
    sizes: tuple[int, ...] = SPEED_SIZES,
    device: str = "CUDA",
    *,
    compiled: bool = False,
) -> Mapping[str, Any]:
    """Images per second by batch size, with the session's share of the roofline.

    In float32 the session computes in full, and torch may use TF32, as it does in training.
    """
    generator = opened(run, path, precision, device)
    dtype = getattr(torch, generator.precision)
    peak_flops(run.device, dtype, sides=run.sides)
    beside = Half(module, run.device) if generator.precision == "float16" else module
    repeats, turn = (1, 0.05) if run.miniature else (2, 0.2)
    found = {
        str(size): engines(generator, beside, size, repeats, compiled=compiled, turn=turn)
        for size in (sizes[:2] if run.miniature else sizes)
    }
    peak = peak_flops(run.device, dtype, sides=run.sides) / operations(generator, module)
    for one in found.values():
        one["roofline_share"] = round(one["session"] / peak, 4)
    return {"device": generator.device, "precision": generator.precision, "images_per_second": found}


def channels_last(run: Run, path: Path, module: nn.Module) -> dict[str, Any]:
    """Speed in batches of 1,024 without and with `prefer_nhwc`, with which the images must be the CPU's, too."""
    precisions = PRECISIONS[: 1 if run.miniature else None]
    sizes = SPEED_SIZES[:1] if run.miniature else (1024,)
    found: dict[str, Any] = {name: {"without": speeds(run, path, module, name, sizes)} for name in precisions}
    with environment("LEKHANI_NHWC", "1"):
        for name in precisions:
            found[name]["with"] = speeds(run, path, module, name, sizes)
        return {"parity": same_images(run, path, precisions), **found}


def tensorrt(run: Run, path: Path, module: nn.Module, folder: Path) -> dict[str, Any]:
    """Parity and speed with TensorRT before CUDA; building its engines takes most of the time."""
    with environment("LEKHANI_TENSORRT", str(folder / "engines")):
        parity = same_images(run, path, ("float32",), "Tensorrt")
        return {"parity": parity, "speed": speeds(run, path, module, "float32", (1024,), "Tensorrt")}


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """A variable of the environment, which is gone afterwards."""
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
