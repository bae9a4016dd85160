"""What the ONNX files that tests write by hand have in common."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lekhani.data.spec import GlyphClass

Shapes = Mapping[str, Sequence[int]]  # of inputs and outputs, without the batch


def described(dataset: str, classes: Sequence[GlyphClass], size: int, **more: str) -> dict[str, str]:
    """The metadata of a judge, and with `more` of a generator."""
    glyphs = json.dumps([asdict(one) for one in classes], ensure_ascii=False)
    return {"dataset": dataset, "image_size": str(size), "classes": glyphs, **more}


def save_model(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Shapes,
    outputs: Shapes,
    constants: Mapping[str, Any],
    metadata: Mapping[str, str],
) -> Path:
    """Write a graph; `labels` are int64, other tensors float32, and constants int64 or float32 by what they are."""

    def values(shapes: Shapes) -> list[onnx.ValueInfoProto]:
        kinds = {"labels": TensorProto.INT64}
        return [
            helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), ["batch", *shape])
            for name, shape in shapes.items()
        ]

    arrays = {name: np.asarray(value) for name, value in constants.items()}
    weights = [
        numpy_helper.from_array(array.astype(np.int64 if array.dtype.kind == "i" else np.float32), name)
        for name, array in arrays.items()
    ]
    graph = helper.make_graph(list(nodes), "made by hand", values(inputs), values(outputs), weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return save(model, path, metadata)


def save(model: onnx.ModelProto, path: Path, metadata: Mapping[str, str]) -> Path:
    """Write a model with this metadata besides what it has."""
    helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path
