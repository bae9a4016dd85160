"""Generators as ONNX files without training: tables of given images, and existing ones with a changed graph."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.helper import make_node
from onnx_by_hand import described, save, save_model

from lekhani.data.spec import Bytes, DatasetInfo, Labels


def image_table(path: Path, info: DatasetInfo, images: Bytes, labels: Labels, *, conditional: bool = True) -> Path:
    """Write a generator that draws one of these images uint8 [N,H,W], of the given label if it is `conditional`.

    The first noise value chooses, each image of a class equally often; every class needs as many images as the others.
    """
    table = np.concatenate([images[labels == label] for label in range(info.n_classes)])
    each = len(table) // info.n_classes
    assert (np.bincount(labels) == each).all()
    choices = each if conditional else len(table)
    constants = {
        "table": table[:, None] / 255,
        "each": each if conditional else 0,
        "lead": 0,
        "root_half": np.sqrt(0.5),
        "one": 1.0,
        "half_count": choices / 2,
        "last": float(choices - 1),
    }
    nodes = [
        # The cumulative normal distribution makes the noise uniform.
        make_node("Gather", ["noise", "lead"], ["lead_noise"], axis=1),
        make_node("Mul", ["lead_noise", "root_half"], ["scaled"]),
        make_node("Erf", ["scaled"], ["erf"]),
        make_node("Add", ["erf", "one"], ["twice"]),
        make_node("Mul", ["twice", "half_count"], ["place"]),
        make_node("Floor", ["place"], ["floor"]),
        make_node("Min", ["floor", "last"], ["whole"]),
        make_node("Cast", ["whole"], ["choice"], to=TensorProto.INT64),
        make_node("Mul", ["labels", "each"], ["first"]),
        make_node("Add", ["first", "choice"], ["row"]),
        make_node("Gather", ["table", "row"], ["images"]),
    ]
    size = info.image_size
    more = {"variant": "flow_matching", "noise_dim": "4", "conditional": str(conditional).lower()}
    about = described(info.name, info.classes, size, **more)
    inputs, outputs = {"noise": [4], "labels": []}, {"images": [1, size, size]}
    return save_model(path, nodes, inputs, outputs, constants, about)


def with_metadata(source: Path, target: Path, **metadata: str) -> Path:
    """The same network under other metadata."""
    return save(onnx.load(source), target, metadata)


def with_swapped_labels(source: Path, target: Path, instead: Sequence[int]) -> Path:
    """Draws `instead[label]` for each label."""
    model = onnx.load(source)
    for node in model.graph.node:
        node.input[:] = ["labels_given" if one == "labels" else one for one in node.input]
    rest: list[Any] = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([make_node("Gather", ["instead", "labels"], ["labels_given"]), *rest])
    model.graph.initializer.append(numpy_helper.from_array(np.array(instead, np.int64), "instead"))
    return save(model, target, {})
