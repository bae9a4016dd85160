"""fetch: the raw files of a dataset, from its source."""

from lekhani.data.sources import fetch as sources
from lekhani.params import Params
from lekhani.paths import RAW


def fetch(p: Params, dataset: str) -> None:
    """Source -> data/raw/D/."""
    sources.fetch(dataset, p.dataset(dataset), p.embedded, p.seed, RAW / dataset)
