"""Everything that only a GPU can prove, within nine minutes of one.

    python benchmarks/gpu.py --out FOLDER [--data FOLDER] [--minutes 9] [--only PHASE ...] [--no-compile]
    python benchmarks/gpu.py --out FOLDER --miniature     # all of it in small on any machine, as the tests do

correctness  losses of 20 steps of every variant as on the CPU, second derivatives, resuming, scores, export
speed        training at full size beside textbook loops; kernels per step; share of the roofline
flow         a judge, flow_matching at full size for 150 s and its one-step student, exported and scored
onnx         ONNX Runtime's CUDA provider against its CPU provider, and beside torch; needs onnxruntime-gpu
graphs       train.cuda_graphs: losses as without it, resuming, and how much faster steps are

It needs torch, onnx, onnxscript, onnxruntime, safetensors, scipy, pydantic and what `import lekhani.params` asks for,
and neither the project's data nor its services. FOLDER of --data holds dhcd_train.npz and dhcd_test.npz with `images`
uint8 [N,32,32], white on black, and `labels` int64 [N]; without it the embedded glyphs are drawn, or random blobs where
the text shaper is not installed. Each phase ends at its share of the time, what one leaves goes to the next, and
gpu.json is written after each. The exit code is 1 if one failed.
"""

import argparse
import gc
import math
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_phases.common import CLASSES, SEED, SIDE, Data, Results, Run, SkipError, described
from gpu_phases.correctness import correctness
from gpu_phases.flow import flow
from gpu_phases.graphs import graphs
from gpu_phases.sessions import sessions
from gpu_phases.speed import speed
from origin import origin

from lekhani import params
from lekhani.errors import UsageError
from lekhani.files import write_json
from lekhani.train.devices import pick_device

Phase = Callable[[Run, Results], None]
PHASES: dict[str, tuple[Phase, float]] = {  # with its seconds of nine minutes
    "correctness": (correctness, 90),
    "speed": (speed, 60),
    "flow": (flow, 280),
    "onnx": (sessions, 60),
    "graphs": (graphs, 50),
}
PACKAGES = ("torch", "triton", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "tensorrt", "numpy")
TINY: dict[str, dict[str, Any]] = {
    "mlp_gan": {"width": 16},
    "cgan": {"width": 16},
    "dcgan": {"channels": 8},
    "wgan_gp": {"channels": 8, "n_dis": 2},
    "sngan": {"channels": 8},
    "r3gan": {"channels": 8},
    "draw": {"hidden": 16, "steps": 3, "latent_dim": 4},
    "flow_matching": {"channels": (8, 16), "steps": 2},
    "turbo": {"pairs_per_class": 2},
    "drifting": {"channels": (8, 16), "encoder_width": 4, "real_per_class": 2, "generated_per_class": 4},
}


def choices(profile: str, miniature: bool) -> params.Params:
    """A profile of params.yaml, or its smallest likeness."""
    p = params.resolve(params.read(Path(__file__).parents[1] / "params.yaml") | {"profile": profile})
    if not miniature:
        return p
    variants = {
        name: getattr(p.variants, name).model_copy(update={**TINY.get(name, {}), "batch_size": 16})
        for name in params.VARIANT_SETTINGS
    }
    changes = {"variants": p.variants.model_copy(update=variants), "judge": p.judge.model_copy(update={"width": 4})}
    return p.model_copy(update=changes)


def load_data(folder: Path | None, miniature: bool) -> tuple[str, Data]:
    """What the data is, and the images."""
    if folder is not None:
        splits = []
        for split in ("train", "test"):
            path = folder / f"dhcd_{split}.npz"
            if not path.exists():
                raise UsageError(f"There is no {path}; name the folder of dhcd_train.npz and dhcd_test.npz.")
            with np.load(path, allow_pickle=False) as saved:
                splits.append((saved["images"], saved["labels"].astype(np.int64)))
        return "dhcd", Data(*splits)
    if not miniature:
        try:
            from lekhani.data.sources.embedded import devanagari
        except ImportError:
            print("The text shaper is not installed, so the data is random blobs: scores of images say nothing.")
        else:
            raw = devanagari(SEED, 400, 60)
            images, test = np.stack(list(raw.images)), np.array(raw.splits) == "test"
            return "embedded", Data((images[~test], raw.labels[~test]), (images[test], raw.labels[test]))
    return "blobs", Data(blobs(20 if miniature else 400, 1), blobs(6 if miniature else 60, 2))


