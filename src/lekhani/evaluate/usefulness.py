"""Do generated characters help an OCR model? Accuracy on real test images after training on real and generated ones.

Training on synthetic images alone and testing on real ones is the Classification Accuracy Score of Ravuri and Vinyals
2019, and adding them to real ones their Naive Augmentation Score. The OCR model is the judge's network at a small
width, and every training sees equally many images in equally many steps, so that only the data differ.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from lekhani import params
from lekhani.data.spec import Bytes, Labels
from lekhani.errors import LekhaniError
from lekhani.evaluate.judge import train_judge
from lekhani.statistics import mean_and_std

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Labelled = tuple[Bytes, Labels]  # images uint8 [N,H,W] white on black, labels int64 [N]
Kind = Literal["real", "real+synthetic", "synthetic"]


@dataclass(frozen=True)
class Point:
    """Accuracies in [0,1] on the test split, one per training on `n_real` real and `n_synthetic` generated images."""

    kind: Kind
    share: float  # of the real train images, in (0,1]; 0 for `synthetic`
    n_real: int
    n_synthetic: int
    accuracies: Sequence[float]

    @property
    def mean(self) -> float:
        """Mean accuracy."""
        return fmean(self.accuracies)

    @property
    def std(self) -> float | None:
        """Sample standard deviation over the trainings; None for a single one."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None

    def row(self) -> dict[str, Any]:
        """The point as a row of a table; a deviation that does not exist is empty."""
        row = {**asdict(self), "accuracy_mean": self.mean, "accuracy_std": self.std, "seeds": len(self.accuracies)}
        del row["accuracies"]
        return row


@dataclass(frozen=True)
class Trainings:
    """Trainings of OCR models on one dataset, which differ in their train images alone.

    `on_point` is called with each point once it is known.
    """

    train: Labelled
    test: Labelled
    n_classes: int
    choice: params.Usefulness
    seed: int
    device: torch.device
    on_point: Callable[[Point], None]

    def on_real(self) -> list[Point]:
        """The points of kind `real`, one per share of `choice`; they are the same for every generator."""
        return [self._point("real", share, None) for share in self.choice.shares]

    def on_synthetic(self, synthetic: Labelled) -> list[Point]:
        """The point of kind `synthetic`, then those of kind `real+synthetic`, one per share.

        They are on the very subsets and seeds of `on_real`. The labels of `synthetic` are the requested ones; those of
        an unconditional generator are what the judge predicts. Generator and judge have learnt from all real train
        images: a gain at a small share says how much of them the generator hands on, not what somebody gains who has
        only that share to train a generator with.
        """
        alone = self._point("synthetic", 0.0, synthetic)
        return [alone, *(self._point("real+synthetic", share, synthetic) for share in self.choice.shares)]

    def _point(self, kind: Kind, share: float, synthetic: Labelled | None) -> Point:
        accuracies = []
        for trial in range(self.seed, self.seed + self.choice.seeds):
            # A set smaller than a batch would be seen in smaller steps, and more of them, than the others.
            data = _repeated(self._data(share, synthetic, trial), self.choice.batch_size)
            _, report = train_judge(self.choice, data, self.test, self.n_classes, trial, self.device, lambda *_: None)
            accuracies.append(report.accuracy)
        n_real = len(subset(self.train[1], share, self.seed)) if share else 0
        point = Point(kind, share, n_real, len(synthetic[0]) if synthetic else 0, tuple(accuracies))
        self.on_point(point)
        return point

    def _data(self, share: float, synthetic: Labelled | None, trial: int) -> Labelled:
        if synthetic is not None and share == 0:
            return synthetic
        rows = subset(self.train[1], share, trial)
        real = self.train[0][rows], self.train[1][rows]
        return real if synthetic is None else mix(real, synthetic)


