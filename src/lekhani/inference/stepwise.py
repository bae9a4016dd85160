"""Generators that work in steps, and the names by which their steps are found in the exported graph.

The contract between `export`, which writes these names, and `StepwiseSession`, which reads them: the state after step i
of n is the value `state_name(i)`, from `state_name(0)` before the first step to `state_name(n)` after the last one; the
nodes that turn the last state into images, and only they, have names that begin with `FINISH`. Where a generator
attends to a part of the image, the values `window_name(1)` to `window_name(n)` say where step i wrote: float32 [N,3],
the centre's x and y and the side of a square, in parts of the image's side. Nothing in the graph reads them.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

from lekhani.data.spec import Labels
from lekhani.errors import LekhaniError, UsageError, first_line
from lekhani.inference.session import GeneratorMetadata

if TYPE_CHECKING:
    import onnx

    from lekhani.inference.session import Floats, Generator

FINISH = "finish/"


def state_name(step: int) -> str:
    """The value that holds the state after so many steps."""
    return f"state_{step}"


def window_name(step: int) -> str:
    """The value that says where step number `step`, from 1, wrote."""
    return f"window_{step}"


def steps_of(model: "onnx.ModelProto") -> int:
    """How many steps an exported generator works in; 0 where it writes in one go."""
    return max(sum(re.fullmatch(r"state_\d+", name) is not None for name in _values(model)) - 1, 0)


def stepwise_metadata(path: Path) -> GeneratorMetadata | None:
    """What the generator in this file says of itself, without opening it; None where it does not work in steps."""
    import onnx

    model = onnx.load(path)
    if not steps_of(model):
        return None
    return GeneratorMetadata.model_validate({entry.key: entry.value for entry in model.metadata_props})


class StepwiseSession:
    """A generator whose states are outputs: (noise, labels) -> images after each step.

    Attributes: `steps` says how many, `has_windows` whether it tells where each of them wrote.
    """

    def __init__(self, generator: "Generator") -> None:
        """Split the graph into the steps and the finish.

        Raises UsageError for a generator that has no steps, and LekhaniError where the parts do not work.
        """
        import onnx

        self._path = generator.path
        model = onnx.load(generator.path)
        nodes, self.steps = model.graph.node, steps_of(model)
        if self.steps < 1:
            problem = f"{generator.path} ({generator.variant}) writes in one go, so there is nothing to watch"
            raise UsageError(f"{problem}; animate a model that works in steps.")
        self._states = [state_name(step) for step in range(self.steps + 1)]
        windows = [window_name(step) for step in range(1, self.steps + 1)]
        self.has_windows = _values(model).issuperset(windows)
        self._outputs = self._states + (windows if self.has_windows else [])
        steps = [node for node in nodes if not node.name.startswith(FINISH)]
        finish = [node for node in nodes if node.name.startswith(FINISH)]
        with self._errors():
            self._begin = _session(model, steps, list(model.graph.input), self._outputs)
            self._finish = _session(model, finish, [_tensor(self._states[-1])], [model.graph.output[0].name])
        self._inputs = {entry.name for entry in self._begin.get_inputs()}

    def run(self, noise: "Floats", labels: Labels, batch_size: int = 128) -> "Floats":
        """Noise float32 [N, noise_dim], labels int64 [N] -> images float32 [steps+1, N,1,H,W] in [0,1]."""
        return self.watch(noise, labels, batch_size)[0]

    def watch(self, noise: "Floats", labels: Labels, batch_size: int = 128) -> "tuple[Floats, Floats | None]":
        """The images of `run`, and float32 [steps,N,3]: where each step wrote; None without `has_windows`."""
        parts = [slice(start, start + batch_size) for start in range(0, len(labels), batch_size)]
        with self._errors():
            found = [self._run(noise[part], labels[part]) for part in parts]
            images, windows = (np.concatenate(arrays, 1) for arrays in zip(*found, strict=True))
        return images, windows if self.has_windows else None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # onnxruntime raises several classes of its own
            raise LekhaniError(f"{self._path} cannot be animated: {first_line(error)}") from error

    def _run(self, noise: "Floats", labels: Labels) -> "tuple[Floats, Floats]":
        feed = {"noise": noise, "labels": labels}
        values = self._begin.run(self._outputs, {name: value for name, value in feed.items() if name in self._inputs})
        states, windows = values[: self.steps + 1], values[self.steps + 1 :]
        images = np.stack([self._finish.run(None, {self._states[-1]: state})[0] for state in states])
        where = np.reshape(windows, (-1, len(labels), 3)).astype(np.float32)
        if not np.isfinite(where).all():
            raise ValueError("a window has a place that is no number")
        return images, where


def _values(model: "onnx.ModelProto") -> set[str]:
    """The names of all that is computed."""
    return {name for node in model.graph.node for name in node.output}


def _session(
    model: "onnx.ModelProto",
    nodes: "list[onnx.NodeProto]",
    inputs: "list[onnx.ValueInfoProto]",
    outputs: list[str],
) -> ort.InferenceSession:
    """A session for some nodes of `model` with their weights, on the CPU, which is enough for what is watched."""
    import onnx

    used = {name for node in nodes for name in node.input}
    weights = [weight for weight in model.graph.initializer if weight.name in used]
    graph = onnx.helper.make_graph(nodes, "part", inputs, [_tensor(name) for name in outputs], weights)
    part = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _tensor(name: str) -> "onnx.ValueInfoProto":
    """A float tensor of any shape."""
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
