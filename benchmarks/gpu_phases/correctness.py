"""The device computes what the CPU does: training steps, export, resuming, second derivatives, scores."""

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_phases.common import CLASSES, CPU, SEED, SIDE, CheckError, Results, Run, check, conclude, require
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lekhani import params
from lekhani.evaluate.frechet import frechet, moments
from lekhani.evaluate.judge import JudgeNet, read
from lekhani.export.onnx_file import export_onnx, generator_inputs, parity
from lekhani.train.checkpoint import Checkpoints
from lekhani.train.loop import Trainer, speed_up
from lekhani.variants import VARIANTS

STEPS = 20
# By how much losses in full float32 may differ from the CPU's, in parts of the largest. Another order of sums alone
# makes them differ by 1e-6 at the first step, by 4e-4 within five and by 0.11 within twenty (sngan, by two ways of the
# CPU to convolve), as Adam turns the last bits of a gradient that is almost 0 into whole steps.
FIRST, EARLY, LATE = 1e-4, 1e-2, 0.4
EARLY_STEPS = 5
SECOND_DERIVATIVES = ("wgan_gp", "r3gan")
RESUMED = ("dcgan", "flow_matching")


class CpuNoise(TorchFunctionMode):
    """Draws every random number on the CPU and moves it, so that two devices get the same ones from the same seed."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """See torch."""
        given, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name in {"randn", "rand", "randint", "randperm"}:
            device = given.pop("device", None) or CPU
            if (own := given.get("generator")) is not None:  # as it starts, which is all that variants use
                given["generator"] = torch.Generator().manual_seed(own.initial_seed())
            return func(*args, **given).to(device)
        if name in {"randn_like", "rand_like", "bernoulli"}:
            return func(args[0].cpu(), *args[1:], **given).to(args[0].device)
        if name == "dropout" and given.get("training", True):
            keep = 1 - given.get("p", 0.5)
            return args[0] * torch.bernoulli(torch.full(args[0].shape, keep)).to(args[0].device) / keep
        return func(*args, **given)


@contextmanager
def exact() -> Iterator[None]:
    """Float32 in full, so without TF32, and the same algorithms every time."""
    cudnn, before = torch.backends.cudnn, torch.get_float32_matmul_precision()
    flags = cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = False, False, True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = flags


def correctness(run: Run, results: Results) -> None:
    """Every check by its name; one that fails stops no other."""
    checks: Results = results.setdefault("checks", {})
    for name in VARIANTS:
        check(run, checks, f"losses of {name}", partial(same_losses, run, name))
    for name in SECOND_DERIVATIVES:
        check(run, checks, f"second derivative of {name}", partial(second_derivative, run, name))
    for name in RESUMED:
        check(run, checks, f"resuming {name}", partial(resuming, run, name))
    check(run, checks, "checkpoints both ways", partial(checkpoints_both_ways, run))
    check(run, checks, "judge and Frechet distance", partial(judging, run))
    for name in ("cgan", "dcgan") if run.miniature else VARIANTS:  # an export takes seconds
        check(run, checks, f"export of {name}", partial(trained_and_exported, run, name))
    conclude(results, checks)


def batch(run: Run, size: int, step: int) -> tuple[Tensor, Tensor]:
    """Images float32 [size,1,H,W] in [0,1] and labels, on the CPU."""
    rows = np.random.default_rng([SEED, step]).integers(len(run.data.train[0]), size=size)
    images, labels = (torch.from_numpy(array[rows]) for array in run.data.train)
    return images.unsqueeze(1).float() / 255, labels


def short(choices: params.Variants) -> params.Variants:
    """Settings in which a few steps reach everything: pairs and real features are quickly there."""
    changes = {"turbo": {"pairs_per_class": 2}, "drifting": {"real_per_class": 2, "encoder_share": 0.4}}
    changed = {name: getattr(choices, name).model_copy(update=change) for name, change in changes.items()}
    return choices.model_copy(update=changed)


def losses(run: Run, name: str, device: torch.device) -> dict[str, list[float]]:
    """What the losses are at each of some steps from the seed's weights, by their names."""
    choices, steps = short(run.quick.variants), 6 if run.miniature else STEPS
    torch.manual_seed(SEED)
    variant = VARIANTS[name].build(choices, SIDE, len(CLASSES), device)
    found: dict[str, list[float]] = {}
    for step in range(steps):
        variant.progress = step / steps
        images, labels = batch(run, getattr(choices, name).batch_size, step)
        told = variant.step(images.to(device), labels.to(device))
        for key, value in told.items():
            if key.startswith("loss"):
                found.setdefault(key, []).append(float(value))
    return found


