"""A model file may claim and draw anything: what does not fit is one sentence, never a traceback or a wrong picture."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from toy_judge import toy_judge

from lekhani.data.spec import MNIST
from lekhani.errors import LekhaniError
from lekhani.inference.session import Generator, Reader
from lekhani.inference.stepwise import StepwiseSession

KEYS = ("dataset", "variant", "classes", "noise_dim", "image_size", "conditional", "lineage")
VALUES = (
    *(
        "",
        "null",
        "[]",
        "{}",
        "x",
        "-1",
        "0",
        "1.5",
        "NaN",
        "Infinity",
        "1e9",
        "true",
        '"16"',
        "016",
        "15",
        "17",
    ),
    *("9" * 400, "9" * 5000, "[" * 100_000, '{"a": 1}', '{"a": null}', "[1]", "[null]", "\x00", "x" * 300),
)
GLYPHS: list[Any] = [{"label": i, "name": str(i), "glyph": str(i)} for i in range(3)]
CLASSES = (
    *(GLYPHS[1:], GLYPHS[::-1], [GLYPHS[0]] * 3, [{**GLYPHS[0], "more": 1}, *GLYPHS[1:]]),
    *([{**GLYPHS[0], key: value}, *GLYPHS[1:]] for key in GLYPHS[0] for value in (None, -1, 1.0, True, "", [], 10**30)),
    *([{key: value for key, value in GLYPHS[0].items() if key != left}, *GLYPHS[1:]] for left in GLYPHS[0]),
)


def draws_or_says_why(path: Path) -> bool:
    """Whether the file can be drawn with; if not, a LekhaniError of one line says so."""
    said = ""
    try:
        generator = Generator(path, "cpu")
        images = generator.sample(np.zeros(2, np.int64), np.random.default_rng(0))
    except LekhaniError as error:
        said = str(error)
    assert not said or (str(path) in said and "\n" not in said and len(said) < 600), said
    assert said or images.shape == (2, generator.image_size, generator.image_size)
    return not said


def test_metadata_of_wrong_types_and_sizes(toy_generator: Callable[..., Path], tmp_path: Path) -> None:
    good = onnx.load(toy_generator(tmp_path / "good.onnx"))
    told = {entry.key: entry.value for entry in good.metadata_props}

    def fits(**changes: str | None) -> bool:
        kept = {key: value for key, value in (told | changes).items() if value is not None}
        helper.set_model_props(good, kept)
        onnx.save(good, tmp_path / "g.onnx")
        return draws_or_says_why(tmp_path / "g.onnx")

    assert fits()
    names = {"dataset", "variant"}  # any name will do, and a generator need not tell its lineage
    for key in KEYS:
        assert fits(**{key: None}) == (key == "lineage")
        for value in VALUES:
            allowed = 0 < len(value) <= 255 if key in names else key == "lineage" and value == "{}"
            allowed |= key == "conditional" and value == "true"
            assert fits(**{key: value}) == allowed, (key, value[:20])
    for classes in CLASSES:
        assert not fits(classes=json.dumps(classes))


def network(path: Path, images: Any, *more: onnx.NodeProto, **inputs: tuple[int, list[Any]]) -> Path:
    """A generator of three classes and 4 x 4 pixels that draws the constant `images`, or what the nodes `more` make."""
    about = {"dataset": "mnist", "variant": "dcgan", "noise_dim": "16", "image_size": "4", "conditional": "true"}
    taken = {"noise": (TensorProto.FLOAT, ["n", 16]), "labels": (TensorProto.INT64, ["n"])} | inputs
    values = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in taken.items() if shape != [0]]
    constant = helper.make_node("Constant", [], ["value"], value=numpy_helper.from_array(np.asarray(images)))
    nodes = [constant, *(more or [helper.make_node("Identity", ["value"], ["images"])])]
    output = onnx.ValueInfoProto(name="images")
    kind = helper.np_dtype_to_tensor_dtype(np.asarray(images).dtype)
    if more and more[-1].op_type == "SequenceConstruct":
        output.type.CopyFrom(helper.make_sequence_type_proto(helper.make_tensor_type_proto(kind, None)))
    else:
        output.type.CopyFrom(helper.make_tensor_type_proto(kind, None))
    graph = helper.make_graph(nodes, "hostile", values, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, about | {"classes": json.dumps(GLYPHS)})
    onnx.save(model, path)
    return path


def floats(*shape: int, value: float = 0.5) -> Any:
    return np.full(shape, value, np.float32)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        *((floats(*shape), "gives images as float32") for shape in ((), (2,), (2, 16), (2, 4, 4), (1, 1, 4, 4))),
        *((floats(*shape), "gives images as float32") for shape in ((2, 3, 4, 4), (2, 1, 4, 5), (2, 1, 8, 8), (0,))),
        *((floats(2, 1, 4, 4).astype(kind), f"gives images as {kind}") for kind in ("float64", "float16", "int64")),
        *((floats(2, 1, 4, 4, value=one), "not finite") for one in (np.nan, np.inf, -np.inf)),
        *((floats(2, 1, 4, 4, value=one), "values from .* must be from 0 to 1") for one in (5, -1, 3e38, 1.01)),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else "",
)
def test_what_is_drawn_is_checked(images: Any, words: str, tmp_path: Path) -> None:
    assert draws_or_says_why(network(tmp_path / "good.onnx", floats(2, 1, 4, 4)))
    path = network(tmp_path / "g.onnx", images)
    assert not draws_or_says_why(path)
    with pytest.raises(LekhaniError, match=words):
        Generator(path, "cpu").sample(np.zeros(2, np.int64), np.random.default_rng(0))


@pytest.mark.parametrize(
    "inputs",
    [
        {"noise": (TensorProto.FLOAT, ["n", 17])},
        {"noise": (TensorProto.FLOAT, [])},
        {"noise": (TensorProto.FLOAT, ["n"])},
        {"noise": (TensorProto.FLOAT, ["n", 16, 1])},
        {"noise": (TensorProto.DOUBLE, ["n", 16])},
        {"labels": (TensorProto.FLOAT, ["n"])},
        {"labels": (TensorProto.INT64, ["n", 1])},
        {"style": (TensorProto.FLOAT, ["n", 1])},
    ],
    ids=str,
)
def test_inputs_that_the_metadata_do_not_name(inputs: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(LekhaniError, match="which does not fit its metadata"):
        Generator(network(tmp_path / "g.onnx", floats(2, 1, 4, 4), **inputs), "cpu")


def test_a_network_that_fails_when_it_runs(tmp_path: Path) -> None:
    gather = helper.make_node("Gather", ["value", "labels"], ["images"])
    sequence = helper.make_node("SequenceConstruct", ["value"], ["images"])
    noise, labels = np.zeros((2, 16), np.float32), np.array([1, 2])
    for node in (gather, sequence):
        path = network(tmp_path / "g.onnx", floats(1, 1, 4, 4), node)
        with pytest.raises(LekhaniError, match=r"g\.onnx (cannot draw: .+|gives images that are no tensor)"):
            Generator(path, "cpu").run(noise, labels)
    names = (("labels", "state_0"), ("noise", "state_1"), ("value", "images"))
    states = [helper.make_node("Identity", [given], [made]) for given, made in names]
    generator = Generator(network(tmp_path / "steps.onnx", floats(2, 1, 4, 4), *states), "cpu")
    with pytest.raises(LekhaniError, match=r"steps\.onnx cannot be animated: .+"):
        StepwiseSession(generator).run(noise, labels)


def judge(path: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    model = onnx.load(toy_judge(path))
    change(model)
    onnx.save(model, path)
    return path


def constant(name: str, values: Any) -> Callable[[onnx.ModelProto], None]:
    """Puts a constant in the place of an output."""

    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.output[:] = ["unused" if one == name else one for one in node.output]
            node.input[:] = ["unused" if one == name else one for one in node.input]
        made = helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(values)))
        model.graph.node.append(made)
        (output,) = [one for one in model.graph.output if one.name == name]
        kind = helper.np_dtype_to_tensor_dtype(np.asarray(values).dtype)
        output.type.CopyFrom(helper.make_tensor_type_proto(kind, None))

    return change


def metadata(**changes: str | None) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        told = {entry.key: entry.value for entry in model.metadata_props} | changes
        helper.set_model_props(model, {key: value for key, value in told.items() if value is not None})

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *(
            (metadata(classes=value), "metadata is garbled")
            for value in (None, "", "[]", "null", "[1]", "{}", "[" * 9999)
        ),
        (metadata(dataset=None), "metadata is garbled, `dataset` is missing"),
        (metadata(classes=json.dumps(GLYPHS[:2])), "gives logits as float32"),
        (lambda model: model.graph.output.pop(), "cannot read: .+"),
        (lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[3], "dim_param", "w"), "does not fit"),
        (lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", TensorProto.DOUBLE), "judge.onnx"),
        *((constant("logits", floats(*shape)), "gives logits as") for shape in ((), (2,), (1, 3), (2, 4), (2, 3, 1))),
        *((constant("features", floats(*shape)), "gives features as") for shape in ((), (2,), (1, 16))),
        *(
            (constant(name, floats(2, 3, value=np.nan)), f"gives {name} that are not")
            for name in ("features", "logits")
        ),
        (constant("logits", np.zeros((2, 3))), "gives logits as float64"),
    ],
)
def test_a_judge_that_garbles_its_answers(
    change: Callable[[onnx.ModelProto], None], words: str, tmp_path: Path
) -> None:
    path = judge(tmp_path / "judge.onnx", change)
    with pytest.raises(LekhaniError, match=words) as caught:
        Reader(path, "cpu").read(np.zeros((2, 4, 4), np.uint8))
    assert "judge.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_damaged_bytes(data: Any, toy_generator: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Any bytes replaced, removed or repeated anywhere in the file."""
    folder = tmp_path_factory.getbasetemp()
    content = bytearray(toy_generator(folder / "whole.onnx", classes=MNIST[:3]).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content) - 1))
        end = min(len(content), start + data.draw(st.integers(0, 8)))
        content[start:end] = data.draw(st.binary(max_size=8))
    path = folder / "damaged.onnx"
    path.write_bytes(content)
    draws_or_says_why(path)
