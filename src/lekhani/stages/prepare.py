"""prepare: raw files in the one form that all later stages read."""

import logging

from lekhani.data import prepare as preparing
from lekhani.params import Params
from lekhani.paths import PREPARED, RAW

log = logging.getLogger("lekhani")


def prepare(p: Params, dataset: str) -> None:
    """data/raw/D/ -> data/prepared/D/{images.npy, labels.npy, manifest.parquet, dataset.json}."""
    info = preparing.prepare(dataset, p.dataset(dataset), p.prepare, p.seed, RAW / dataset, PREPARED / dataset)
    train, test = info.counts["train"], info.counts["test"]
    log.info("%s: %d train and %d test images in %d classes", dataset, train, test, info.n_classes)
