"""Real test images as the judge sees them, in a small file that travels with a registered model."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lekhani import files
from lekhani.data.spec import Bytes
from lekhani.evaluate.frechet import Doubles, frechet, moments
from lekhani.inference.confidence import confidences
from lekhani.inference.session import Floats, Reader


@dataclass(frozen=True)
class Reference:
    """Mean and covariance of the judge's features of real images, its mean confidence, and the judge's SHA-256."""

    mean: Doubles
    cov: Doubles
    confidence: float
    judge: str

    @classmethod
    def of(cls, reader: Reader, images: Bytes) -> "Reference":
        """Read images uint8 [N,H,W]."""
        features, logits = reader.read(images)
        return cls(*moments(features), float(confidences(logits)[1].mean()), reader.sha256)

    def save(self, path: Path) -> None:
        """Write it as an NPZ."""
        with files.replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **asdict(self))

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
            return cls(mean, cov, float(sure), judge)

    def distance(self, features: Doubles | Floats) -> float:
        """The Frechet distance of features [N,F] from these, computed as FID is."""
        return frechet(*moments(features), self.mean, self.cov)

    def floor(self, n: int) -> float:
        """The distance that `n` real images would have, because they are so few."""
        rng = np.random.default_rng(0)
        return self.distance(rng.multivariate_normal(self.mean, self.cov, n, method="eigh"))
