"""All metrics of one generator beside the floor that real data itself scores."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lekhani.data.spec import Labels
from lekhani.evaluate.fidelity import fidelity

Floats = npt.NDArray[np.float32]
Readings = tuple[Floats, Floats]  # the judge's features [N,128] and logits [N,K]

# Metrics for which real train images against the test split give a floor, or a ceiling, to hold a generator against.
FLOORED = ("fid", "kid", "inception_score", "precision", "recall")


@dataclass(frozen=True)
class Read:
    """What the judge made of generated images against the labels they were asked for."""

    label_agreement: float | None  # None for a generator that takes no label
    class_entropy: float  # of predicted classes, in nats; at most log K
    classes_covered: int  # classes that at least one image in a hundred per fair share was read as


def read_labels(logits: Floats, labels: Labels | None) -> Read:
    """Compare predictions with the labels asked for, logits float32 [N,K] and labels int64 [N]."""
    n, k = logits.shape
    predicted = logits.argmax(1)
    share = np.bincount(predicted, minlength=k) / n
    seen = share[share > 0]
    return Read(
        label_agreement=None if labels is None else float((predicted == labels).mean()),
        class_entropy=float(-(seen * np.log(seen)).sum()),
        classes_covered=int((share >= 0.01 / k).sum()),
    )


def score(
    generated: Readings, labels: Labels | None, test: Readings, test_labels: Labels, train: Readings, kid_subset_size: int, seed: int
) -> dict[str, float]:
    """The metrics of scorecard.json: generated against the test split, with real train images against it as the floor.

    Generated and train readings should be equally many, since FID depends on the number of images.
    """
    card: dict[str, float] = {}
    got = fidelity(generated, test, kid_subset_size, seed)
    floor = fidelity(train, test, kid_subset_size, seed)
    for name in FLOORED:
        card[name] = got[name]
        if f"{name}_std" in got:
            card[f"{name}_std"] = got[f"{name}_std"]
        card[f"{name}_floor"] = floor[name]
        # An unbiased KID of real against real may come out at or below 0, where a ratio means nothing.
        if floor[name] > 0 and name != "kid":
            card[f"{name}_ratio"] = got[name] / floor[name]
    read = read_labels(generated[1], labels)
    if read.label_agreement is not None:
        card["label_agreement"] = read.label_agreement
        card["label_agreement_floor"] = float((test[1].argmax(1) == test_labels).mean())
    real = read_labels(test[1], None)
    card |= {"class_entropy": read.class_entropy, "class_entropy_floor": real.class_entropy}
    card |= {"classes_covered": read.classes_covered, "classes_covered_floor": real.classes_covered}
    return card


def per_class(logits: Floats, labels: Labels | None, k: int) -> list[dict[str, float]]:
    """One row per class: how many images were asked for (nothing for an unconditional generator), read as it, and agreement."""
    predicted = logits.argmax(1)
    confidence = np.exp(logits - logits.max(1, keepdims=True))
    confidence = confidence.max(1) / confidence.sum(1)
    rows = []
    for label in range(k):
        read_as = predicted == label
        row = {"label": float(label), "read_as": float(read_as.sum())}
        if labels is not None:
            asked = labels == label
            row |= {"asked": float(asked.sum()), "agreement": float((predicted[asked] == label).mean()) if asked.any() else float("nan")}
        row["confidence"] = float(confidence[read_as].mean()) if read_as.any() else float("nan")
        rows.append(row)
    return rows
