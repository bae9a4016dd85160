"""Scoring 10,000 generated images against 10,000 real ones, beside the same metrics by plain calls of their libraries.

    python benchmarks/judging.py [--images 10000] [--width 16] [--repeats 3] [--out benchmarks/results/judging_cpu.json]

All ways use one judge, trained here for some seconds on embedded glyphs; slightly blurred glyphs stand for generated
ones.

first    what evaluating the first variant of a dataset does: read generated and real images with ONNX Runtime, compute
         every metric of the judge, those of each class and the search for copies, and what real train images score
further  every further variant: readings of real images and the floor come from their file
plain    torch-fidelity as its page shows it, the judge registered as its extractor: FID, KID, inception score,
         precision and recall one by one, without a floor
fid      torchmetrics' FrechetInceptionDistance with the judge as its features, that one metric alone (only where
         torchmetrics is installed)

The ways run by turns in this one process, so that a busy machine slows all of them; a ratio is of medians, in parts of
`further`. CPU seconds, of children too, do not depend on what else the machine does. Memory is the most that this
process and its children hold resident meanwhile, imports, the images and the judge included; pages that they share, as
plain's four readers do, count several times.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from origin import origin
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from lekhani import files, params
from lekhani.data.sources.embedded import devanagari
from lekhani.data.spec import Bytes, Labels
from lekhani.evaluate.fidelity import torch_fidelity
from lekhani.evaluate.judge import FEATURES, Classifier, train_judge
from lekhani.evaluate.memorisation import among_features, memorisation
from lekhani.evaluate.per_class import by_class
from lekhani.evaluate.scorecard import read_real, score
from lekhani.export.onnx_file import export_onnx
from lekhani.inference.session import Reader

K, SUBSETS, SUBSET_SIZE, SEED = 46, 50, 1000, 7
CPU = torch.device("cpu")
SHOWN = ("fid", "kid", "inception_score", "precision", "recall")


@dataclass(frozen=True)
class Task:
    """What every way gets: uint8 images [N,32,32] with their labels, and the judge."""

    generated: Bytes
    requested: Labels
    test: Bytes
    test_labels: Labels
    train: Bytes
    train_labels: Labels
    judge: Classifier
    onnx: Path
    cache: Path


def prepare(count: int, width: int, folder: Path) -> Task:
    """Draw glyphs and train the judge on some of them."""
    per_class = -(-count // K)
    raw = devanagari(SEED, 2 * per_class, per_class)
    images, is_test = np.stack(list(raw.images)), np.array(raw.splits) == "test"
    rng = np.random.default_rng(SEED)
    train, test = rng.permutation(np.flatnonzero(~is_test)), rng.permutation(np.flatnonzero(is_test))[:count]
    own, drawn = train[:count], train[-count:]
    choice = params.Judge(width=width, images_seen=15_000, batch_size=64)
    data = (images[own], raw.labels[own]), (images[test][:1000], raw.labels[test][:1000])
    judge, report = train_judge(choice, *data, K, SEED, CPU, lambda *_: None)
    print(f"The judge of width {width} reads {report.accuracy:.1%} of 1000 test images right.\n")
    torch_fidelity.register_feature_extractor("judge", extractor(judge))
    path, example = folder / "judge.onnx", {"images": torch.zeros(3, 1, 32, 32)}
    export_onnx(judge, example, ["features", "logits"], path, {"dataset": "devanagari", "classes": "[]"})
    blurred = np.rint(gaussian_filter(images[drawn].astype(np.float32), (0, 0.6, 0.6))).astype(np.uint8)
    sets = blurred, raw.labels[drawn], images[test], raw.labels[test], images[own], raw.labels[own]
    return Task(*sets, judge, path, folder / "real.npz")


def first(task: Task) -> dict[str, float]:
    """Our evaluation, with nothing in the cache."""
    files.remove(task.cache)
    return further(task)


def further(task: Task) -> dict[str, float]:
    """Our evaluation, with whatever is in the cache."""
    reader = Reader(task.onnx)
    real = read_real(reader.read, task.test, task.train, SUBSET_SIZE, SEED, task.cache, reader.sha256)
    readings = reader.read(task.generated)
    card = score([readings], task.requested, real, task.test_labels, SUBSET_SIZE, SEED)
    by_class(readings, task.requested, real.test, task.test_labels, real.train, task.train_labels, SEED)
    copies, _ = memorisation(task.generated, task.train, task.test, SEED)
    return card | copies | among_features(readings[0], real.train[0], real.test[0])


class Images(torch.utils.data.Dataset[Tensor]):
    """One image at a time."""

    def __init__(self, images: Bytes) -> None:
        self.images = torch.from_numpy(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index].unsqueeze(0)


class Features(nn.Module):
    """The judge's features alone: uint8 [N,1,H,W] -> float32 [N,128]."""

    num_features = FEATURES

    def __init__(self, judge: Classifier) -> None:
        super().__init__()
        self.judge = judge

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        features: Tensor = self.judge(images.float() / 255)[0]
        return features


