"""A prepared dataset in a folder, sound but for what a test plants."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lekhani import files
from lekhani.data.prepare import manifest
from lekhani.data.spec import DatasetInfo, GlyphClass, digest

Plant = Callable[[Any, Any, Any, list[str]], None]
WritePrepared = Callable[..., Path]


@pytest.fixture
def write_prepared(tmp_path: Path) -> WritePrepared:
    """Writes three classes of 12 train and 10 test images, all different but for what `plant` changes in the arrays."""

    def write(
        plant: Plant | None = None,
        classes: tuple[GlyphClass, ...] | None = None,
        folder: str = "prepared",
        **facts: Any,
    ) -> Path:
        labels = np.repeat(np.arange(3), 22)
        splits = np.tile(["train"] * 12 + ["test"] * 10, 3)
        members = [f"own/{i}" for i in range(66)]
        images = np.zeros((66, 16, 16), np.uint8)
        images[:, 4:12, 4:12] = np.random.default_rng(0).integers(0, 256, (66, 8, 8))
        if plant:
            plant(images, labels, splits, members)
        order = np.lexsort((labels, splits == "test"))
        images, labels, splits, members = images[order], labels[order], splits[order], [members[i] for i in order]
        counts = {split: int((splits == split).sum()) for split in ("train", "test")}
        classes = classes or tuple(GlyphClass(i, name, name) for i, name in enumerate("abc"))
        source, notes = {"name": "local", **facts}, ("Two <b>notes</b>.",)
        info = DatasetInfo("own", "Latin", 16, classes, counts, source, digest(images, labels, counts), notes)
        target = tmp_path / folder
        target.mkdir()
        np.save(target / "images.npy", images)
        np.save(target / "labels.npy", labels)
        manifest(images, labels, classes, counts, members).to_parquet(target / "manifest.parquet", index=False)
        files.write_json(target / "dataset.json", info.to_dict())
        return target

    return write
