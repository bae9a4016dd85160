"""Models of the registry that write and read as people expect, without training: they know a typeface by heart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typeface
from onnx.helper import make_node
from onnx_by_hand import described, save_model

from lekhani.data.spec import MNIST, GlyphClass
from lekhani.registry import models
from lekhani.tracking import logged, runs
from lekhani.tracking.store import connect

KINDS = {"devanagari": (typeface.DEVANAGARI, 32), "mnist": (MNIST, 28)}


def register_typefaces(folder: Path) -> None:
    """A champion of each dataset in the store in use, with its judge; the files lie in `folder`, too."""
    for dataset, (classes, size) in KINDS.items():
        shapes = np.stack([typeface.shape(c.glyph, size, dataset) for c in classes])
        register(
            dataset,
            generator(folder / dataset / "generator.onnx", dataset, classes, shapes),
            judge(folder / "judge.onnx", dataset, classes, shapes),
        )


def register(dataset: str, generator: Path, judge: Path) -> None:
    """As the pipeline does: a model with its judge, a version, the champion."""
    uri = logged.log_model(runs.create_run("tour", dataset, "test", {}), generator, [judge])
    version = models.register(dataset, uri, {"variant": "flow_matching"})
    connect().set_registered_model_alias(version.name, "champion", version.version)


def generator(path: Path, dataset: str, classes: Sequence[GlyphClass], shapes: Any) -> Path:
    """generator.onnx that paints a typeface with a little grain."""
    size = shapes.shape[-1]
    nodes = [
        make_node("Gather", ["shapes", "labels"], ["glyphs"]),
        make_node("Reshape", ["noise", "frame"], ["texture"]),
        make_node("Mul", ["texture", "little"], ["grain"]),
        make_node("Add", ["glyphs", "grain"], ["raw"]),
        make_node("Clip", ["raw", "zero", "one"], ["images"]),
    ]
    constants = {"shapes": shapes[:, None], "frame": [-1, 1, size, size], "little": 0.03, "zero": 0.0, "one": 1.0}
    more = {"variant": "flow_matching", "noise_dim": f"{size**2}", "conditional": "true"}
    about = described(dataset, classes, size, **more)
    inputs, outputs = {"noise": [size**2], "labels": []}, {"images": [1, size, size]}
    return save_model(path, nodes, inputs, outputs, constants, about)


def judge(path: Path, dataset: str, classes: Sequence[GlyphClass], shapes: Any) -> Path:
    """judge.onnx that knows the typeface by heart: the logits fall with the distance from its glyphs."""
    size, flat = shapes.shape[-1], shapes.reshape(len(shapes), -1)
    nodes = [
        make_node("Reshape", ["images", "row"], ["features"]),
        make_node("MatMul", ["features", "twice"], ["alike"]),
        make_node("Sub", ["alike", "length"], ["logits"]),
    ]
    constants = {"row": [-1, size**2], "twice": 2 * flat.T, "length": (flat**2).sum(1)}
    outputs = {"features": [size**2], "logits": [len(classes)]}
    about = described(dataset, classes, size)
    return save_model(path, nodes, {"images": [1, size, size]}, outputs, constants, about)