def same_losses(run: Run, name: str) -> dict[str, Any]:
    """Losses of steps in full float32 on the device and on the CPU, from the same weights and the same noise."""
    with exact(), CpuNoise():
        expected, got = (losses(run, name, device) for device in (CPU, run.device))
    differences = relative(expected, got)
    return {
        "first": require("the first step's difference to the CPU", differences[0], FIRST),
        "early": require(f"that within {EARLY_STEPS} steps", max(differences[:EARLY_STEPS]), EARLY),
        "largest": require(f"that within {len(differences)} steps", max(differences), LATE),
        "losses": {key: [round(value, 5) for value in (values[0], values[-1])] for key, values in got.items()},
    }


def relative(expected: Mapping[str, list[float]], got: Mapping[str, list[float]]) -> list[float]:
    """The largest difference at each step, in parts of the largest value of each loss; infinite for NaN."""
    columns = []
    for key, values in expected.items():
        scale = max(map(abs, values)) or 1.0
        differences = np.abs(np.subtract(values, got[key])) / scale
        columns.append(np.nan_to_num(differences, nan=np.inf))
    return [float(value) for value in np.max(columns, axis=0)]


def second_derivative(run: Run, name: str) -> dict[str, Any]:
    """Steps of the full networks, in the precision in use; the penalties differentiate through a gradient."""
    torch.manual_seed(SEED)
    variant = VARIANTS[name].build(run.full.variants, SIDE, len(CLASSES), run.device)
    speed_up(variant, run.full.train, run.device)
    for step in range(max(4, run.full.variants.wgan_gp.n_dis)):
        images, labels = batch(run, getattr(run.full.variants, name).batch_size, step)
        told = variant.step(images.to(run.device), labels.to(run.device))
        values = {key: float(value) for key, value in told.items()}
        if bad := [key for key, value in values.items() if not np.isfinite(value)]:
            raise CheckError(f"{bad[0]} of {name} is {values[bad[0]]} at step {step + 1}")
    for part in variant.networks():
        if not all(bool(torch.isfinite(weight).all()) for weight in part.parameters()):
            raise CheckError(f"a weight of {name} is not finite")
    precision = "fp32" if not isinstance(variant.autocast, torch.autocast) else "bf16"
    return {"precision": precision, "metrics": {key: round(value, 5) for key, value in values.items()}}


def rows(trainer: Trainer, steps: int) -> list[dict[str, float]]:
    """The metrics of each step so far, after so many more."""
    for _ in range(steps):
        trainer.step()
        trainer.report()
    return trainer.progress.rows


def loss_columns(told: list[dict[str, float]]) -> dict[str, list[float]]:
    """What the losses were at each step, by their names."""
    return {key: [row[key] for row in told] for key in told[0] if "loss" in key}


