"""A generator that works in steps, as an ONNX file written by hand."""

import json
from dataclasses import asdict
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from lekhani.data.spec import MNIST

SIZE, STEPS = 4, 3


def stepwise_generator(path: Path, *, conditional: bool = True) -> Path:
    """A generator whose state, the noise, doubles at each of three steps; images are |state| / 16.

    The first step adds the label, where it is `conditional`.
    """
    nodes = [helper.make_node("Identity", ["noise"], ["state_0"], "begin/a")]
    for i in range(STEPS):
        nodes.append(helper.make_node("Mul", [f"state_{i}", "two"], [f"step_{i}/b"], f"step_{i}/c"))
        nodes.append(helper.make_node("Add", [f"step_{i}/b", "share"], [f"state_{i + 1}"], f"step_{i}/d"))
    if conditional:
        nodes[2:3] = [
            helper.make_node("Cast", ["labels"], ["step_0/e"], "step_0/f", to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["step_0/e", "column"], ["step_0/g"], "step_0/h"),
            helper.make_node("Add", ["step_0/b", "step_0/g"], ["state_1"], "step_0/d"),
        ]
    nodes += [
        helper.make_node("Abs", [f"state_{STEPS}"], ["finish/i"], "finish/j"),
        helper.make_node("Div", ["finish/i", "many"], ["finish/k"], "finish/l"),
        helper.make_node("Clip", ["finish/k", "nothing", "one"], ["finish/m"], "finish/n"),
        helper.make_node("Reshape", ["finish/m", "cube"], ["images"], "finish/o"),
    ]
    numbers = {"two": 2.0, "share": 0.0, "many": 16.0, "nothing": 0.0, "one": 1.0}
    weights = [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in numbers.items()]
    weights += [
        helper.make_tensor("cube", TensorProto.INT64, [4], [-1, 1, SIZE, SIZE]),
        helper.make_tensor("column", TensorProto.INT64, [2], [-1, 1]),
    ]
    inputs = [
        helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["batch", SIZE**2]),
        helper.make_tensor_value_info("labels", TensorProto.INT64, ["batch"]),
    ]
    outputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, SIZE, SIZE])]
    model = helper.make_model(
        helper.make_graph(nodes, "toy", inputs, outputs, weights),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    metadata = {"dataset": "mnist", "variant": "draw", "noise_dim": str(SIZE**2), "image_size": str(SIZE)}
    metadata |= {"conditional": str(conditional).lower(), "classes": json.dumps([asdict(c) for c in MNIST[:3]])}
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
