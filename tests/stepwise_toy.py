"""A generator that works in steps, as an ONNX file written by hand."""

from pathlib import Path
from typing import Any

from onnx import TensorProto
from onnx.helper import make_node
from onnx_by_hand import described, save_model

from lekhani.data.spec import MNIST

SIZE, STEPS = 4, 3


def stepwise_generator(path: Path, *, conditional: bool = True, windows: bool = False) -> Path:
    """A generator whose state, the noise, doubles at each of three steps; images are |state| / 16.

    The first step adds the label, where it is `conditional`. With `windows`, that of a step is |tanh| of the first
    three numbers of its state.
    """
    nodes = [make_node("Identity", ["noise"], ["state_0"], "begin/a")]
    for i in range(STEPS):
        nodes.append(make_node("Mul", [f"state_{i}", "two"], [f"step_{i}/b"], f"step_{i}/c"))
        nodes.append(make_node("Add", [f"step_{i}/b", "share"], [f"state_{i + 1}"], f"step_{i}/d"))
    if conditional:
        nodes[2:3] = [
            make_node("Cast", ["labels"], ["step_0/e"], "step_0/f", to=TensorProto.FLOAT),
            make_node("Reshape", ["step_0/e", "column"], ["step_0/g"], "step_0/h"),
            make_node("Add", ["step_0/b", "step_0/g"], ["state_1"], "step_0/d"),
        ]
    for i in range(1, STEPS + 1) if windows else ():
        nodes.append(make_node("Slice", [f"state_{i}", "first", "third", "column_axis"], [f"three_{i}"], f"w/a_{i}"))
        nodes.append(make_node("Tanh", [f"three_{i}"], [f"tanh_{i}"], f"w/b_{i}"))
        nodes.append(make_node("Abs", [f"tanh_{i}"], [f"window_{i}"], f"w/c_{i}"))
    nodes += [
        make_node("Abs", [f"state_{STEPS}"], ["finish/i"], "finish/j"),
        make_node("Div", ["finish/i", "many"], ["finish/k"], "finish/l"),
        make_node("Clip", ["finish/k", "nothing", "one"], ["finish/m"], "finish/n"),
        make_node("Reshape", ["finish/m", "cube"], ["images"], "finish/o"),
    ]
    constants: dict[str, Any] = {"two": 2.0, "share": 0.0, "many": 16.0, "nothing": 0.0, "one": 1.0}
    constants |= {"cube": [-1, 1, SIZE, SIZE], "column": [-1, 1]}
    constants |= {"first": [0], "third": [3], "column_axis": [1]} if windows else {}
    more = {"variant": "draw", "noise_dim": str(SIZE**2), "conditional": str(conditional).lower()}
    about = described("mnist", MNIST[:3], SIZE, **more)
    inputs, outputs = {"noise": [SIZE**2], "labels": []}, {"images": [1, SIZE, SIZE]}
    return save_model(path, nodes, inputs, outputs, constants, about)
