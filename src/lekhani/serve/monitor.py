"""Whether a served model still writes what its scorecard promises, judged by a sample of its images.

The sample holds the latest images of each class, equally many, as they were served; for classes that no client requests
a few are generated. So it is made as the scorecard's was, and its figures can be compared with the scorecard's.
"""

import math
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lekhani.data.spec import Bytes, Labels
from lekhani.evaluate.reference import Reference
from lekhani.inference.confidence import confidences
from lekhani.inference.session import Floats, Reader

SAMPLE_SIZE = 2000  # images of all classes together
MIN_PER_CLASS = 20  # however many classes there are
MAX_PER_REQUEST = 8  # or else one request could fill the sample
DRIFT_TOLERANCE = 1.25  # times the expected drift
SIGMAS = 4.0  # standard deviations beyond which a difference is not chance


@dataclass(frozen=True)
class Measure:
    """One figure of the sample; `expected` and `bound` are None where the scorecard promises nothing."""

    value: float
    expected: float | None = None
    bound: float | None = None
    alarm: bool = False


class Monitor:
    """The sample of one served version. `observe` may be called from any thread, `update` by one at a time.

    `card` is the scorecard of the version, empty where there is none; `conditional` says whether labels are promises.
    """

    def __init__(self, reader: Reader, card: Mapping[str, Any], reference: Reference | None, conditional: bool) -> None:
        classes = len(reader.classes)
        self.reader, self.card, self.conditional = reader, card, conditional
        self.reference = reference if reference and reference.judge == reader.sha256 else None
        self.per_class = max(MIN_PER_CLASS, -(-SAMPLE_SIZE // classes))
        self.count, self._next = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
        self._predicted = np.zeros((classes, self.per_class), np.int64)
        self._confidence = np.zeros((classes, self.per_class), np.float32)
        self._features: Floats | None = None
        self._digests = np.zeros((classes, self.per_class), np.int64)
        self._pending: deque[tuple[Bytes, int]] = deque(maxlen=SAMPLE_SIZE)
        self._rng, self._lock = np.random.default_rng(), threading.Lock()

    @property
    def full(self) -> bool:
        """Whether every class has all its images."""
        return bool((self.count == self.per_class).all())

    def observe(self, images: Bytes, labels: Labels) -> None:
        """Take a few of the images uint8 [N,H,W] that were just served for these labels int64 [N]."""
        n = len(labels)
        some = self._rng.choice(n, MAX_PER_REQUEST, replace=False) if n > MAX_PER_REQUEST else range(n)
        with self._lock:
            self._pending.extend((images[i], int(labels[i])) for i in some)

    def labels_to_probe(self, n: int) -> Labels:
        """At most `n` labels, int64, of the classes that the sample has fewest of; any labels once it is full."""
        if self.full:
            return self._rng.integers(len(self.count), size=n)
        missing = np.repeat(np.arange(len(self.count)), self.per_class - self.count)
        order = np.argsort(np.concatenate([np.arange(count, self.per_class) for count in self.count]), kind="stable")
        chosen: Labels = missing[order][:n]
        return chosen

    def update(self, probes: Sequence[tuple[Bytes, int]] = ()) -> dict[str, Measure]:
        """Add what was observed, and `probes`, to the sample and measure it; empty until every class has an image."""
        with self._lock:
            served = list(self._pending)
            self._pending.clear()
        # The same request again is no new evidence; a probe that looks like another one is.
        self._add(served, skip_repeats=True)
        self._add(probes, skip_repeats=False)
        return self._measures() if self.count.min() else {}

    def _add(self, new: Sequence[tuple[Bytes, int]], skip_repeats: bool) -> None:
        if not new:
            return
        images, labels = np.stack([image for image, _ in new]), [label for _, label in new]
        features, logits = self.reader.read(images)
        predicted, sure = confidences(logits)
        if self._features is None:
            self._features = np.zeros((len(self.count), self.per_class, features.shape[1]), np.float32)
        for i, label in enumerate(labels):
            digest = hash(images[i].tobytes())
            if skip_repeats and (self._digests[label] == digest).any():
                continue
            place = label, self._next[label]
            self._features[place], self._predicted[place] = features[i], predicted[i]
            self._confidence[place], self._digests[place] = sure[i], digest
            self._next[label] = (self._next[label] + 1) % self.per_class
            self.count[label] = min(self.count[label] + 1, self.per_class)

    def _measures(self) -> dict[str, Measure]:
        there = np.arange(self.per_class) < self.count[:, None]
        n, expected = int(there.sum()), self.reference.confidence if self.reference else None
        measures = {"confidence": Measure(float(self._confidence[there].mean()), expected)}
        if self.conditional:
            right = there & (self._predicted == np.arange(len(self.count))[:, None])
            measures["label_agreement"] = self._agreement(float((right.sum(1) / self.count).mean()), n)
        covered = len(np.unique(self._predicted[there]))
        least = self.card.get("classes_covered")
        alarm = self.full and least is not None and covered < least
        measures["classes_covered"] = Measure(covered, least, least, alarm)
        if self.full and self.reference is not None and self._features is not None:
            measures["drift"] = self._drift(self.reference, self._features[there], n)
        return measures

    def _agreement(self, value: float, n: int) -> Measure:
        promised = self.card.get("label_agreement")
        if promised is None:
            return Measure(value)
        # The chance of as many images of a generator that keeps its promise; a promise of 100% leaves room for one.
        share = min(max(promised, 1 / n), 1 - 1 / n)
        chance = math.hypot(math.sqrt(share * (1 - share) / n), self.card.get("label_agreement_std", 0.0))
        bound = promised - SIGMAS * chance
        return Measure(value, promised, bound, value < bound)

    def _drift(self, reference: Reference, features: Floats, n: int) -> Measure:
        value, promised = reference.distance(features), self.card.get("fid")
        if promised is None:
            return Measure(value)
        # FID falls with the number of images: fewer than the scorecard's may be farther off, more must be as close.
        more = reference.floor(n) - reference.floor(self.card.get("n_generated", n))
        expected = promised + max(more, 0.0)
        bound = DRIFT_TOLERANCE * expected + SIGMAS * self.card.get("fid_std", 0.0)
        return Measure(value, expected, bound, value > bound)
