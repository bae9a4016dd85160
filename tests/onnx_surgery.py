"""Exported generators whose graph is changed: what goes into the network is computed anew, or all of it is replaced."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from lekhani.data.spec import Bytes, Labels
from lekhani.inference.session import Floats


def retold(source: Path, target: Path, **metadata: str) -> Path:
    """The same network under other metadata."""
    return _save(onnx.load(source), target, metadata)


def relabelled(source: Path, target: Path, instead: Sequence[int]) -> Path:
    """Draws `instead[label]` where it is asked for a label."""
    nodes = [helper.make_node("Gather", ["instead", "labels"], ["labels_given"])]
    return _fed(source, target, "labels", nodes, {"instead": np.array(instead, np.int64)})


def unheeding(source: Path, target: Path, noises: Floats, classes: Collection[int], n_classes: int) -> Path:
    """Draws only the images of these few `noises` float32 [M, noise_dim] for some classes, whatever noise it is given."""
    constants = {"kept": noises, "deaf": np.array([label in classes for label in range(n_classes)])}
    nodes = [
        *_chosen(len(noises)),
        helper.make_node("Gather", ["kept", "choice"], ["kept_noise"]),
        helper.make_node("Gather", ["deaf", "labels"], ["is_deaf"]),
        helper.make_node("Reshape", ["is_deaf", "column"], ["is_deaf_column"]),
        helper.make_node("Where", ["is_deaf_column", "kept_noise", "noise"], ["noise_given"]),
    ]
    return _fed(source, target, "noise", nodes, constants | _FOR_CHOICE | {"column": np.array([-1, 1])})


def unlabelled(source: Path, target: Path, n_classes: int) -> Path:
    """Takes no label: which class it draws is up to the noise, all of them equally often."""
    nodes = [*_chosen(n_classes), helper.make_node("Identity", ["choice"], ["labels_given"])]
    return _fed(source, target, "labels", nodes, _FOR_CHOICE, conditional="false")


def replaying(source: Path, target: Path, images: Bytes, labels: Labels) -> Path:
    """Has the interface of `source` and draws from a table: one of these images uint8 [N,H,W] of the label asked for."""
    model = onnx.load(source)
    n_each = int(np.bincount(labels).min())
    table = np.concatenate([images[labels == label][:n_each] for label in np.unique(labels)])
    constants = {"table": (table[:, None] / 255).astype(np.float32), "each": np.array(n_each), **_FOR_CHOICE}
    nodes = [
        *_chosen(n_each),
        helper.make_node("Mul", ["labels", "each"], ["first"]),
        helper.make_node("Add", ["first", "choice"], ["row"]),
        helper.make_node("Gather", ["table", "row"], ["images"]),
    ]
    model.graph.CopyFrom(helper.make_graph(nodes, "replay", model.graph.input, model.graph.output, _tensors(constants)))
    return _save(model, target, {})


_FOR_CHOICE: dict[str, npt.NDArray[Any]] = {
    "lead": np.array(0),
    "root_half": np.array(np.sqrt(0.5), np.float32),
    "one": np.array(1, np.float32),
}


def _chosen(count: int) -> list[onnx.NodeProto]:
    """Nodes that make `choice` int64 [N], uniform in 0 to count - 1, of the first noise value: its normal distribution, cut into equal parts."""
    return [
        helper.make_node("Constant", [], ["half_count"], value_float=count / 2),
        helper.make_node("Constant", [], ["last"], value_float=float(count - 1)),
        helper.make_node("Gather", ["noise", "lead"], ["lead_noise"], axis=1),
        helper.make_node("Mul", ["lead_noise", "root_half"], ["scaled"]),
        helper.make_node("Erf", ["scaled"], ["erf"]),
        helper.make_node("Add", ["erf", "one"], ["twice"]),
        helper.make_node("Mul", ["twice", "half_count"], ["place"]),
        helper.make_node("Floor", ["place"], ["floor"]),
        helper.make_node("Min", ["floor", "last"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["choice"], to=onnx.TensorProto.INT64),
    ]


def _fed(
    source: Path,
    target: Path,
    name: str,
    nodes: list[onnx.NodeProto],
    constants: dict[str, npt.NDArray[Any]],
    **metadata: str,
) -> Path:
    """Let the network read `<name>_given`, which `nodes` compute, where it read its input `name`."""
    model = onnx.load(source)
    for node in model.graph.node:
        node.input[:] = [f"{name}_given" if one == name else one for one in node.input]
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    model.graph.initializer.extend(_tensors(constants))
    return _save(model, target, metadata)


def _tensors(constants: dict[str, npt.NDArray[Any]]) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(value, name) for name, value in constants.items()]


def _save(model: onnx.ModelProto, target: Path, metadata: dict[str, str]) -> Path:
    helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | metadata)
    onnx.checker.check_model(model, full_check=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, target)
    return target