def resuming(run: Run, name: str, **train: Any) -> dict[str, Any]:
    """Metrics of twelve steps, unbroken and with a stop after six, in the precision in use; `train` to its settings."""
    p = run.quick.model_copy(update={"train": run.quick.train.model_copy(update={"log_every": 1, **train})})
    images = 12 * getattr(p.variants, name).batch_size
    with tempfile.TemporaryDirectory() as folder, exact():

        def begun(saved: bool) -> Trainer:
            checkpoints = Checkpoints(Path(folder), {"name": name}) if saved else None
            trainer = run.trainer(name, p, images, checkpoints=checkpoints)
            trainer.restore()
            return trainer

        expected = copy.deepcopy(rows(begun(False), 12))
        first = begun(True)
        rows(first, 6)
        first.save(now=True)
        second = begun(True)
        if second.progress.step != 6:
            raise CheckError(f"training went on from step {second.progress.step}, and stopped after step 6")
        got = rows(second, 6)
    differences = relative(loss_columns(expected), loss_columns(got))[6:]
    return {
        "first": require("the difference of the first loss after the stop", differences[0], EARLY),
        "largest": require("the difference of a loss after the stop", max(differences), LATE),
        "same_bits": got == expected,
    }


def checkpoints_both_ways(run: Run) -> dict[str, Any]:
    """A checkpoint of the device goes on on the CPU, and the other way round."""
    p, name = run.quick, "dcgan"
    images = 6 * getattr(p.variants, name).batch_size
    for saved_on, taken_on in ((run.device, CPU), (CPU, run.device)):
        with tempfile.TemporaryDirectory() as folder:
            for device in (saved_on, taken_on):
                checkpoints = Checkpoints(Path(folder), {"name": name})
                trainer = run.trainer(name, p, images, checkpoints=checkpoints, device=device)
                trainer.restore()
                rows(trainer, 2)
                trainer.save(now=True)
        if trainer.progress.step != 4:
            raise CheckError(f"{taken_on} did not go on from the checkpoint of {saved_on}")
    return {"ways": [f"{run.device.type} to cpu", f"cpu to {run.device.type}"]}


def judging(run: Run) -> dict[str, Any]:
    """A judge's features and the Frechet distance of two sets of images, by the device and by the CPU."""
    torch.manual_seed(SEED)
    net = JudgeNet(len(CLASSES), 16)
    with torch.no_grad():
        for step in range(20):  # so that it normalises
            net(batch(run, 64, step)[0])
    net.eval()
    (images, labels), middle = run.data.train, len(CLASSES) // 2
    sets = [images[labels < middle][:2000], images[labels >= middle][:2000]]
    expected = [read(net, images)[0] for images in sets]
    distance = frechet(*(value for one in expected for value in moments(one)))
    net.to(run.device)
    found: dict[str, Any] = {"distance": round(distance, 5)}
    for precision, tolerance in (("fp32", 1e-3), ("default", 0.03)):  # by default cuDNN computes in TF32
        if precision == "fp32":
            with exact():
                got = [read(net, images)[0] for images in sets]
        else:
            got = [read(net, images)[0] for images in sets]
        scale = max(float(np.abs(one).max()) for one in expected)
        worst = max(float(np.abs(one - other).max()) for one, other in zip(expected, got, strict=True)) / scale
        mine = frechet(*(value for one in got for value in moments(one)))
        found[precision] = {
            "feature_difference": require(f"the largest difference of a feature in {precision}", worst, tolerance),
            "distance_difference": require(
                f"the difference of the distance in {precision}", abs(mine - distance) / distance, tolerance
            ),
        }
    return found


def trained_and_exported(run: Run, name: str) -> dict[str, Any]:
    """A few steps of the loop on the device, in the precision in use; then the average as ONNX, checked for parity."""
    p = run.quick.model_copy(update={"variants": short(run.quick.variants)})
    trained = run.trainer(name, p, 5 * getattr(p.variants, name).batch_size).fit()
    inputs = generator_inputs(trained.variant.noise_dim, len(CLASSES))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "generator.onnx")
        export_onnx(trained.generator, inputs, ["images"], path, {})
        difference = parity(trained.generator, path, inputs)
    most = p.evaluate.parity_tolerance
    return {"device": trained.device, "parity": require("the difference to ONNX Runtime", difference, most)}
