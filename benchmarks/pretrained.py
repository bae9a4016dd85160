"""What the judge that comes with the package says of its generators, beside real images.

    python benchmarks/pretrained.py [--dataset devanagari] [--per-class 60] [--seeds 3] [--out FILE.json]

Run it in a project folder in which `lekhani fetch` and `lekhani prepare` have put the real images into data/prepared.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from origin import origin

from lekhani.data.spec import load_prepared
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
    folder, data = PRETRAINED / given.dataset, load_prepared(Path("data/prepared") / given.dataset)
    (train, train_labels), (test, test_labels) = data.split("train"), data.split("test")
    labels = np.tile(np.arange(data.info.n_classes, dtype=np.int64), given.per_class)
    few = np.random.default_rng(3).choice(len(train), len(labels), replace=False)
    reader, subset = Reader(folder / "judge.onnx"), min(1000, len(labels))
    real = read_real(reader.read, test, train[few], subset, 7, Path("cache/pretrained.npz"), reader.sha256)
    results = {}
    for path in sorted(set(folder.glob("*.onnx")) - {folder / "judge.onnx"}):
        generator = Generator(path)
        start = time.perf_counter()
        readings = [reader.read(generator.sample(labels, np.random.default_rng([7, i]))) for i in range(given.seeds)]
        seconds = time.perf_counter() - start
        card = score(readings, labels, real, test_labels, subset, 7)
        features, logits = (np.concatenate(parts) for parts in zip(*readings, strict=True))
        asked = np.tile(labels, given.seeds)
        classes = per_class.by_class(
            (features, logits), asked, real.test, test_labels, real.train, train_labels[few], 7
        )
        card |= per_class.worst_modes(classes)
        worst = per_class.worst(classes, 3)
        card["images_per_second"] = given.seeds * len(labels) / seconds  # reading included
        card["worst_classes"] = [f"{data.info.classes[one.label].glyph} {one.agreement:.1%}" for one in worst]
        results[generator.variant if path.stem == "generator" else path.stem] = card  # as `D@NAME` calls it
    print(f"{'':16}" + "".join(f"{name:>18}" for name in SHOWN))
    for name, card in results.items():
        print(f"{name:16}" + "".join(f"{card[figure]:>18.3f}" for figure in SHOWN), ", ".join(card["worst_classes"]))
    first = next(iter(results.values()))
    floors = [first.get(f"{name}_floor") for name in SHOWN]
    print(f"{'real images':16}" + "".join(f"{'' if value is None else f'{value:.3f}':>18}" for value in floors))
    if given.out:
        write_json(given.out, {**origin("onnxruntime"), "images": given.seeds * len(labels), "scores": results})


if __name__ == "__main__":
    main()
