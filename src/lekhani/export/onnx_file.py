"""From a torch module to an ONNX file with one common signature, and the check that both compute the same."""

import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from lekhani.errors import LekhaniError, first_line
from lekhani.files import replacing
from lekhani.inference.stepwise import FINISH, state_name, window_name
from lekhani.variants.base import Stepwise

OPSET = 20
MAX_BATCH = 4096


def export_onnx(
    module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], path: Path, metadata: dict[str, str]
) -> None:
    """Write `module` as ONNX with the first axis of every input and output free, 1 to 4096.

    `metadata` becomes metadata_props. Raises LekhaniError where torch cannot trace it or the disk refuses.
    """
    model = _unrolled(module, inputs, outputs) if isinstance(module, Stepwise) else _traced(module, inputs, outputs)
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    with replacing(path) as temporary:
        onnx.save(model, temporary)


def _traced(module: nn.Module, inputs: dict[str, Tensor], outputs: list[str]) -> onnx.ModelProto:
    """Trace `module`; inputs of one row stay at one row, the first axis of the others is free."""
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=tuple({} if len(value) == 1 else {0: batch} for value in inputs.values()),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise LekhaniError(
            "torch.onnx could not trace the generator; this is a bug, please report it with the params you used."
        )
    model: onnx.ModelProto = program.model_proto
    _drop_source_locations(model)
    return model


