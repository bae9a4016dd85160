"""Which classes a generator writes well and which not: distance and recall of each beside its own floor, what it is mistaken for, collapse."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from lekhani.data.spec import Bytes, GlyphClass, Labels
from lekhani.evaluate.fidelity import Floats, Readings, precision_recall
from lekhani.evaluate.frechet import Doubles, frechet
from lekhani.evaluate.quick import spread
from lekhani.pictures import Picture, grid, use_devanagari_font
from lekhani.train.diagnosis import Finding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 10  # images of a class on each side: fewer say nothing about how a class is spread
COLLAPSED = 0.3  # a class whose images differ less than this, in parts of what real ones do
LOST = 0.1  # a class of which a smaller share is read as what was asked for
_NAMED = 10  # classes that a sentence lists


@dataclass(frozen=True)
class ClassScore:
    """How one class is written; None is a metric that does not apply or for which there are too few images.

    The images of a class are those asked for, or, when a generator takes no label, those read as it.
    """

    label: int
    asked: int | None  # images; None for an unconditional generator
    read_as: int  # images that the judge reads as this class, whatever was asked for
    agreement: float | None  # share of the images asked for that is read as the class
    confidence: float | None  # mean probability that the judge gives to its answer, over images read as the class
    fid: float | None = None  # see `by_class`
    fid_floor: float | None = None  # the same of real train images
    recall: float | None = None  # share of the class's test images that lie near generated ones
    recall_floor: float | None = None
    diversity: float | None = None  # spread of the features, in parts of what the test images have
    mistaken_for: int | None = None  # the label that images asked for are most often read as instead

    @property
    def fid_ratio(self) -> float | None:
        """The class's distance in parts of its floor."""
        return self.fid / self.fid_floor if self.fid is not None and self.fid_floor else None

    @property
    def is_collapsed(self) -> bool:
        """Whether the images of the class hardly differ."""
        return self.diversity is not None and self.diversity < COLLAPSED

    @property
    def is_lost(self) -> bool:
        """Whether what is asked for is hardly ever read as the class."""
        return self.agreement is not None and self.agreement < LOST


def by_class(
    generated: Readings,
    asked: Labels | None,
    test: Readings,
    test_labels: Labels,
    train: Readings,
    train_labels: Labels,
    seed: int,
) -> list[ClassScore]:
    """Score each of the K classes by the judge's readings, (features float32 [N,F], logits float32 [N,K]); K scores in label order.

    `asked` int64 [N] are the labels asked for, None for an unconditional generator. `train` are real images for the floors.

    A class has tens or hundreds of images, fewer than a covariance of F features needs. So fid is the Frechet distance (Heusel et al.
    2017) between Gaussians whose covariances are shrunk as Ledoit and Wolf (2004) do, which halves the bias of few images without
    giving up a direction in which images may be wrong. What bias remains stands in the floor: it is measured on as many train images
    as generated ones (`seed` draws them), against the same test images. Compare a class's fid with its floor, not with the fid of the
    whole set. Recall is that of Kynkaanniemi et al. (2019), at the same numbers; scattered images reach far, so that bad ones may recall
    more than real ones do: read it beside the ratio of fid. All five are None with fewer than 10 images on a side.
    """
    read = generated[1].argmax(1)
    groups = read if asked is None else asked
    sure = _confidence(generated[1])
    mistakes = None if asked is None else _without_diagonal(confusion(asked, generated[1]))
    ours, real, floor = (one[0].astype(np.float64) for one in (generated, test, train))
    scores = []
    for label in range(generated[1].shape[1]):
        mine, seen = groups == label, read == label
        scores.append(
            ClassScore(
                label=label,
                asked=None if asked is None else int(mine.sum()),
                read_as=int(seen.sum()),
                agreement=float(seen[mine].mean()) if asked is not None and mine.any() else None,
                confidence=float(sure[seen].mean()) if seen.any() else None,
                mistaken_for=int(mistakes[label].argmax()) if mistakes is not None and mistakes[label].any() else None,
                **_closeness(
                    ours[mine],
                    real[test_labels == label],
                    floor[train_labels == label],
                    np.random.default_rng([seed, 5, label]),
                ),
            )
        )
    return scores


def confusion(asked: Labels, logits: Floats) -> npt.NDArray[np.int64]:
    """Counts [K,K] of images by the label asked for (rows) and the class read (columns), labels int64 [N] and logits float32 [N,K]."""
    k = logits.shape[1]
    return np.bincount(asked * k + logits.argmax(1), minlength=k * k).reshape(k, k)


