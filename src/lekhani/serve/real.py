"""Real images of what a model has learned: those that came with its version, or the prepared data of this folder."""

from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from fastapi import HTTPException

from lekhani import files
from lekhani.data.spec import Bytes, DatasetInfo, Labels, check, load_prepared
from lekhani.errors import LekhaniError
from lekhani.paths import PREPARED
from lekhani.serve.champions import ServedModel


def real_images(model: ServedModel, labels: list[int], n: int, seed: int) -> tuple[Bytes, Labels]:
    """`n` images uint8 [N,H,W] of each label, and their labels int64 [N]; fewer where there are not so many.

    A seed draws them without repetition, whatever other labels are asked for. Raises HTTPException where there are none
    of a label.
    """
    images, known = _known(model)
    rows = []
    for label in labels:
        all_of_it = np.flatnonzero(known == label)
        if not len(all_of_it):
            dataset, glyph = model.dataset, model.pen.classes[label].glyph
            remedy = f"run `dvc repro prepare@{dataset}` in the folder of this server, or register the model again"
            raise HTTPException(404, f"There are no real images of {glyph} ({dataset}) here; {remedy}.")
        rows.append(np.random.default_rng([seed, label]).permutation(all_of_it)[:n])
    chosen = np.concatenate(rows)
    return images[chosen], known[chosen]


def _known(model: ServedModel) -> tuple[Bytes, Labels]:
    if model.reference is not None and len(model.reference.labels):
        return model.reference.images, model.reference.labels
    folder = PREPARED / model.dataset
    with suppress(LekhaniError), files.reading(folder):  # none, or damaged, or being written
        written = (folder / "dataset.json").stat().st_mtime_ns
        info, images, labels = _test_split(folder.resolve(), written)
        if info.classes == model.pen.classes:
            return images, labels
    return np.zeros((0, 1, 1), np.uint8), np.zeros(0, np.int64)


@lru_cache(maxsize=4)
def _test_split(folder: Path, written: int) -> tuple[DatasetInfo, Bytes, Labels]:  # noqa: ARG001 - to notice new data
    data = load_prepared(folder)
    check(data)
    return data.info, *data.split("test")
