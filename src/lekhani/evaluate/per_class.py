"""Which classes a generator draws well and which badly, beside what real images of each class score."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.cluster.vq import kmeans2, vq

from lekhani.data.spec import Bytes, GlyphClass, Labels
from lekhani.evaluate.fidelity import Readings, precision_recall
from lekhani.evaluate.frechet import Doubles, frechet, spread
from lekhani.inference.confidence import confidences
from lekhani.pictures import Picture, grid, use_devanagari_font
from lekhani.train.diagnosis import Finding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 10  # images of a class on each side: fewer say nothing about how a class is spread
COLLAPSED = 0.3  # a class whose images differ less than this, in parts of what real ones do
LOST = 0.1  # a class of which a smaller share is predicted as requested
MODES = 8  # ways of writing a class that are told apart, at most
IMAGES_PER_MODE = 15  # test images that each of them needs
_NAMED = 10  # classes that a sentence lists


@dataclass(frozen=True)
class ClassScore:
    """How well one class is drawn; None is a metric that does not apply or for which there are too few images.

    The images of a class are those requested as it or, when a generator takes no label, those that the judge predicts
    as it.
    """

    label: int
    requested: int | None  # images; None for an unconditional generator
    read_as: int  # images that the judge predicts as this class, whatever was requested
    agreement: float | None  # share of the requested images that is predicted as the class
    confidence: float | None  # mean probability of the prediction, over images predicted as the class
    fid: float | None = None  # see `by_class`
    fid_floor: float | None = None  # the same of real train images
    recall: float | None = None  # share of the class's test images that lie near generated ones
    recall_floor: float | None = None
    diversity: float | None = None  # spread of the features, in parts of what the test images have
    modes: float | None = None  # see `by_class`
    modes_floor: float | None = None
    mistaken_for: int | None = None  # the label that requested images are most often predicted as instead

    @property
    def fid_ratio(self) -> float | None:
        """The class's distance in parts of its floor."""
        return self.fid / self.fid_floor if self.fid is not None and self.fid_floor else None

    @property
    def modes_ratio(self) -> float | None:
        """The overlap of modes in parts of its floor."""
        return self.modes / self.modes_floor if self.modes is not None and self.modes_floor else None

    @property
    def is_collapsed(self) -> bool:
        """Whether the images of the class hardly differ."""
        return self.diversity is not None and self.diversity < COLLAPSED

    @property
    def is_lost(self) -> bool:
        """Whether requested images are hardly ever predicted as the class."""
        return self.agreement is not None and self.agreement < LOST


def by_class(
    generated: Readings,
    requested: Labels | None,
    test: Readings,
    test_labels: Labels,
    train: Readings,
    train_labels: Labels,
    seed: int,
) -> list[ClassScore]:
    """Score each of the K classes by the judge's readings; K scores in label order.

    Readings are (features float32 [N,F], logits float32 [N,K]). `requested` int64 [N] are the labels of generated
    images, None for an unconditional generator. `train` are real images for the floors.

    A class has tens or hundreds of images, fewer than a covariance of F features needs. So fid is the Frechet distance
    (Heusel et al. 2017) between Gaussians whose covariances are shrunk as Ledoit and Wolf (2004) do, which halves the
    bias of few images without giving up a direction in which images may be wrong. What bias remains stands in the
    floor: it is measured on as many train images as generated ones (`seed` draws them), against the same test images.
    Compare a class's fid with its floor, not with the fid of the whole set. Recall is that of Kynkaanniemi et al.
    (2019), at the same numbers; scattered images reach far, so that bad ones may recall more than real ones do: read
    it beside the ratio of fid. modes asks whether each way of writing a class comes as often as it should: k-means
    (k-means++, Arthur and Vassilvitskii 2007) parts the test images into as many groups as they allow, and modes is
    the overlap in [0,1] of the shares that test and generated images have in them, 1 less half the sum of differences.
    fid, recall, modes, their floors and diversity are None with fewer than 10 images on a side.
    """
    predicted, confidence = confidences(generated[1].astype(np.float64))
    groups, k = predicted if requested is None else requested, generated[1].shape[1]
    ours, real, floor = (one[0].astype(np.float64) for one in (generated, test, train))
    scores = []
    for label in range(k):
        drawn, seen = groups == label, predicted == label
        mistakes = predicted[drawn & ~seen]
        rng = np.random.default_rng([seed, 5, label])
        scores.append(
            ClassScore(
                label=label,
                requested=None if requested is None else int(drawn.sum()),
                read_as=int(seen.sum()),
                agreement=float(seen[drawn].mean()) if requested is not None and drawn.any() else None,
                confidence=float(confidence[seen].mean()) if seen.any() else None,
                mistaken_for=int(np.bincount(mistakes).argmax()) if len(mistakes) else None,
                **_closeness(ours[drawn], real[test_labels == label], floor[train_labels == label], rng),
            )
        )
    return scores


