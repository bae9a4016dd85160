"""Models with their weights in eight bits, for browsers that load them over a network.

A weight is a whole number from -127 to 127 times the scale of its row, the first axis. The model itself turns them back
into float32, once when it is loaded, so that it computes as fast as before.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LEAST = 1024  # weights in a tensor; smaller ones stay as they are


def with_small_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network, some four times as small."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    for weight in model.graph.initializer:
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < LEAST:
            weights.append(weight)
            continue
        values, name = numpy_helper.to_array(weight), weight.name
        scale = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True) / np.float32(127)
        whole = np.rint(values / np.where(scale == 0, np.float32(1), scale)).astype(np.int8)
        weights += [numpy_helper.from_array(whole, f"{name}/int8"), numpy_helper.from_array(scale, f"{name}/scale")]
        # ONNX Runtime computes these when it loads the model; DequantizeLinear it would keep.
        nodes += [
            helper.make_node("Cast", [f"{name}/int8"], [f"{name}/whole"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}/whole", f"{name}/scale"], [name]),
        ]
    nodes += model.graph.node
    graph = helper.make_graph(nodes, model.graph.name, model.graph.input, model.graph.output, weights)
    small = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    small.metadata_props.extend(model.metadata_props)
    return small
