"""Real test images, a few of them and as the judge sees all, in a small file that travels with a registered model."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lekhani import files
from lekhani.data.spec import Bytes, Labels
from lekhani.evaluate.frechet import Doubles, frechet, moments
from lekhani.inference.confidence import confidences
from lekhani.inference.session import Floats, Reader

MAX_LABELS = 10_000
KNOWN_PER_CLASS = 8  # images: enough to tell by most of them what a judge takes a class for


@dataclass(frozen=True)
class Reference:
    """Mean and covariance of the judge's features of real images, its mean confidence, and the judge's SHA-256.

    Beside these, a few of the images themselves, uint8 [M,H,W], with their labels, int64 [M]; files that were made
    before have none.
    """

    mean: Doubles
    cov: Doubles
    confidence: float
    judge: str
    images: Bytes
    labels: Labels

    @classmethod
    def of(cls, reader: Reader, images: Bytes, labels: Labels) -> "Reference":
        """Read images uint8 [N,H,W] of these labels, int64 [N]."""
        features, logits = reader.read(images)
        first = np.concatenate([np.flatnonzero(labels == label)[:KNOWN_PER_CLASS] for label in np.unique(labels)])
        sure = float(confidences(logits)[1].mean())
        return cls(*moments(features), sure, reader.sha256, images[first], labels[first])

    def save(self, path: Path) -> None:
        """Write it as an NPZ."""
        with files.replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """Undo `save`; raises LekhaniError for a file that is none."""
        with files.reading(path, "register the model again"), np.load(path, allow_pickle=False) as saved:
            mean, cov, sure = (saved[name].astype(np.float64, casting="safe") for name in ("mean", "cov", "confidence"))
            shapes, judge = (mean.ndim, cov.shape, sure.shape), str(saved["judge"])
            if shapes != (1, mean.shape * 2, ()) or not re.fullmatch("[0-9a-f]{64}", judge):
                raise ValueError("it is no reference of real images")
            if not (np.isfinite(mean).all() and np.isfinite(cov).all() and 0 <= sure <= 1):
                raise ValueError("its moments are not finite")
            return cls(mean, cov, float(sure), judge, *_known(saved))

    def misread(self, reader: Reader) -> list[int]:
        """The labels whose known images a judge reads most often as another class."""
        if not len(self.labels):
            return []
        predicted, wrong = confidences(reader.read(self.images)[1])[0], []
        for label in np.unique(self.labels).tolist():
            votes = np.bincount(predicted[self.labels == label], minlength=label + 1)
            if votes[label] < votes.max():
                wrong.append(label)
        return wrong

    def distance(self, features: Doubles | Floats) -> float:
        """The Frechet distance of features [N,F] from these, computed as FID is."""
        return frechet(*moments(features), self.mean, self.cov)

    def floor(self, n: int) -> float:
        """The distance that `n` real images would have, because they are so few."""
        rng = np.random.default_rng(0)
        return self.distance(rng.multivariate_normal(self.mean, self.cov, n, method="eigh"))


def _known(saved: Mapping[str, Any]) -> tuple[Bytes, Labels]:
    """The images and labels in a file, or none of either; raises ValueError where they do not belong together."""
    if "images" not in saved:
        return np.zeros((0, 1, 1), np.uint8), np.zeros(0, np.int64)
    images, labels = saved["images"], saved["labels"]
    if (images.dtype, images.ndim, labels.dtype, labels.shape) != (np.uint8, 3, np.int64, images.shape[:1]):
        raise ValueError(
            f"its images are {images.dtype} {list(images.shape)}, labels {labels.dtype} {list(labels.shape)}"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() < MAX_LABELS):
        raise ValueError("its labels are out of range")
    return images, labels
