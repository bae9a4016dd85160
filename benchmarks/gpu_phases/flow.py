"""The flagship and its one-step student, trained within seconds, exported, and scored by judges."""

import copy
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_phases.common import CLASSES, SEED, SIDE, Results, Run, check, conclude
from torch import nn

import lekhani
from lekhani import params
from lekhani.data.spec import Bytes, Labels
from lekhani.evaluate.frechet import frechet, moments
from lekhani.evaluate.judge import read, train_judge
from lekhani.export.onnx_file import export_onnx, generator_inputs, parity, require_parity
from lekhani.export.weights import save_weights
from lekhani.inference.session import Reader
from lekhani.pictures import grid, save_png, to_uint8
from lekhani.train.devices import takes_bf16
from lekhani.train.loop import Trainer
from lekhani.variants import Variant

PRETRAINED = Path(lekhani.__file__).parent / "pretrained" / "devanagari"
IMAGES = 13_800  # to score, as many as DHCD's test split has
Read = Callable[[Bytes], tuple[Any, Any]]


def flow(run: Run, results: Results) -> None:
    """Judge, teacher and student, each written to the folder as soon as it is trained."""
    steps: Results = results.setdefault("steps", {})
    judges: dict[str, Read] = {"shipped": Reader(PRETRAINED / "judge.onnx", "cpu").read}
    trained: dict[str, Trainer] = {}
    if run.judge_images:
        check(run, steps, "judge", partial(train_a_judge, run, judges))
    seconds = min(run.flow_seconds, 0.55 * run.left())
    check(run, steps, "flow_matching", partial(train_for, run, "flow_matching", seconds, trained))
    run.save()
    seconds = min(run.student_seconds, 0.6 * run.left())
    if run.student == "drifting" or "flow_matching" in trained:
        check(run, steps, run.student, partial(train_for, run, run.student, seconds, trained))
        run.save()
    for name, trainer in trained.items():
        check(run, steps, f"scores of {name}", partial(scores, run, trainer, judges))
    if trained:
        picture = np.concatenate([drawn(run, trainer, 2 * len(CLASSES))[0] for trainer in trained.values()])
        save_png(grid(picture, 23), run.out / "samples.png")
    conclude(results, steps)
    told = [
        f"{name} FID {one['shipped']['fid']}, read as asked {one['shipped']['label_agreement']:.1%}"
        for name in trained
        if (one := steps[f"scores of {name}"])["state"] == "passed"
    ]
    results["headline"] += "; " + ", ".join(told)


def train_a_judge(run: Run, judges: dict[str, Read]) -> dict[str, Any]:
    """Train a judge on the device, and let it read, too."""
    choice = run.full.judge.model_copy(update={"images_seen": run.judge_images})
    bf16 = takes_bf16(run.full.train, run.device)
    net, report = train_judge(
        choice, run.data.train, run.data.test, len(CLASSES), SEED, run.device, lambda *_: None, bf16=bf16
    )
    save_weights(net, run.out / "judge.safetensors")
    judges["trained"] = partial(read, net.to(run.device))
    return {
        "images_seen": run.judge_images,
        "images_per_second": round(run.judge_images / report.seconds),
        "accuracy": round(report.accuracy, 4),
        "ece": round(report.ece, 4),
    }


def choices(run: Run) -> params.Params:
    """The full profile, with as many pairs as a minute of training has use for."""
    turbo = run.full.variants.turbo
    turbo = turbo.model_copy(update={"pairs_per_class": min(500, turbo.pairs_per_class)})
    return run.full.model_copy(update={"variants": run.full.variants.model_copy(update={"turbo": turbo})})


def train_for(run: Run, name: str, seconds: float, trained: dict[str, Trainer]) -> Mapping[str, Any]:
    """Train for so long, schedules over the time rather than over images; then write weights and ONNX."""
    start = time.perf_counter()
    teacher = trained["flow_matching"].ema.average if name == "turbo" else None
    trainer = run.trainer(name, choices(run), 10**9, teacher=teacher)
    trainer.restore()
    while (elapsed := time.perf_counter() - start) < seconds:
        trainer.steps = max(trainer.progress.step + 2, round(trainer.progress.step * seconds / elapsed))
        trainer.step()
        trainer.report()  # raises where a loss is not finite
    module = trainer.ema.average.eval()
    seen = trainer.progress.step * trainer.batch_size
    trained[name] = trainer
    save_weights(module, run.out / f"{name}.safetensors")
    difference = export(module, trainer.variant, run.out / f"{name}.onnx")
    require_parity(difference, run.full.evaluate.parity_tolerance, run.out / f"{name}.onnx")
    return {
        "images_seen": seen,
        "training_seconds": round(elapsed, 1),
        "images_per_second": round(seen / elapsed),
        "parity": float(f"{difference:.3g}"),
        "last": {key: round(value, 5) for key, value in (trainer.progress.rows or [{}])[-1].items()},
    }


def export(module: nn.Module, variant: Variant, path: Path) -> float:
    """Write a generator of `variant` as ONNX that `Generator` takes; returns its difference to torch, on the CPU."""
    on_cpu, inputs = copy.deepcopy(module).cpu().eval(), generator_inputs(variant.noise_dim, len(CLASSES))
    metadata = {
        "dataset": "devanagari",
        "variant": variant.name,
        "noise_dim": str(variant.noise_dim),
        "image_size": str(SIDE),
        "conditional": str(variant.conditional).lower(),
        "classes": json.dumps([asdict(one) for one in CLASSES], ensure_ascii=False),
    }
    export_onnx(on_cpu, inputs, ["images"], path, metadata)
    return parity(on_cpu, path, inputs)


@torch.no_grad()
def drawn(run: Run, trainer: Trainer, count: int) -> tuple[Bytes, Labels]:
    """Images uint8 [count,H,W] of all classes by turns, drawn on the device in float32, and their labels."""
    labels = torch.arange(count) % len(CLASSES)
    noise = torch.randn(count, trainer.variant.noise_dim, generator=torch.Generator().manual_seed(SEED))
    module = trainer.ema.average
    parts = zip(torch.split(noise, 1024), torch.split(labels, 1024), strict=True)
    images = [module(z.to(run.device), y.to(run.device)).float().cpu().numpy() for z, y in parts]
    return to_uint8(np.concatenate(images)), labels.numpy()


def scores(run: Run, trainer: Trainer, judges: Mapping[str, Read]) -> dict[str, Any]:
    """Each judge's Frechet distance to the test split, beside that of train images, and label agreement."""
    count = 184 if run.miniature else min(IMAGES, len(run.data.train[0]))
    images, labels = drawn(run, trainer, count)
    few = np.random.default_rng(SEED).choice(len(run.data.train[0]), count, replace=False)
    found: dict[str, Any] = {"images": count}
    for name, judge in judges.items():
        generated, test, train = judge(images), judge(run.data.test[0]), judge(run.data.train[0][few])
        real = moments(test[0])
        found[name] = {
            "fid": round(frechet(*real, *moments(generated[0])), 4),
            "fid_floor": round(frechet(*real, *moments(train[0])), 4),
            "label_agreement": round(float((generated[1].argmax(1) == labels).mean()), 4),
        }
    return found
