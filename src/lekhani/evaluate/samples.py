"""The images that are scored: those that a generator draws, and as many real ones to hold them against."""

import numpy as np

from lekhani.data import spec
from lekhani.inference.session import Generator
from lekhani.params import Params


def requested_labels(p: Params, data: spec.Prepared) -> spec.Labels:
    """Equally many labels of each class, int64 [N], no more than there are train images."""
    return np.arange(min(p.evaluate.n_generated, data.info.counts["train"]), dtype=np.int64) % data.info.n_classes


def sample(p: Params, generator: Generator, data: spec.Prepared, again: int) -> tuple[spec.Bytes, spec.Labels]:
    """Images uint8 [N,H,W] of sampling seed number `again`, and the labels int64 [N] that they were requested for."""
    labels = requested_labels(p, data)
    return generator.sample(labels, np.random.default_rng([p.seed, 2, again])), labels


def real_sample(p: Params, data: spec.Prepared) -> tuple[spec.Bytes, spec.Labels]:
    """As many train images as are generated, by a stream of their own, so that every variant has the same floor."""
    images, labels = data.split("train")
    chosen = np.random.default_rng([p.seed, 3]).choice(len(images), len(requested_labels(p, data)), replace=False)
    chosen.sort()
    return images[chosen], labels[chosen]
