"""An exported file computes what was trained, at any batch size, and holds its description."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from lekhani import params
from lekhani.errors import LekhaniError
from lekhani.export.onnx_file import export_onnx, generator_inputs, parity
from lekhani.export.weights import load_weights, save_weights
from lekhani.variants import VARIANTS

K = 5
METADATA = {"dataset": "own", "classes": '[{"glyph": "क"}]', "empty": ""}


@dataclass(frozen=True)
class Exported:
    module: nn.Module
    path: Path
    inputs: dict[str, Tensor]
    size: int


CASES: list[tuple[str, int, dict[str, Any]]] = [
    *((name, (28, 32)[i % 2], {}) for i, name in enumerate(VARIANTS)),
    ("flow_matching", 28, {"guidance": 1.0, "steps": 3}),
    ("flow_matching", 28, {"solver": "heun", "steps": 4, "guidance_from": 0.3, "guidance_to": 0.7}),  # four kinds
    ("draw", 28, {"attention": False, "conditional": True}),
    ("turbo", 32, {"steps": 2}),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda p: f"{p[0]}-{p[1]}{'-plain' if p[2] else ''}")
def exported(
    request: pytest.FixtureRequest, tiny: params.Variants, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    name, size, settings = request.param
    tiny = tiny.model_copy(update={name: getattr(tiny, name).model_copy(update=settings)})
    torch.manual_seed(0)
    variant = VARIANTS[name].build(tiny, size, K, torch.device("cpu"))
    for progress in (0.1, 0.2):  # away from the zeros that some layers start at
        variant.progress = progress
        variant.step(torch.rand(6, 1, size, size), torch.arange(6) % K)
    path = tmp_path_factory.mktemp(name) / "deep" / "generator.onnx"
    inputs = generator_inputs(variant.noise_dim, K)
    export_onnx(variant.generator(), inputs, ["images"], path, METADATA)
    return Exported(variant.generator(), path, inputs, size)


def test_torch_and_onnx_agree_at_any_batch_size(exported: Exported) -> None:
    assert parity(exported.module, exported.path, exported.inputs, batches=(1, 3, 17)) < 1e-4


def test_the_file_has_the_common_signature_and_its_metadata(exported: Exported) -> None:
    assert [path.name for path in exported.path.parent.iterdir()] == ["generator.onnx"], "nothing else is left"
    model = onnx.load(exported.path)
    assert {entry.key: entry.value for entry in model.metadata_props} == METADATA
    graph = model.graph

    def shapes(values: object) -> dict[str, list[int | str]]:
        return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}  # type: ignore[attr-defined]

    inputs, outputs = shapes(graph.input), shapes(graph.output)
    assert list(inputs) == ["noise", "labels"], "an unconditional generator has both inputs, too"
    batch = inputs["noise"][0]
    assert isinstance(batch, str)
    assert inputs == {"noise": [batch, exported.inputs["noise"].shape[1]], "labels": [batch]}
    assert outputs == {"images": [batch, 1, exported.size, exported.size]}
    assert graph.input[1].type.tensor_type.elem_type == onnx.TensorProto.INT64


def test_the_weights_stand_in_the_graph_once(exported: Exported) -> None:
    held = sum(
        int(np.prod(weight.dims))
        for weight in onnx.load(exported.path).graph.initializer
        if weight.data_type == onnx.TensorProto.FLOAT
    )
    wanted = sum(value.numel() for value in exported.module.state_dict().values() if value.is_floating_point())
    assert held < 1.1 * wanted + 200, "every unrolled step must share them"
    content = exported.path.read_bytes()
    of_training = [value for name, value in exported.module.state_dict().items() if name.startswith("encoder.")]
    assert bool(of_training) == exported.path.parents[1].name.startswith("draw")
    assert not any(value.numpy().tobytes() in content for value in of_training), "training alone needs it"


def test_slices_have_constant_bounds(exported: Exported) -> None:
    """ONNX Runtime on CUDA may return a slice untrimmed whose bounds come from a shape."""
    graph = onnx.load(exported.path).graph
    known = {value.name for value in graph.initializer} | {
        node.output[0] for node in graph.node if node.op_type == "Constant"
    }
    assert all(set(node.input[1:]) <= known for node in graph.node if node.op_type == "Slice")


def test_the_file_does_not_tell_where_it_was_made(exported: Exported) -> None:
    content = exported.path.read_bytes()
    for folder in (Path(torch.__file__).parents[1], Path(params.__file__).parent):
        assert str(folder).encode() not in content
    assert b".py" not in content


# --- parity itself, on hand-made graphs ---


class Function(nn.Module):
    """A module without weights."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