def table(scores: Sequence[ClassScore], classes: Sequence[GlyphClass]) -> list[dict[str, Any]]:
    """The rows of per_class.csv in label order.

    None is an empty cell; columns about requested labels are absent for an unconditional generator.
    """
    rows = []
    for score, c in zip(scores, classes, strict=True):
        row = {"name": c.name, "glyph": c.glyph, "label": score.label, "asked": score.requested}
        columns = ("read_as", "agreement", "confidence", "fid", "fid_floor", "fid_ratio", "recall", "recall_floor")
        row |= {name: getattr(score, name) for name in (*columns, "diversity", "modes", "modes_floor")}
        row["mistaken_for"] = None if score.mistaken_for is None else classes[score.mistaken_for].name
        if score.requested is None:
            for name in ("asked", "agreement", "mistaken_for"):
                del row[name]
        rows.append(row)
    return rows


def collapsed(scores: Sequence[ClassScore], classes: Sequence[GlyphClass]) -> list[Finding]:
    """Which classes are collapsed, their images nearly alike, and which are lost: drawn as another one, or never."""
    k, found = len(scores), []
    if alike := [score for score in scores if score.is_collapsed]:
        each = _listed([f"{_named(classes[one.label])} {one.diversity:.2f}" for one in alike])
        sentence = (
            f"Images hardly differ within {len(alike)} of {k} classes (spread, where real ones have 1): {each}. "
            "The noise is ignored there: train longer, add augment, or take a variant that keeps its variety."
        )
        found.append(Finding("collapsed_classes", sentence))
    enough = 0.01 * sum(score.read_as for score in scores) / k  # a hundredth of a fair share, as in classes_covered
    if unread := [score for score in scores if score.requested is None and score.read_as < enough]:
        counts = ("once" if one.read_as == 1 else f"{one.read_as} times" for one in unread)
        each = _listed([f"{_named(classes[one.label])}, read {n}" for one, n in zip(unread, counts, strict=True)])
        sentence = (
            f"The judge hardly ever sees {len(unread)} of {k} classes: {each}. "
            "Train longer or against mode collapse, or take a variant that takes labels."
        )
        found.append(Finding("lost_classes", sentence))
    if unlike := [score for score in scores if score.is_lost]:
        each = _listed([_drawn_as(score, classes) for score in unlike])
        sentence = (
            f"Requested images are read as something else in {len(unlike)} of {k} classes: {each}. "
            "Train longer, and see whether the train images of these classes carry the right labels."
        )
        found.append(Finding("lost_classes", sentence))
    return found


def worst_modes(scores: Sequence[ClassScore]) -> dict[str, float]:
    """The overlap of modes in the class that is farthest below its floor; empty where no class has enough images."""
    known = [score for score in scores if score.modes_ratio is not None]
    if not known:
        return {}
    lowest = min(known, key=lambda score: score.modes_ratio or 0)
    return {"modes": lowest.modes or 0, "modes_floor": lowest.modes_floor or 0, "modes_ratio": lowest.modes_ratio or 0}


def worst(scores: Sequence[ClassScore], count: int = 5) -> list[ClassScore]:
    """The `count` worst classes, worst first: collapsed or lost ones, then by agreement, then by fid over its floor.

    Agreement counts in steps of 5%, since single errors are chance. Without requested labels it is left out, and a
    class that is predicted too seldom for a fid comes before all that have one. A class never requested is left out.
    """

    def badness(score: ClassScore) -> tuple[bool, float, float]:
        right = 0 if score.agreement is None else round(20 * score.agreement)
        failed = score.is_collapsed or score.is_lost or not score.read_as
        return failed, -right, np.inf if score.fid_ratio is None else score.fid_ratio

    return sorted((score for score in scores if score.requested != 0), key=badness, reverse=True)[:count]


