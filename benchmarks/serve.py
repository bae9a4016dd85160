"""ONNX Runtime beside torch on the same weights, and writing datasets beside the bare session, by turns in one process.

    python benchmarks/serve.py models/devanagari/*/generator.onnx [--batch-sizes 1 16 64] [--images N] [--repeats N]
        [--out FILE.json]
    python benchmarks/serve.py models/devanagari/*/generator.onnx --provider auto --batch-sizes 1 64 1024 4096
        --images 100000 [--no-compile]     # with a GPU

eager    the torch module that was exported, in inference mode, with as many threads as the session has
compile  the same after torch.compile, once for each batch size, which takes minutes for a generator of many steps;
         left out with --no-compile
session  Generator.run with the same noise and labels, whose float32 images are dropped; on a GPU in float16 where
         that does not show
FORMAT   `lekhani generate` without its start-up: shards sampled, encoded and written, with checksums and datasheet

Ratios are of medians of images per second: to `eager` for each batch size, and to `session` for each format. Since all
of them run by turns, a busy machine slows all of them; the processor's own seconds show what each needs by itself. All
start from noise in the machine's memory and end with images there. The share of the roofline is the session's: its
floating-point operations, counted by torch, against the best of several large products of the same precision, of
matrices and by convolution, timed here before and after. Run it in a project after `make demo`.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engines import device_of, engines, operations
from origin import origin
from roofline import peak_flops

from lekhani import params
from lekhani.files import write_json
from lekhani.generate.formats import FORMATS
from lekhani.generate.shards import DatasetRequest
from lekhani.generate.write import counts, write_dataset
from lekhani.inference.sampling import Plan, SamplingOptions
from lekhani.inference.session import Generator
from lekhani.pen import Pen
from lekhani.stages.trained import load_trained


def bare(generator: Generator, images: int, batch_size: int) -> None:
    """Draw, and nothing else."""
    noise = np.random.default_rng(0).standard_normal((images, generator.noise_dim), dtype=np.float32)
    labels = np.arange(images, dtype=np.int64) % len(generator.classes)
    for start in range(0, images, batch_size):
        generator.run(noise[start : start + batch_size], labels[start : start + batch_size])


def write(pen: Pen, images: int, format: Any) -> None:
    """Write a dataset of two shards, and remove it."""
    with tempfile.TemporaryDirectory() as folder:
        request = DatasetRequest(Plan(counts(pen.classes, total=images), -(-images // 2)), SamplingOptions(), format)
        write_dataset(pen, request, f"{folder}/out")


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds that went by, and that processors worked."""
    start, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - busy


def measure(pen: Pen, images: int, repeats: int) -> dict[str, Any]:
    """Images per second of each way and its ratio to the session, by wall clock and by processor time."""
    ways: dict[str, Callable[[], None]] = {
        "session": lambda: bare(pen.generator, images, pen.generator.batch_size_for(images))
    }
    ways |= {format: (lambda format=format: write(pen, images, format)) for format in FORMATS}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, work in ways.items():
            os.sync()  # or what one way leaves to be brought to the disk slows the next
            seconds = timed(work)
            if turn:  # the first one warms up
                taken[name].append(seconds)
    middle = {
        name: [statistics.median(column) for column in zip(*values, strict=True)] for name, values in taken.items()
    }
    return {
        name: {
            "images_per_second": round(images / wall, 1),
            "ratio": round(middle["session"][0] / wall, 3),
            "cpu_ratio": round(middle["session"][1] / busy, 3),
        }
        for name, (wall, busy) in middle.items()
    }


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="exported generators; those that take no label draw any")
    parser.add_argument("--provider", choices=("cpu", "auto"), default="cpu", help="auto: the GPU, where there is one")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 4, 16, 64, 256])
    parser.add_argument("--images", type=int, default=2000, help="of the written datasets")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave torch.compile out")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    p = params.load()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    results: dict[str, dict[str, Any]] = {}
    for path in given.models:
        dataset, variant = path.parts[-3:-1]
        generator = Generator(path, given.provider, "auto")
        module = load_trained(p, dataset, variant)[1].generator().eval().to(device_of(generator))
        device, dtype = device_of(generator), getattr(torch, generator.precision)
        peak_flops(device, dtype)
        found = {
            str(size): engines(generator, module, size, given.repeats, compiled=given.compile)
            for size in given.batch_sizes
        }
        peak = peak_flops(device, dtype) / operations(generator, module)
        print(f"{path.parent}, {generator.device} in {generator.precision}: {peak:,.0f} images/s at the roofline")
        for size, one in found.items():
            one["roofline_share"] = round(one["session"] / peak, 3)
            ways = [name for name in ("compile", "session") if name in one]
            ratios = " ".join(f"{name} {one[name]:,.0f} ({one[f'{name}_ratio']:.2f})" for name in ways)
            share = f"{one['roofline_share']:.1%} of the roofline"
            print(f"  batch {size:>4}: images/s: eager {one['eager']:,.0f} {ratios}, {share}")
        generator.conditional = True  # a judge's choice is not what is measured
        formats = measure(Pen(generator, None, str(path)), given.images, given.repeats)
        for name, one in formats.items():
            rate = f"{one['images_per_second']:>10,.0f} images/s"
            print(f"  {name:12} {rate} {one['ratio']:>8.2f} {one['cpu_ratio']:>8.2f} by processor time")
        ran = {"device": generator.device, "precision": generator.precision}
        results[f"{dataset}/{variant}"] = {**ran, "engines": found, "formats": formats}
    if given.out:
        write_json(given.out, {**origin("onnxruntime-gpu", "torch"), "images": given.images, "models": results})


if __name__ == "__main__":
    main()