DOUBLE = Function(lambda x: 2 * x)


def doubling(path: Path, batch: int | str) -> Path:
    """x -> x + x as ONNX, with the given first axis."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [value("x", onnx.TensorProto.FLOAT, [batch, 4])],
        [value("y", onnx.TensorProto.FLOAT, [batch, 4])],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    return path


X = {"x": torch.zeros(3, 4)}


@pytest.mark.parametrize(
    ("function", "difference"),
    [
        (lambda x: 2 * x, 0.0),
        (lambda x: 2 * x + 0.25, 0.25),
        (lambda x: x * float("nan"), float("inf")),
        (lambda x: (2 * x).reshape(-1), float("inf")),
    ],
    ids=["equal", "off", "nan", "another shape"],
)
def test_parity_is_the_largest_difference(
    tmp_path: Path, function: Callable[[Tensor], Tensor], difference: float
) -> None:
    assert parity(Function(function), doubling(tmp_path / "m.onnx", "batch"), X) == pytest.approx(difference, abs=1e-6)


def test_a_frozen_batch_is_found(tmp_path: Path) -> None:
    with pytest.raises(LekhaniError, match=r"m\.onnx does not run at batch size 1: ") as caught:
        parity(DOUBLE, doubling(tmp_path / "m.onnx", 3), X)
    assert "\n" not in str(caught.value)


# --- weights ---


def test_the_memory_layout_does_not_change_the_bytes(tmp_path: Path) -> None:
    net = nn.Conv2d(4, 4, 3)
    save_weights(net, tmp_path / "a")
    save_weights(net.to(memory_format=torch.channels_last), tmp_path / "b")  # type: ignore[call-overload]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    other = nn.Conv2d(4, 4, 3)
    load_weights(other, tmp_path / "b")
    assert torch.equal(net.weight, other.weight)


def test_weights_that_do_not_fit_are_a_sentence(tmp_path: Path) -> None:
    save_weights(nn.Linear(2, 3), tmp_path / "w")
    (tmp_path / "junk").write_bytes(b"no safetensors at all")
    for module, name in (
        (nn.Linear(3, 3), "w"),
        (nn.Conv2d(1, 1, 1), "w"),
        (nn.Linear(2, 3), "junk"),
        (nn.Linear(2, 3), "nowhere"),
    ):
        with pytest.raises(
            LekhaniError, match=f"{name} does not hold the weights it should .*; run the stage"
        ) as caught:
            load_weights(module, tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, full_disk: Callable[[], AbstractContextManager[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_weights(nn.Linear(2, 3), tmp_path / "w")
    before = (tmp_path / "w").read_bytes()
    with pytest.raises(LekhaniError, match=r"Could not write .*w"), full_disk():
        save_weights(nn.Linear(2, 3), tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == before

    model = onnx.load(doubling(tmp_path / "m.onnx", "batch"))
    (tmp_path / "m.onnx").unlink()
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: type("Program", (), {"model_proto": model}))
    with pytest.raises(LekhaniError, match=r"Could not write .*m\.onnx"), full_disk():
        export_onnx(DOUBLE, X, ["y"], tmp_path / "m.onnx", {})
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