def worst_figure(
    scores: Sequence[ClassScore],
    classes: Sequence[GlyphClass],
    generated: tuple[Bytes, Labels],
    real: tuple[Bytes, Labels],
    shown: int = 8,
) -> "Figure":
    """One row per score: the class, the first `shown` generated and real images of it, and its numbers.

    Images are uint8 [N,H,W]; the labels of generated ones are the requested ones, or else those that the judge
    predicts.
    """
    from matplotlib.figure import Figure

    use_devanagari_font()
    figure = Figure(figsize=(13, 0.75 * len(scores) + 0.5))
    cells = figure.add_gridspec(len(scores), 4, width_ratios=(2.2, 5, 5, 3.6), wspace=0.04, hspace=0.12)
    for row, score in enumerate(scores):
        c = classes[score.label]
        name, *strips, words = (figure.add_subplot(cells[row, column]) for column in range(4))
        for axes, (images, labels), title in zip(strips, (generated, real), ("generated", "real"), strict=True):
            strip = _strip(images[labels == score.label][:shown], shown)
            axes.imshow(strip, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            if row == 0:
                axes.set_title(title, fontsize=11)
        name.text(0.98, 0.5, c.glyph, fontsize=22, ha="right", va="center")
        if c.name != c.glyph:
            name.text(0.72, 0.5, c.name, fontsize=9, ha="right", va="center")
        words.text(0.02, 0.5, _in_numbers(score, classes), fontsize=9, va="center", linespacing=1.4)
        for axes in (name, *strips, words):
            axes.set_axis_off()
    return figure


def _closeness(ours: Doubles, real: Doubles, train: Doubles, rng: np.random.Generator) -> dict[str, float]:
    """The seven metrics of features [n,F] of one class, or nothing when a side has too few."""
    if min(len(ours), len(real), len(train)) < FEWEST:
        return {}
    count, target = min(len(ours), len(train)), _shrunk_moments(real)
    found = {}
    for name, features in (("_floor", train), ("", ours)):
        drawn = features[rng.permutation(len(features))[:count]]
        found[f"fid{name}"] = frechet(*_shrunk_moments(drawn), *target)
        found[f"recall{name}"] = precision_recall(torch.from_numpy(drawn), torch.from_numpy(real))[1]
    groups = min(MODES, max(2, len(real) // IMAGES_PER_MODE), len(np.unique(real, axis=0)))
    centres, of_real = kmeans2(real, groups, minit="++", rng=rng)
    wanted = np.bincount(of_real, minlength=groups) / len(real)
    for name, features in (("_floor", train), ("", ours)):
        share = np.bincount(vq(features, centres)[0], minlength=groups) / len(features)
        found[f"modes{name}"] = float(np.minimum(share, wanted).sum())
    usual = spread(real)
    return {**found, "diversity": spread(ours) / usual} if usual > 0 else found


def _shrunk_moments(features: Doubles) -> tuple[Doubles, Doubles]:
    from sklearn.covariance import ledoit_wolf  # here, because scikit-learn takes two seconds to import

    return features.mean(0), ledoit_wolf(features)[0]


def _strip(images: Bytes, shown: int) -> Picture:
    """A row of `shown` images, white where there are fewer."""
    cells = np.zeros((shown, *images.shape[1:]), np.uint8)
    cells[: len(images)] = images
    strip = grid(cells, shown)
    strip[:, len(images) * (images.shape[2] + 1) :] = 255
    return strip


def _in_numbers(score: ClassScore, classes: Sequence[GlyphClass]) -> str:
    if score.agreement is None:
        lines = [f"read as it: {score.read_as} images"]
    else:
        lines = [f"agreement {score.agreement:.1%} of {score.requested}"]
    if score.mistaken_for is not None:
        lines[0] += f", else mostly {classes[score.mistaken_for].glyph}"
    if score.fid is not None and score.fid_ratio is not None:
        lines.append(f"judge FID {score.fid:.2f}, floor {score.fid_floor:.2f} ({score.fid_ratio:.1f}x)")
    else:
        lines.append("too few images for a judge FID")
    if score.recall is not None:
        lines.append(f"recall {score.recall:.0%} (real {score.recall_floor:.0%})")
    if score.diversity is not None:
        lines[-1] += f", diversity {score.diversity:.2f}"
    if score.modes is not None:
        lines[-1] += f", modes {score.modes:.0%} (real {score.modes_floor:.0%})"
    return "\n".join(lines)


def _drawn_as(score: ClassScore, classes: Sequence[GlyphClass]) -> str:
    instead = "" if score.mistaken_for is None else f", mostly read as {_named(classes[score.mistaken_for])}"
    return f"{_named(classes[score.label])}, {score.agreement:.0%} right{instead}"


def _named(c: GlyphClass) -> str:
    return c.glyph if c.glyph == c.name else f"{c.glyph} ({c.name})"


def _listed(parts: Sequence[str]) -> str:
    return "; ".join(parts[:_NAMED]) + (f"; and {len(parts) - _NAMED} more" if len(parts) > _NAMED else "")
