"""Whether what is written is still what was promised: the judge reads a sample of it, and a version's own scorecard says what to expect.

The sample holds the latest images of each class, equally many, as they were served; classes that nobody asks for are drawn now and then.
So it is made as the scorecard's was, whatever clients ask for, and its figures can be held against the scorecard's.
"""

import math
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lekhani import files
from lekhani.data.spec import Bytes, Labels
from lekhani.errors import LekhaniError
from lekhani.evaluate.frechet import Doubles, frechet, moments
from lekhani.inference.confidence import confidences
from lekhani.inference.session import Floats, Reader

SAMPLE = 2000  # images that the sample holds, of all classes together
FEWEST = 20  # of each class, however many classes there are
EACH = 8  # images that one request adds at most, lest it be all of the sample
TOO_FAR = 1.25  # times the expected drift
CHANCE = 4.0  # standard deviations


@dataclass(frozen=True)
class Reference:
    """Real test images as the judge sees them: moments of the features, mean confidence, and which judge.onnx it was."""

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
        """The Frechet distance of features [N,F] from these, as FID is."""
        return frechet(*moments(features), self.mean, self.cov)

    def floor(self, n: int) -> float:
        """The distance that `n` images would have by their number alone."""
        rng = np.random.default_rng(0)
        return self.distance(rng.multivariate_normal(self.mean, self.cov, n, method="eigh"))


@dataclass(frozen=True)
class Measure:
    """One figure of the sample; `expected` and `bound` are None where nothing was promised."""

    value: float
    expected: float | None = None
    bound: float | None = None
    alarm: bool = False


class Watch:
    """The sample of one served version. `saw` may be called from any thread; `look` is for one at a time.

    `card` is the scorecard of the version, empty where there is none. `conditional` tells whether labels are promises.
    """

    def __init__(self, reader: Reader, card: Mapping[str, Any], reference: Reference | None, conditional: bool) -> None:
        classes = len(reader.classes)
        self.reader, self.card, self.conditional = reader, card, conditional
        self.reference = reference if reference and reference.judge == reader.sha256 else None
        self.each = max(FEWEST, -(-SAMPLE // classes))
        self.count, self._at = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
        self._read = np.zeros((classes, self.each), np.int64)
        self._sure = np.zeros((classes, self.each), np.float32)
        self._features: Floats | None = None
        self._digests = np.zeros((classes, self.each), np.int64)
        self._new: deque[tuple[Bytes, int]] = deque(maxlen=SAMPLE)
        self._rng, self._lock = np.random.default_rng(), threading.Lock()

    def saw(self, images: Bytes, labels: Labels) -> None:
        """Take a few of the images uint8 [N,H,W] that were just served for these labels int64 [N]."""
        some = self._rng.choice(len(labels), EACH, replace=False) if len(labels) > EACH else range(len(labels))
        with self._lock:
            self._new.extend((images[i], int(labels[i])) for i in some)

    def wanting(self, most: int) -> Labels:
        """The labels, int64 [n], that the sample has fewest of; any of them once it is full."""
        if self.full:
            return self._rng.integers(len(self.count), size=most)
        missing = np.repeat(np.arange(len(self.count)), self.each - self.count)
        order = np.argsort(np.concatenate([np.arange(count, self.each) for count in self.count]), kind="stable")
        chosen: Labels = missing[order][:most]
        return chosen

    @property
    def full(self) -> bool:
        """Whether every class has all its images."""
        return bool((self.count == self.each).all())

    def look(self, probes: Iterable[tuple[Bytes, int]] = ()) -> dict[str, Measure]:
        """Read what came since, and `probes`, into the sample and measure it; nothing is measured before every class has some images."""
        with self._lock:
            served = list(self._new)
            self._new.clear()
        # The same request again says nothing new; a probe that looks like another does.
        self._take(served, again=False)
        self._take(list(probes), again=True)
        if self.count.min() < 1:
            return {}
        return self._measures()

    def _take(self, new: Sequence[tuple[Bytes, int]], again: bool) -> None:
        if not new:
            return
        images, labels = np.stack([image for image, _ in new]), [label for _, label in new]
        features, logits = self.reader.read(images)
        read, sure = confidences(logits)
        if self._features is None:
            self._features = np.zeros((len(self.count), self.each, features.shape[1]), np.float32)
        for i, label in enumerate(labels):
            digest = hash(images[i].tobytes())
            if not again and (self._digests[label] == digest).any():
                continue
            place = self._at[label]
            self._features[label, place], self._read[label, place] = features[i], read[i]
            self._sure[label, place], self._digests[label, place] = sure[i], digest
            self._at[label] = (place + 1) % self.each
            self.count[label] = min(self.count[label] + 1, self.each)

    def _measures(self) -> dict[str, Measure]:
        there = np.arange(self.each) < self.count[:, None]
        n = int(there.sum())
        measures = {
            "confidence": Measure(
                float(self._sure[there].mean()), self.reference.confidence if self.reference else None
            )
        }
        if self.conditional:
            right = there & (self._read == np.arange(len(self.count))[:, None])
            measures["label_agreement"] = self._agreement(float((right.sum(1) / self.count).mean()), n)
        covered = len(np.unique(self._read[there]))
        least = self.card.get("classes_covered")
        measures["classes_covered"] = Measure(
            covered, least, least, self.full and least is not None and covered < least
        )
        if self.full and self.reference is not None and self._features is not None:
            measures["drift"] = self._drift(self.reference, self._features[there], n)
        return measures

    def _agreement(self, value: float, n: int) -> Measure:
        promised = self.card.get("label_agreement")
        if promised is None:
            return Measure(value)
        # As many images of a generator that keeps its promise; one image in n is added lest a promise of 100% leave no room.
        share = min(max(promised, 1 / n), 1 - 1 / n)
        chance = math.hypot(math.sqrt(share * (1 - share) / n), self.card.get("label_agreement_std", 0.0))
        bound = promised - CHANCE * chance
        return Measure(value, promised, bound, value < bound)

    def _drift(self, reference: Reference, features: Floats, n: int) -> Measure:
        value, promised = reference.distance(features), self.card.get("fid")
        if promised is None:
            return Measure(value)
        # FID falls with the number of images: fewer than the scorecard's n_generated may be farther off, more are held to the same.
        more = reference.floor(n) - reference.floor(self.card.get("n_generated", n))
        expected = promised + max(more, 0.0)
        bound = TOO_FAR * expected + CHANCE * self.card.get("fid_std", 0.0)
        return Measure(value, expected, bound, value > bound)