def extractor(judge: Classifier) -> type[Any]:
    """The judge as torch-fidelity wants an extractor."""

    class Extractor(torch_fidelity.FeatureExtractorBase):  # type: ignore[name-defined, misc]
        def __init__(self, name: str, features_list: list[str], **_: object) -> None:
            super().__init__(name, features_list)
            self.judge = judge

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("features", "logits")

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits" if metric == "isc" else "features"

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            features, logits = self.judge(images.float() / 255)
            return tuple({"features": features, "logits": logits}[name] for name in self.features_list)

    return Extractor


def plain(task: Task) -> dict[str, float]:
    """torch-fidelity, one metric at a time."""
    # torch finds its four workers too many for a small machine.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    values: dict[str, float] = {}
    for metric in ("fid", "kid", "isc", "prc"):
        values |= torch_fidelity.calculate_metrics(
            input1=Images(task.generated),
            input2=None if metric == "isc" else Images(task.test),
            feature_extractor="judge",
            kid_subsets=SUBSETS,
            kid_subset_size=min(SUBSET_SIZE, len(task.test)),
            rng_seed=SEED,
            **dict.fromkeys(("cuda", "cache", "verbose"), False),
            **{metric: True},
        )
    tf = torch_fidelity
    keys = (tf.KEY_METRIC_FID, tf.KEY_METRIC_KID_MEAN, tf.KEY_METRIC_ISC_MEAN, tf.KEY_METRIC_PRECISION)
    return dict(zip(SHOWN, (values[key] for key in (*keys, tf.KEY_METRIC_RECALL)), strict=True))


@torch.no_grad()
def fid(task: Task) -> dict[str, float]:
    """Torchmetrics' FID."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=Features(task.judge), input_img_size=(1, 32, 32))
    for images, real in ((task.generated, False), (task.test, True)):
        for batch in torch.utils.data.DataLoader(Images(images), batch_size=64):
            metric.update(batch, real=real)
    return {"fid": float(metric.compute())}


@contextmanager
def peak_mb(peaks: list[float]) -> Iterator[None]:
    """Append the most memory, in MB, that this process and its children held resident within the block."""
    own, peak, done = psutil.Process(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            held = 0
            for one in (own, *own.children(recursive=True)):
                try:
                    held += one.memory_info().rss
                except psutil.NoSuchProcess:  # it just ended
                    continue
            peak = max(peak, held)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        peaks.append(peak / 2**20)


def measure(task: Task, ways: dict[str, Callable[[Task], dict[str, float]]], repeats: int) -> dict[str, Any]:
    """All ways by turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    worked: dict[str, list[float]] = {name: [] for name in ways}
    memory: dict[str, list[float]] = {name: [] for name in ways}
    values: dict[str, dict[str, float]] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            with peak_mb(memory[name]):
                start, before = time.perf_counter(), sum(os.times()[:4])
                values[name] = way(task)
                seconds[name].append(time.perf_counter() - start)
                worked[name].append(sum(os.times()[:4]) - before)
    base = statistics.median(seconds["further"])
    return {
        name: {
            "seconds": round(statistics.median(times), 2),
            "spread": [round(min(times), 2), round(max(times), 2)],
            "ratio": round(statistics.median(times) / base, 2),
            "cpu_seconds": round(statistics.median(worked[name]), 2),
            # The first turn is the one before whose peak nothing else had grown the process.
            "peak_mb": round(memory[name][0]),
            "values": {key: values[name][key] for key in SHOWN if key in values[name]},
        }
        for name, times in seconds.items()
    }


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=16, help="of the judge: 16 in profile quick, 64 in full")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    ways: dict[str, Callable[[Task], dict[str, float]]] = {way.__name__: way for way in (first, further, plain, fid)}
    packages = ("torch", "torch-fidelity", "numpy", "onnxruntime", "onnxruntime-gpu", "torchmetrics")
    if find_spec("torchmetrics") is None:
        print("torchmetrics is not installed, so its FID is left out; `pip install torchmetrics` adds it.")
        del ways["fid"]
    with tempfile.TemporaryDirectory() as folder:
        results = measure(prepare(given.images, given.width, Path(folder)), ways, given.repeats)
    heads = ("way", "seconds", "spread", "ratio", "CPU s", "peak MB", "FID", "KID", "IS", "precision", "recall")
    rows = [
        (
            name,
            f"{one['seconds']:.2f}",
            "{:.2f} to {:.2f}".format(*one["spread"]),
            f"{one['ratio']:.2f}",
            f"{one['cpu_seconds']:.2f}",
            str(one["peak_mb"]),
            *(f"{value:.5g}" for value in one["values"].values()),
        )
        for name, one in results.items()
    ]
    for row in (heads, *rows):
        print(" ".join(cell.rjust(size) for cell, size in zip(row, (8, 8, 18, 6, 8, 8, 9, 10, 8, 9, 8), strict=False)))
    if given.out:
        sizes = {"images": given.images, "judge_width": given.width}
        sizes |= {"kid_subsets": SUBSETS, "kid_subset_size": SUBSET_SIZE}
        files.write_json(given.out, {**origin(*packages), **sizes, "results": results})


if __name__ == "__main__":
    main()