def table(scores: Sequence[ClassScore], classes: Sequence[GlyphClass]) -> list[dict[str, Any]]:
    """The rows of per_class.csv in label order; None is an empty cell, and columns about labels asked for are absent where none were."""
    rows = []
    for score, c in zip(scores, classes, strict=True):
        instead = None if score.mistaken_for is None else classes[score.mistaken_for].name
        row = {
            **{"name": c.name, "glyph": c.glyph, "label": score.label, "asked": score.asked, "read_as": score.read_as},
            **{"agreement": score.agreement, "confidence": score.confidence},
            **{"fid": score.fid, "fid_floor": score.fid_floor, "fid_ratio": score.fid_ratio},
            **{
                "recall": score.recall,
                "recall_floor": score.recall_floor,
                "diversity": score.diversity,
                "mistaken_for": instead,
            },
        }
        rows.append(
            row
            if score.asked is not None
            else {key: row[key] for key in row if key not in {"asked", "agreement", "mistaken_for"}}
        )
    return rows


def collapsed(scores: Sequence[ClassScore], classes: Sequence[GlyphClass]) -> list[Finding]:
    """Which classes are collapsed, their images all but alike, and which are lost, drawn as another class or not at all; most often none."""
    found = []
    alike = [score for score in scores if score.is_collapsed]
    if alike:
        each = _listed([f"{_named(classes[s.label])} {s.diversity:.2f}" for s in alike])
        found.append(
            Finding(
                "collapsed_classes",
                f"Images hardly differ within {len(alike)} of {len(scores)} classes (spread, where real ones have 1): {each}. "
                "The noise is ignored there: train longer, add augment, or take a variant that keeps its variety.",
            )
        )
    # A hundredth of a fair share is what classes_covered asks for.
    enough = 0.01 * sum(score.read_as for score in scores) / len(scores)
    unread = [score for score in scores if score.asked is None and score.read_as < enough]
    if unread:
        each = _listed([f"{_named(classes[s.label])}, read {s.read_as} times" for s in unread])
        found.append(
            Finding(
                "lost_classes",
                f"The judge hardly ever sees {len(unread)} of {len(scores)} classes: {each}. "
                "Train longer or against mode collapse, or take a variant that is told the label.",
            )
        )
    unlike = [score for score in scores if score.is_lost]
    if unlike:
        each = _listed([_drawn_as(score, classes) for score in unlike])
        found.append(
            Finding(
                "lost_classes",
                f"What is asked for is read as something else in {len(unlike)} of {len(scores)} classes: {each}. "
                "Train longer, and see whether the train images of these classes carry the right labels.",
            )
        )
    return found


def worst(scores: Sequence[ClassScore], count: int = 5) -> list[ClassScore]:
    """The `count` worst classes, worst first: collapsed or lost ones, then lowest agreement, then highest fid in parts of its floor.

    Agreement counts in steps of 5%, since single errors are chance. Without labels asked for it falls away, and a class that is read too
    seldom for an fid comes before all that have one. A class never asked for is left out.
    """

    def badness(score: ClassScore) -> tuple[bool, float, float]:
        right = 0 if score.agreement is None else round(20 * score.agreement)
        return (
            score.is_collapsed or score.is_lost or not score.read_as,
            -right,
            np.inf if score.fid_ratio is None else score.fid_ratio,
        )

    return sorted((score for score in scores if score.asked != 0), key=badness, reverse=True)[:count]


def worst_figure(
    scores: Sequence[ClassScore],
    classes: Sequence[GlyphClass],
    generated: tuple[Bytes, Labels],
    real: tuple[Bytes, Labels],
    shown: int = 8,
) -> "Figure":
    """One row per score: the class, the first `shown` generated and real images of it, and what its numbers say.

    Images are uint8 [N,H,W]; the labels of generated ones are those asked for, or read where none were.
    """
    from matplotlib.figure import Figure

    use_devanagari_font()
    figure = Figure(figsize=(13, 0.75 * len(scores) + 0.5))
    places = figure.add_gridspec(len(scores), 4, width_ratios=(2.2, 5, 5, 3.6), wspace=0.04, hspace=0.12)
    for row, score in enumerate(scores):
        c = classes[score.label]
        name, *strips, words = (figure.add_subplot(places[row, column]) for column in range(4))
        for axes, (images, labels), title in zip(strips, (generated, real), ("generated", "real"), strict=True):
            axes.imshow(
                _strip(images[labels == score.label][:shown], shown),
                cmap="gray",
                vmin=0,
                vmax=255,
                interpolation="nearest",
            )
            if row == 0:
                axes.set_title(title, fontsize=11)
        name.text(0.98, 0.5, c.glyph, fontsize=22, ha="right", va="center")
        if c.name != c.glyph:
            name.text(0.72, 0.5, c.name, fontsize=9, ha="right", va="center")
        words.text(0.02, 0.5, _in_numbers(score, classes), fontsize=9, va="center", linespacing=1.4)
        for axes in (name, *strips, words):
            axes.set_axis_off()
    return figure


