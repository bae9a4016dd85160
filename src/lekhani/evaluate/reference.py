"""Real test images as the judge sees them, in a small file that travels with a registered model."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lekhani import files
from lekhani.data.spec import Bytes
from lekhani.errors import LekhaniError
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
        try:
            with np.load(path, allow_pickle=False) as saved:
                return cls(saved["mean"], saved["cov"], float(saved["confidence"]), str(saved["judge"]))
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise LekhaniError(f"{path} is no reference of real images ({error}); register the model again.") from error

    def distance(self, features: Doubles | Floats) -> float:
        """The Frechet distance of features [N,F] from these, computed as FID is."""
        return frechet(*moments(features), self.mean, self.cov)

    def floor(self, n: int) -> float:
        """The distance that `n` real images would have, because they are so few."""
        rng = np.random.default_rng(0)
        return self.distance(rng.multivariate_normal(self.mean, self.cov, n, method="eigh"))
