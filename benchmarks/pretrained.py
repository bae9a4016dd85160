"""What the judge that comes with the package says of its generators, beside real images.

    python benchmarks/pretrained.py [--dataset devanagari] [--per-class 60] [--seeds 3] [--out FILE.json]

Run it in a project folder in which `lekhani fetch` and `lekhani prepare` have put the real images into data/prepared.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from origin import origin

from lekhani.data.spec import Bytes, load_prepared
from lekhani.evaluate import per_class
from lekhani.evaluate.scorecard import read_real, score
from lekhani.files import write_json
from lekhani.inference.session import Generator, Reader
from lekhani.pen import PRETRAINED

SHOWN = ("fid", "fid_ratio", "precision", "recall", "label_agreement", "modes_ratio", "images_per_second")


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="devanagari")
    parser.add_argument("--per-class", type=int, default=60, help="images of each class, per seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    asked = Asked(given.dataset, given.per_class)
    results = {}
    for name, generator in shipped(given.dataset):
        results[name] = asked.score(
            lambda i, g=generator: g.sample(asked.labels, np.random.default_rng([7, i])), given.seeds
        )
    show(results)
    if given.out:
        write_json(given.out, {**origin("onnxruntime"), "images": given.seeds * len(asked.labels), "scores": results})


def shipped(dataset: str, provider: str = "auto") -> Iterator[tuple[str, Generator]]:
    """The generators that come with the package, each with the name that `D@NAME` has for it."""
    for path in sorted((PRETRAINED / dataset).glob("*.onnx")):
        if path.stem != "judge":
            generator = Generator(path, provider)
            yield generator.variant if path.stem == "generator" else path.stem, generator


class Asked:
    """So many images of each class, to be scored by the package's judge beside the real ones of data/prepared."""

    def __init__(self, dataset: str, per_class_count: int) -> None:
        """Read the real images, as many of the train split as are asked for."""
        self.data = load_prepared(Path("data/prepared") / dataset)
        self.labels = np.tile(np.arange(self.data.info.n_classes, dtype=np.int64), per_class_count)
        self.reader, self.subset = Reader(PRETRAINED / dataset / "judge.onnx"), min(1000, len(self.labels))
        (train, train_labels), (test, self.test_labels) = self.data.split("train"), self.data.split("test")
        few = np.random.default_rng(3).choice(len(train), len(self.labels), replace=False)
        self.few_labels = train_labels[few]
        cache = Path("cache/pretrained.npz")
        self.real = read_real(self.reader.read, test, train[few], self.subset, 7, cache, self.reader.sha256)

    def score(self, draw: Callable[[int], Bytes], seeds: int = 1) -> dict[str, Any]:
        """Figures of images uint8 [N,H,W], one per label, which `draw` makes for each seed from 0 on."""
        start = time.perf_counter()
        readings = [self.reader.read(draw(seed)) for seed in range(seeds)]
        seconds = time.perf_counter() - start
        card = score(readings, self.labels, self.real, self.test_labels, self.subset, 7)
        both = tuple(np.concatenate(parts) for parts in zip(*readings, strict=True))
        classes = per_class.by_class(
            both, np.tile(self.labels, seeds), self.real.test, self.test_labels, self.real.train, self.few_labels, 7
        )
        card |= per_class.worst_modes(classes)
        card["images_per_second"] = seeds * len(self.labels) / seconds  # reading included
        worst = per_class.worst(classes, 3)
        card["worst_classes"] = [f"{self.data.info.classes[one.label].glyph} {one.agreement:.1%}" for one in worst]
        return card


def show(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a row for each."""
    width = max(16, *map(len, results))
    print(" " * width + "".join(f"{name:>18}" for name in SHOWN))
    for name, card in results.items():
        print(
            f"{name:{width}}" + "".join(f"{card[figure]:>18.3f}" for figure in SHOWN), ", ".join(card["worst_classes"])
        )
    floors = [next(iter(results.values())).get(f"{name}_floor") for name in SHOWN]
    cells = "".join(f"{'' if value is None else f'{value:.3f}':>18}" for value in floors)
    print(f"{'real images':{width}}" + cells)


if __name__ == "__main__":
    main()