def heat_map(
    values: Mapping[str, Sequence[float]], classes: Sequence[GlyphClass], metric: Literal["agreement", "fid_ratio"]
) -> "Figure":
    """A column of per_class.csv for several variants: rows variants, columns classes, dark where it is bad; NaN stays grey.

    Agreement is shown in percent, fid in parts of its floor on a logarithmic scale from 1 to at least 10.
    """
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm, Normalize, PowerNorm
    from matplotlib.figure import Figure

    use_devanagari_font()
    cells = np.array(list(values.values()), np.float64)
    scale: Normalize
    if metric == "agreement":
        title, colours = "Read as what was asked for, per class (%)", "viridis"
        scale = PowerNorm(3, 0, 1)  # the cube makes a few errors visible
        texts = [[f"{100 * value:.0f}" for value in row] for row in cells]
    else:
        title, colours = "FID per class in parts of its floor", "viridis_r"
        scale = LogNorm(1, max(10, np.nanmax(cells, initial=1)))
        texts = [[f"{value:.1f}" if value < 9.95 else f"{value:.0f}" for value in row] for row in cells]
    n, k = cells.shape
    figure = Figure(figsize=(2.5 + 0.32 * k, 1.2 + 0.32 * n))
    axes = figure.add_subplot()
    shades = colormaps[colours].with_extremes(bad="lightgrey")
    axes.imshow(cells, cmap=shades, norm=scale, aspect="auto")
    axes.set_xticks(range(k), [c.glyph for c in classes], fontsize=10)
    axes.set_yticks(range(n), list(values))
    axes.set_title(title)
    bright = shades(scale(cells))[..., :3].mean(-1) > 0.45
    for row, column in np.argwhere(np.isfinite(cells)):
        axes.text(
            column,
            row,
            texts[row][column],
            fontsize=7,
            ha="center",
            va="center",
            color="black" if bright[row, column] else "white",
        )
    return figure


def _closeness(ours: Doubles, real: Doubles, train: Doubles, rng: np.random.Generator) -> dict[str, float]:
    """The five metrics of features [n,F] of one class, or nothing when a side has too few."""
    if min(len(ours), len(real), len(train)) < FEWEST:
        return {}
    count, target = min(len(ours), len(train)), _moments(real)
    found = {}
    for name, features in (("_floor", train), ("", ours)):
        drawn = features[rng.permutation(len(features))[:count]]
        found[f"fid{name}"] = frechet(*_moments(drawn), *target)
        found[f"recall{name}"] = precision_recall(torch.from_numpy(drawn), torch.from_numpy(real))[1]
    usual = spread(real)
    return {**found, "diversity": spread(ours) / usual} if usual > 0 else found


def _moments(features: Doubles) -> tuple[Doubles, Doubles]:
    """Mean [F] and covariance [F,F] of features [n,F], shrunk to a multiple of the identity by as much as Ledoit and Wolf (2004) say."""
    mean = features.mean(0)
    centred = features - mean
    covariance = centred.T @ centred / len(features)
    round_one = np.eye(len(mean)) * (np.trace(covariance) / len(mean))
    distance = ((covariance - round_one) ** 2).sum()
    error = (((centred**2).sum(1) ** 2).mean() - (covariance**2).sum()) / len(
        features
    )  # of the sample covariance, squared
    shrinkage = min(error / distance, 1.0) if distance > 0 else 0.0
    return mean, (1 - shrinkage) * covariance + shrinkage * round_one


def _confidence(logits: Floats) -> Doubles:
    exponential = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    confidence: Doubles = 1 / exponential.sum(1)  # the largest of them is exp(0)
    return confidence


def _without_diagonal(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.where(np.eye(len(counts), dtype=np.bool_), 0, counts)


def _strip(images: Bytes, shown: int) -> Picture:
    """A row of `shown` images, white where there are fewer."""
    places = np.zeros((shown, *images.shape[1:]), np.uint8)
    places[: len(images)] = images
    strip = grid(places, shown)
    strip[:, len(images) * (images.shape[2] + 1) :] = 255
    return strip


def _in_numbers(score: ClassScore, classes: Sequence[GlyphClass]) -> str:
    lines = (
        [f"{score.read_as} images are read as it"]
        if score.agreement is None
        else [f"agreement {score.agreement:.1%} of {score.asked}"]
    )
    if score.mistaken_for is not None:
        lines[0] += f", else mostly {classes[score.mistaken_for].glyph}"
    if score.fid is not None and score.fid_ratio is not None:
        lines.append(f"FID {score.fid:.2f}, floor {score.fid_floor:.2f} ({score.fid_ratio:.1f}x)")
    else:
        lines.append("too few images for an FID")
    if score.recall is not None:
        lines.append(f"recall {score.recall:.0%} (real {score.recall_floor:.0%})")
    if score.diversity is not None:
        lines[-1] += f", diversity {score.diversity:.2f}"
    return "\n".join(lines)


def _drawn_as(score: ClassScore, classes: Sequence[GlyphClass]) -> str:
    instead = "" if score.mistaken_for is None else f", mostly read as {_named(classes[score.mistaken_for])}"
    return f"{_named(classes[score.label])}, {score.agreement:.0%} right{instead}"


def _named(c: GlyphClass) -> str:
    return c.glyph if c.glyph == c.name else f"{c.glyph} ({c.name})"


def _listed(parts: Sequence[str]) -> str:
    return "; ".join(parts[:_NAMED]) + (f"; and {len(parts) - _NAMED} more" if len(parts) > _NAMED else "")
