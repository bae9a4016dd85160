"""Images per second of exported generators in ONNX Runtime, by turns in one process.

    python benchmarks/generate.py models/devanagari/*/generator.onnx [--batch-sizes 1 64 256] [--seconds 3]
        [--out FILE.json]

The ratio is to the first file named.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
from origin import origin

from lekhani.files import write_json
from lekhani.inference.session import Generator


def speed(generator: Generator, batch_size: int, seconds: float) -> float:
    """Images per second over about `seconds`, noise included."""
    rng, labels = np.random.default_rng(0), np.arange(batch_size, dtype=np.int64) % len(generator.classes)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        done += len(generator.sample(labels, rng, batch_size))
    return done / (time.perf_counter() - start)


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 64, 256])
    parser.add_argument("--seconds", type=float, default=3.0, help="per model and batch size")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    generators = {str(path.parent): Generator(path) for path in given.models}
    results: dict[str, dict[int, float]] = {name: {} for name in generators}
    print(f"{'images/s at batch':40}" + "".join(f"{size:>18}" for size in given.batch_sizes))
    for size in given.batch_sizes:
        taken: dict[str, list[float]] = {name: [] for name in generators}
        for turn in range(6):
            for name, generator in generators.items():
                one = speed(generator, size, given.seconds / 5 if turn else 0.1)
                if turn:  # the first one warms up
                    taken[name].append(one)
        for name, values in taken.items():
            results[name][size] = round(statistics.median(values), 1)
    first = next(iter(results.values()))
    for name, speeds in results.items():
        print(f"{name:40}" + "".join(f"{value:>10.0f} ({value / first[size]:4.1f}x)" for size, value in speeds.items()))
    if given.out:
        write_json(given.out, {**origin("onnxruntime-gpu"), "images_per_second": results})


if __name__ == "__main__":
    main()
