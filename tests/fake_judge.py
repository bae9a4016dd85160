"""A judge whose predictions are known."""

import hashlib
from typing import Any

import numpy as np

from lekhani.data.spec import MNIST, Bytes, GlyphClass


class FakeJudge:
    """Classifies an image by its mean brightness, but never as one of `never`.

    Its confidence is high where the brightness is close to that of the class, and falls with the distance.
    """

    def __init__(self, classes: tuple[GlyphClass, ...] = MNIST[:3], never: tuple[int, ...] = ()) -> None:
        self.classes, self.never, self.calls = classes, never, 0
        self.sha256 = hashlib.sha256(repr((classes, never)).encode()).hexdigest()

    def read(self, images: Bytes) -> tuple[Any, Any]:
        self.calls += 1
        place = images.mean(axis=(1, 2), dtype=np.float64) / 255 * 3 - 0.5
        away = np.abs(place[:, None] - np.arange(3))
        logits = np.where(away == away.min(1, keepdims=True), np.maximum(6 - 300 * away, 0.1), 0).astype(np.float32)
        logits[:, list(self.never)] = -1000
        return np.zeros((len(images), 128), np.float32), logits