def metrics(points: Sequence[Point]) -> dict[str, float]:
    """Entries of measurements.json from the points of `on_real` and `on_synthetic`: accuracies and their differences.

    `usefulness` is the accuracy in [0,1] after training on synthetic images alone and `usefulness_floor` that on all
    real images, which a perfect generator reaches; `usefulness_gain_10` is what adding synthetic images to 10% of the
    real ones gains, 0.05 for five percentage points. Deviations are over trainings, those of gains over pairs of equal
    seed and subset. Raises LekhaniError when the two parts were not made with the same shares and seeds.
    """
    of = {(point.kind, point.share): point for point in points}
    alone = of["synthetic", 0.0]
    card = mean_and_std("usefulness", alone.accuracies)
    if whole := of.get(("real", 1.0)):
        card |= mean_and_std("usefulness_floor", whole.accuracies)
        if whole.mean > 0:
            card["usefulness_ratio"] = alone.mean / whole.mean
    for (kind, share), point in of.items():
        if kind != "real+synthetic":
            continue
        real = of.get(("real", share))
        if real is None or len(real.accuracies) != len(point.accuracies):
            what = f"Training on {100 * share:g}% of the real images alone was not measured with these params"
            raise LekhaniError(f"{what}; run `dvc repro`.")
        gains = [mixed - plain for mixed, plain in zip(point.accuracies, real.accuracies, strict=True)]
        card |= mean_and_std(f"usefulness_gain_{100 * share:g}", gains)
    return card


def usefulness_figure(points: Sequence[Point], title: str) -> "Figure":
    """Test accuracy with its deviation against the share of real train images; synthetic ones alone are a line."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(7, 4.5))
    axes = figure.add_subplot()
    (alone,) = (point for point in points if point.kind == "synthetic")
    for kind, label, fmt in (
        ("real", "real alone", "C0o-"),
        ("real+synthetic", f"real and {alone.n_synthetic:,} synthetic", "C1s-"),
    ):
        line = sorted((point for point in points if point.kind == kind), key=lambda point: point.share)
        shares, means, deviations = zip(*((p.share, p.mean, p.std or 0) for p in line), strict=True)
        axes.errorbar(shares, means, deviations, fmt=fmt, capsize=4, label=label)
        axes.set_xscale("log")
        axes.set_xticks(shares, [f"{100 * p.share:g}%\n{p.n_real:,} images" for p in line])
    deviation = alone.std or 0
    axes.axhline(alone.mean, color="C2", linestyle="--", label=f"{alone.n_synthetic:,} synthetic alone")
    axes.axhspan(alone.mean - deviation, alone.mean + deviation, color="C2", alpha=0.2, linewidth=0)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("real train images")
    axes.set_ylabel("accuracy on real test images")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def subset(labels: Labels, share: float, seed: int) -> npt.NDArray[np.int64]:
    """Row numbers, in random order, of a random `share` of each class in labels int64 [N], at least one of each.

    For one seed a smaller share lies within a larger one.
    """
    order = np.random.default_rng([seed, 5]).permutation(len(labels))
    classes = [order[labels[order] == label] for label in np.unique(labels)]
    chosen = np.concatenate([rows[: max(1, round(share * len(rows)))] for rows in classes])
    # Not class by class: where some images are repeated once more than others, they must not be of the first classes.
    return order[np.isin(order, chosen)]


def mix(real: Labelled, synthetic: Labelled) -> Labelled:
    """Both in one set, with real images repeated until they are at least half of it.

    Few real images would drown among many synthetic ones, so half of what is seen is real then, both kinds in every
    step as in the mix training of He et al. 2023. Where real images are the more, each image of either kind counts
    once, as in the Naive Augmentation Score: halving the real ones for a few synthetic ones would measure their loss.
    """
    more = _repeated(real, len(synthetic[0]))
    return np.concatenate([more[0], synthetic[0]]), np.concatenate([more[1], synthetic[1]])


def _repeated(data: Labelled, at_least: int) -> Labelled:
    rows = np.resize(np.arange(len(data[0])), max(len(data[0]), at_least))
    return data[0][rows], data[1][rows]
