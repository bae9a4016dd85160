"""What the judge that comes with the package says of its generators, beside real images.

    python benchmarks/pretrained.py [--dataset devanagari] [--per-class 60] [--seeds 3] [--out FILE.json]

Run it in a project folder in which `lekhani fetch` and `lekhani prepare` have put the real images into data/prepared.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from judged import SEED, Real, shipped, show
from origin import origin

from lekhani.files import write_json


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="devanagari")
    parser.add_argument("--per-class", type=int, default=60, help="images of each class, per seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    real, results = Real(given.dataset), {}
    asked = real.asked(given.per_class * len(real.labels))
    for name, generator in shipped(given.dataset):
        start = time.perf_counter()
        drawn = [generator.sample(asked, np.random.default_rng([SEED, seed])) for seed in range(given.seeds)]
        seconds = time.perf_counter() - start
        results[name] = real.figures(drawn, asked) | {"images_per_second": given.seeds * len(asked) / seconds}
        print(f"{name}: {results[name]['images_per_second']:.0f} images/s")
    show(results)
    if given.out:
        write_json(given.out, {**origin("onnxruntime"), "images": given.seeds * len(asked), "scores": results})


if __name__ == "__main__":
    main()
