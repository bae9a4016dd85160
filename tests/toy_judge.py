"""A judge for the toy generator's glyphs, as an ONNX file written by hand."""

import json
from dataclasses import asdict
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from lekhani.data.spec import MNIST, GlyphClass


def toy_judge(path: Path, classes: tuple[GlyphClass, ...] = MNIST[:3], size: int = 4, dataset: str = "mnist") -> Path:
    """judge.onnx that classifies by the mean brightness that the toy generator paints; its features are the pixels."""
    centres = [(i + 0.5) / len(classes) for i in range(len(classes))]
    constants = [
        helper.make_tensor("row", TensorProto.INT64, [2], [-1, size**2]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("centres", TensorProto.FLOAT, [1, len(classes)], centres),
        helper.make_tensor("steep", TensorProto.FLOAT, [], [-1000.0]),
    ]
    nodes = [
        helper.make_node("Reshape", ["images", "row"], ["features"]),
        helper.make_node("ReduceMean", ["features", "axis"], ["mean"]),
        helper.make_node("Sub", ["mean", "centres"], ["away"]),
        helper.make_node("Mul", ["away", "away"], ["squared"]),
        helper.make_node("Mul", ["squared", "steep"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "toy judge",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, size, size])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
            for name, width in (("features", size**2), ("logits", len(classes)))
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    metadata = {
        "dataset": dataset,
        "image_size": str(size),
        "classes": json.dumps([asdict(c) for c in classes], ensure_ascii=False),
    }
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path