def _drop_source_locations(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes of source files and lines, so that the same weights give the same bytes anywhere."""
    parts = [model, model.graph, *model.functions, *model.graph.input, *model.graph.output, *model.graph.initializer]
    for graph in (model.graph, *model.functions):
        parts += [*graph.node, *graph.value_info]
    for part in parts:
        del part.metadata_props[:]


class _Part(nn.Module):
    """One method of a Stepwise generator as a module, since only modules can be traced."""

    def __init__(self, whole: Stepwise, method: Callable[..., Tensor | None]) -> None:
        super().__init__()
        self.whole = whole
        self.forward = method  # itself, so that the tracer sees its arguments


def _unrolled(module: Stepwise, inputs: dict[str, Tensor], outputs: list[str]) -> onnx.ModelProto:
    """Trace the three parts once and repeat the middle one `steps` times; equal weights are in the graph once.

    Tracing all steps would take as many times longer and give the same graph. States and nodes are named as
    `inference.stepwise` finds them.
    """
    noise, labels = inputs.values()
    with torch.no_grad():
        state = module.begin(noise, labels)
        has_windows = module.window(state) is not None
    begin = _traced(_Part(module, module.begin), {"noise": noise, "labels": labels}, ["begun"])
    moves = [module.move(i) for i in range(module.steps)]
    example = {"state": state, "position": torch.zeros(1), "labels": labels}
    advance = {move: _traced(_Part(module, move), example, ["advanced"]) for move in dict.fromkeys(moves)}
    finish = _traced(_Part(module, module.finish), {"state": state}, outputs)
    windows = [_traced(_Part(module, module.window), {"state": state}, ["window"])] if has_windows else []
    weights: dict[bytes, onnx.TensorProto] = {}
    for part in (begin, *advance.values(), *windows, finish):
        _share(part.graph, weights)
    nodes = _renamed(begin.graph, "begin/", {"noise": "noise", "labels": "labels"}, state_name(0))
    for i, move in enumerate(moves):
        # ONNX Runtime warns of values that no node reads.
        if any("position" in node.input for node in advance[move].graph.node):
            position = onnx.numpy_helper.from_array(np.array([i / module.steps], np.float32))
            nodes.append(onnx.helper.make_node("Constant", [], [f"position_{i}"], value=position))
        given = {"state": state_name(i), "position": f"position_{i}", "labels": "labels"}
        nodes += _renamed(advance[move].graph, f"step_{i}/", given, state_name(i + 1))
        for window in windows:  # no output needs it: it is there to be read by `StepwiseSession`
            nodes += _renamed(window.graph, f"step_{i}/window/", {"state": state_name(i + 1)}, window_name(i + 1))
    nodes += _renamed(finish.graph, FINISH, {"state": state_name(module.steps)}, outputs[0])
    graph = onnx.helper.make_graph(
        nodes, "unrolled", list(begin.graph.input), list(finish.graph.output), list(weights.values())
    )
    return onnx.helper.make_model(graph, opset_imports=finish.opset_import, ir_version=finish.ir_version)


def _share(graph: onnx.GraphProto, weights: dict[bytes, onnx.TensorProto]) -> None:
    """Name a graph's weights after the equal ones among `weights`, which gains those it lacks."""
    names = {}
    for weight in graph.initializer:
        name, weight.name = weight.name, ""
        content = weight.SerializeToString(deterministic=True)
        if content not in weights:
            weight.name = f"weight_{len(weights)}/{name}"
            weights[content] = weight
        names[name] = weight.name = weights[content].name
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def _renamed(graph: onnx.GraphProto, prefix: str, given: dict[str, str], result: str) -> list[onnx.NodeProto]:
    """Copies of a graph's nodes, with `prefix` before the names of nodes and values.

    Inputs become what is `given`, the one output `result`; weights keep their names.
    """
    kept = {"", *(weight.name for weight in graph.initializer)}
    fixed = {**{name: name for name in kept}, **given, graph.output[0].name: result}
    nodes = []
    for original in graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        node.name = f"{prefix}{original.name}"
        node.input[:] = [fixed.get(name, f"{prefix}{name}") for name in original.input]
        node.output[:] = [fixed.get(name, f"{prefix}{name}") for name in original.output]
        nodes.append(node)
    return nodes


def parity(module: nn.Module, path: Path, inputs: dict[str, Tensor], batches: tuple[int, ...] = (1, 3, 17)) -> float:
    """Largest absolute difference between torch and ONNX Runtime over fresh inputs of several batch sizes.

    `inputs` shows the form: float tensors are drawn anew from N(0, 1), integer ones from 0 to their largest value.
    Several sizes, because an export that froze the batch size fails only at another one; such a failure is a
    LekhaniError.
    """
    import onnxruntime as ort

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for n in batches:
        feed = {name: _like(value, n, generator) for name, value in inputs.items()}
        with torch.no_grad():
            expected = module.eval()(*feed.values())
        try:
            got = session.run(None, {name: value.numpy() for name, value in feed.items()})
        except Exception as error:  # onnxruntime raises several classes of its own
            raise LekhaniError(f"{path} does not run at batch size {n}: {first_line(error)}") from error
        for one, other in zip(expected if isinstance(expected, tuple) else (expected,), got, strict=True):
            difference = float(np.abs(one.numpy() - other).max()) if one.shape == other.shape else float("inf")
            worst = max(worst, difference if np.isfinite(difference) else float("inf"))
    return worst


def require_parity(difference: float, tolerance: float, path: Path) -> None:
    """Raise LekhaniError when the model at `path` differs from torch by more than `tolerance`; NaN differs."""
    if not difference <= tolerance:
        raise LekhaniError(
            f"{path} differs from torch by {difference:.2g}, more than {tolerance:.2g}, so it is not fit to ship; "
            "please report the params you used."
        )


def latency_ms(path: Path, inputs: dict[str, Tensor], batch: int = 1, repeats: int = 20) -> float:
    """Median milliseconds of one ONNX Runtime call on the CPU at `batch`, after three calls of warm-up."""
    import onnxruntime as ort

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    feed = {name: _like(value, batch, generator).numpy() for name, value in inputs.items()}
    times = []
    for _ in range(3 + repeats):
        started = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - started)
    return float(np.median(times[3:]) * 1000)


def generator_inputs(noise_dim: int, n_classes: int) -> dict[str, Tensor]:
    """Example inputs of the common signature: `noise` float32 [3, noise_dim] and `labels` int64 [3] up to the last."""
    return {"noise": torch.zeros(3, noise_dim), "labels": torch.tensor([0, n_classes // 2, n_classes - 1])}


def _like(example: Tensor, n: int, generator: torch.Generator) -> Tensor:
    shape = (n, *example.shape[1:])
    if example.is_floating_point():
        return torch.randn(shape, generator=generator)
    return torch.randint(0, int(example.max()) + 1, shape, generator=generator)
