"""Generators as ONNX files without training: tables of given images, and existing ones with a changed graph."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

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
        "table": (table[:, None] / 255).astype(np.float32),
        "each": np.array(each if conditional else 0),
        "lead": np.array(0),
        "root_half": np.array(np.sqrt(0.5), np.float32),
        "one": np.array(1, np.float32),
        "half_count": np.array(choices / 2, np.float32),
        "last": np.array(choices - 1, np.float32),
    }
    nodes = [
        # The cumulative normal distribution makes the noise uniform.
        helper.make_node("Gather", ["noise", "lead"], ["lead_noise"], axis=1),
        helper.make_node("Mul", ["lead_noise", "root_half"], ["scaled"]),
        helper.make_node("Erf", ["scaled"], ["erf"]),
        helper.make_node("Add", ["erf", "one"], ["twice"]),
        helper.make_node("Mul", ["twice", "half_count"], ["place"]),
        helper.make_node("Floor", ["place"], ["floor"]),
        helper.make_node("Min", ["floor", "last"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["choice"], to=TensorProto.INT64),
        helper.make_node("Mul", ["labels", "each"], ["first"]),
        helper.make_node("Add", ["first", "choice"], ["row"]),
        helper.make_node("Gather", ["table", "row"], ["images"]),
    ]
    size = info.image_size
    graph = helper.make_graph(
        nodes,
        "table",
        [
            helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("labels", TensorProto.INT64, ["batch"]),
        ],
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, size, size])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    metadata = {
        "dataset": info.name,
        "variant": "flow_matching",
        "noise_dim": "4",
        "image_size": str(size),
        "conditional": str(conditional).lower(),
        "classes": info.classes_json,
    }
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return _save(model, path, metadata)


def with_metadata(source: Path, target: Path, **metadata: str) -> Path:
    """The same network under other metadata."""
    return _save(onnx.load(source), target, metadata)


def with_swapped_labels(source: Path, target: Path, instead: Sequence[int]) -> Path:
    """Draws `instead[label]` for each label."""
    model = onnx.load(source)
    for node in model.graph.node:
        node.input[:] = ["labels_given" if one == "labels" else one for one in node.input]
    rest: list[Any] = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([helper.make_node("Gather", ["instead", "labels"], ["labels_given"]), *rest])
    model.graph.initializer.append(numpy_helper.from_array(np.array(instead, np.int64), "instead"))
    return _save(model, target, {})


def _save(model: onnx.ModelProto, target: Path, metadata: dict[str, str]) -> Path:
    helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | metadata)
    onnx.checker.check_model(model, full_check=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, target)
    return target
