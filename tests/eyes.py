"""A judge whose verdicts are known."""

import hashlib
from typing import Any

import numpy as np

from lekhani.data.spec import MNIST, Bytes, GlyphClass


class Eyes:
    """Stands in for the judge: reads an image's class off its mean brightness, but never sees what it is `blind` to.

    It is sure of an image whose brightness is all but exactly its class's, and the less so the farther that is away.
    """

    def __init__(self, classes: tuple[GlyphClass, ...] = MNIST[:3], blind: tuple[int, ...] = ()) -> None:
        self.classes, self.blind, self.calls = classes, blind, 0
        self.sha256 = hashlib.sha256(repr((classes, blind)).encode()).hexdigest()

    def read(self, images: Bytes) -> tuple[Any, Any]:
        self.calls += 1
        place = images.mean(axis=(1, 2), dtype=np.float64) / 255 * 3 - 0.5
        away = np.abs(place[:, None] - np.arange(3))
        logits = np.where(away == away.min(1, keepdims=True), np.maximum(6 - 300 * away, 0.1), 0).astype(np.float32)
        logits[:, list(self.blind)] = -1000
        return np.zeros((len(images), 128), np.float32), logits
