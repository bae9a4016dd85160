"""Images of a benchmark, drawn and scored by the judge that comes with the package, beside real ones."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lekhani.data.spec import Bytes, Labels, load_prepared
from lekhani.evaluate import per_class
from lekhani.evaluate.scorecard import read_real, score
from lekhani.inference.session import Generator, Reader
from lekhani.pen import PRETRAINED
from lekhani.pictures import to_uint8

SEED = 7
SHOWN = ("fid", "fid_ratio", "precision", "recall", "label_agreement", "modes_ratio")


def shipped(dataset: str, provider: str = "auto") -> Iterator[tuple[str, Generator]]:
    """The generators that come with the package, each with the name that `D@NAME` has for it."""
    for path in sorted((PRETRAINED / dataset).glob("*.onnx")):
        if path.stem != "judge":
            generator = Generator(path, provider)
            yield generator.variant if path.stem == "generator" else path.stem, generator


@torch.no_grad()
def draw(generator: torch.nn.Module, noise: torch.Tensor, labels: Labels) -> Bytes:
    """Images uint8 [N,H,W] of a generator in torch, a few hundred at a time."""
    parts = zip(noise.split(256), torch.from_numpy(labels).split(256), strict=True)
    return to_uint8(np.concatenate([generator(*part).numpy() for part in parts]))


class Real:
    """The real images of a dataset that show some of its glyphs, or all: `train` and `test`, each with labels."""

    def __init__(self, dataset: str, glyphs: str = "") -> None:
        """Read them from data/prepared, and open the judge."""
        data = load_prepared(Path("data/prepared") / dataset)
        self.image_size, self.classes = data.info.image_size, data.info.classes
        self.reader = Reader(PRETRAINED / dataset / "judge.onnx", "cpu")
        self.labels = np.array([one.label for one in data.info.classes if not glyphs or one.glyph in glyphs])
        self.train, self.test = (
            (images[chosen], labels[chosen])
            for images, labels in map(data.split, ("train", "test"))
            for chosen in [np.isin(labels, self.labels)]
        )

    def asked(self, count: int) -> Labels:
        """So many labels int64 [count], all classes in turn."""
        return self.labels[np.arange(count) % len(self.labels)]

    def figures(self, drawn: Sequence[Bytes], asked: Labels | None) -> dict[str, Any]:
        """What the judge says of sets of images uint8 [N,H,W], each with the labels `asked`, or none in particular."""
        (train, train_labels), (test, test_labels) = self.train, self.test
        n, read = len(drawn[0]), self.reader.read
        subset = min(1000, n)
        few = np.random.default_rng(3).choice(len(train), min(n, len(train)), replace=False)
        real = read_real(read, test, train[few], subset, SEED, Path("cache/judged.npz"), self.reader.sha256)
        readings = [read(images) for images in drawn]
        card: dict[str, Any] = score(readings, asked, real, test_labels, subset, SEED)
        both = tuple(np.concatenate(parts) for parts in zip(*readings, strict=True))
        asked = None if asked is None else np.tile(asked, len(drawn))
        classes = per_class.by_class(both, asked, real.test, test_labels, real.train, train_labels[few], SEED)
        worst = per_class.worst(classes, 3) if asked is not None else []
        named = [f"{self.classes[one.label].glyph} {one.agreement:.1%}" for one in worst]
        return card | per_class.worst_modes(classes) | {"worst_classes": named}


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