def blobs(per_class: int, seed: int) -> tuple[Any, Any]:
    """Four spots for each class, at places of its own that vary a little from image to image."""
    centres = np.random.default_rng(0).uniform(6, SIDE - 6, (len(CLASSES), 1, 4, 2))
    rng, pixels = np.random.default_rng(seed), np.arange(SIDE)
    places = centres + rng.normal(0, 0.8, (len(CLASSES), per_class, 4, 2))
    rows, columns = np.exp(-((pixels - places[..., None]) ** 2) / 6).transpose(3, 0, 1, 2, 4)
    images = np.einsum("knsh,knsw->knhw", rows, columns).clip(0, 1) * 255
    return images.reshape(-1, SIDE, SIDE).astype(np.uint8), np.repeat(np.arange(len(CLASSES)), per_class)


def run_phase(run: Run, name: str, results: Results) -> None:
    """Run one phase and note how it ended."""
    start = time.perf_counter()
    try:
        PHASES[name][0](run, results)
        results["state"] = "partial" if results.get("left_out") else "passed"
    except SkipError as reason:
        results |= {"state": "skipped", "headline": str(reason)}
    except Exception as error:  # the next phase is to run whatever it is
        results |= {"state": "failed", "headline": described(error), "traceback": traceback.format_exc()}
    results["seconds"] = round(time.perf_counter() - start, 1)
    gc.collect()
    if run.device.type == "cuda":
        torch.cuda.empty_cache()


def finite(value: Any) -> Any:
    """`value` with numbers that JSON does not have as text."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def main(words: list[str] | None = None) -> int:
    """Run the phases, print a table and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json, weights and samples.png")
    parser.add_argument("--data", type=Path, help="folder of dhcd_train.npz and dhcd_test.npz")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--only", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--flow-seconds", type=float, default=150.0, help="of training flow_matching, at most")
    parser.add_argument("--student", choices=("turbo", "drifting"), default="turbo")
    parser.add_argument("--student-seconds", type=float, default=65.0, help="of training it, at most")
    parser.add_argument("--judge-images", type=int, default=400_000, help="of training a judge; 0 leaves that out")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave torch.compile out")
    parser.add_argument("--miniature", action="store_true", help="tiny networks for seconds, to see that all runs")
    given = parser.parse_args(words)
    begun, device = time.perf_counter(), pick_device("auto")
    kind, data = load_data(given.data, given.miniature)
    named = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    found: dict[str, Any] = {
        **origin(*PACKAGES),
        "device": named,
        "cuda": torch.version.cuda,
        "data": kind,
        "minutes": given.minutes,
        "miniature": given.miniature,
        "phases": {},
    }
    run = Run(
        device=device,
        full=choices("full", given.miniature),
        quick=choices("quick", given.miniature),
        data=data,
        out=given.out,
        miniature=given.miniature,
        save=lambda: write_json(given.out / "gpu.json", finite(found)),
        flow_seconds=2.0 if given.miniature else given.flow_seconds,
        student=given.student,
        student_seconds=1.0 if given.miniature else given.student_seconds,
        judge_images=1000 if given.miniature else given.judge_images,
        compiled=given.compile and not given.miniature,
        deadline=begun,
    )
    share = given.minutes * 60 / sum(PHASES[name][1] for name in given.only)
    for name in given.only:
        run.deadline += PHASES[name][1] * share
        found["phases"][name] = {"state": "running"}
        print(f"{name} on {named}", flush=True)
        run_phase(run, name, found["phases"][name])
        run.save()
    print(f"\n{'phase':12} {'state':8} {'seconds':>8}")
    for name, one in found["phases"].items():
        print(f"{name:12} {one['state']:8} {one['seconds']:8.1f}  {one['headline']}")
    return int(any(one["state"] == "failed" for one in found["phases"].values()))


if __name__ == "__main__":
    sys.exit(main())
