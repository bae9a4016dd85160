"""Writing datasets of generated glyphs beside the bare session that draws them, by turns in one process.

    python benchmarks/serve.py models/devanagari/*/generator.onnx [--images 2000] [--repeats 3] [--out benchmarks/results/serve_cpu.json]

session  Generator.run over the same noise, labels and batch size: the images come as float32 and are dropped
FORMAT   `lekhani generate` without its start: shards drawn, encoded and written, with their checksums and datasheet

A ratio is of medians of images per second, in parts of `session`. Since all ways run by turns, a busy machine slows all of them; the
processor's own seconds say what each needs by itself.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lekhani.serve.draw import Plan, Wishes
from lekhani.serve.formats import LAYOUTS
from lekhani.serve.pen import Pen
from lekhani.serve.session import Generator
from lekhani.serve.write import Request, counts, write_dataset


def bare(generator: Generator, images: int, batch_size: int) -> None:
    """Draw, and nothing else."""
    noise = np.random.default_rng(0).standard_normal((images, generator.noise_dim), dtype=np.float32)
    labels = np.arange(images, dtype=np.int64) % len(generator.classes)
    for start in range(0, images, batch_size):
        generator.run(noise[start : start + batch_size], labels[start : start + batch_size])


def written(pen: Pen, images: int, form: Any) -> None:
    """Write a dataset of two shards, and remove it."""
    with tempfile.TemporaryDirectory() as folder:
        request = Request(Plan(counts(pen.classes, total=images), -(-images // 2)), Wishes(), form)
        write_dataset(pen, request, f"{folder}/out")


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds that went by, and that processors worked."""
    start, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - busy


def measure(pen: Pen, images: int, repeats: int) -> dict[str, Any]:
    """Images per second of each way and its ratio to the session, by wall clock and by processor time."""
    batch_size = 128
    ways: dict[str, Callable[[], None]] = {"session": lambda: bare(pen.generator, images, batch_size)}
    ways |= {form: (lambda form=form: written(pen, images, form)) for form in LAYOUTS}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, work in ways.items():
            seconds = timed(work)
            if turn:  # the first one warms up
                taken[name].append(seconds)
    middle = {name: [statistics.median(column) for column in zip(*values, strict=True)] for name, values in taken.items()}
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
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    results = {}
    for path in given.models:
        generator = Generator(path)
        generator.conditional = True  # a judge's choice is not what is measured
        results["/".join(path.parts[-3:-1])] = found = measure(Pen(generator, None, str(path)), given.images, given.repeats)
        print(path.parent)
        for name, one in found.items():
            print(f"  {name:12} {one['images_per_second']:>10,.0f} images/s {one['ratio']:>8.2f} {one['cpu_ratio']:>8.2f} by processor time")
    if given.out:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
        report = {
            "commit": commit,
            "device": f"{len(os.sched_getaffinity(0))} x {platform.machine()}",
            "onnxruntime": version("onnxruntime-gpu"),
            "images": given.images,
            "generate": results,
        }
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
