"""What a generator does step by step can be watched, without torch and without another file than the one that ships."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from lekhani import params
from lekhani.data.spec import MNIST
from lekhani.errors import LekhaniError, UsageError
from lekhani.generate.animate import HOLD_MS, Film, write_animation
from lekhani.inference.sampling import SamplingOptions, noise_source, sample_shard
from lekhani.inference.session import Generator, Reader
from lekhani.pen import Pen
from lekhani.pictures import enlarged, grid, to_uint8

ToyGenerator = Callable[..., Path]
SIZE, STEPS = 4, 3


def stepwise(path: Path, *, conditional: bool = True) -> Path:
    """A generator whose state, the noise, doubles at each of three steps; images are |state| / 16 and a tenth of the label."""
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
    told = {
        "dataset": "mnist",
        "variant": "draw",
        "noise_dim": str(SIZE**2),
        "image_size": str(SIZE),
        "conditional": str(conditional).lower(),
    }
    helper.set_model_props(model, {**told, "classes": json.dumps([asdict(c) for c in MNIST[:3]])})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def pen(tmp_path_factory: pytest.TempPathFactory) -> Pen:
    return Pen(Generator(stepwise(tmp_path_factory.mktemp("toy") / "g.onnx"), "cpu"), None, "the toy")


def frames(path: Path) -> tuple[list[Any], list[int], dict[str, Any]]:
    """Grey frames uint8 [H,W] of a moving picture, how long each one stays in ms, and what the file says of itself."""
    pictures, durations = [], []
    with Image.open(path) as film:
        for i in range(cast(Any, film).n_frames):
            film.seek(i)
            film.load()
            durations.append(int(film.info["duration"]))
            pictures.append(np.asarray(film.convert("L")))
        return pictures, durations, dict(film.info)


def test_the_steps_of_a_graph(pen: Pen) -> None:
    film = Film(pen.generator)
    noise, labels = (
        np.random.default_rng(0).standard_normal((5, 16), dtype=np.float32),
        np.arange(5, dtype=np.int64) % 3,
    )
    shown = film.run(noise, labels, batch_size=2)
    assert film.steps == STEPS
    assert shown.shape == (STEPS + 1, 5, 1, SIZE, SIZE)
    state = noise
    for i, images in enumerate(shown):
        np.testing.assert_allclose(images.reshape(5, 16), np.clip(np.abs(state) / 16, 0, 1), rtol=1e-6)
        state = state * 2 + (labels[:, None] if i == 0 else 0)
    np.testing.assert_array_equal(shown[-1], pen.generator.run(noise, labels))


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".GIF"])
def test_the_film_shows_the_steps_and_stays_at_the_end(pen: Pen, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / "new" / f"film{suffix}"
    said = write_animation(pen, ["1=2", "2", "0=2"], 7, out, columns=3, scale=2, fps=5)
    pictures, durations, info = frames(out)
    assert len(pictures) == STEPS + 1
    assert durations == [200, 200, 200, 200 + HOLD_MS]
    assert info["loop"] == 0, "for ever"
    labels = np.array([1, 1, 2, 0, 0], np.int64)
    written = pen.generate(["1", "1", "2", "0", "0"], seed=7)
    np.testing.assert_array_equal(pictures[-1], enlarged(grid(written.images, 3), 2))
    noise = noise_source(pen.generator, SamplingOptions(7), 0)(5)
    np.testing.assert_array_equal(
        pictures[1], enlarged(grid(to_uint8(Film(pen.generator).run(noise, labels)[1]), 3), 2)
    )
    assert said == f"Wrote 4 frames of 5 glyphs, 28 x 18 pixels, to {out} with the toy, seed 7."
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_columns_default_to_ten_at_most(pen: Pen, tmp_path: Path) -> None:
    for count, width in ((4, 4 * 5 - 1), (25, 10 * 5 - 1)):
        write_animation(pen, [f"1={count}"], 7, tmp_path / f"{count}.gif", scale=1)
        assert frames(tmp_path / f"{count}.gif")[0][0].shape[1] == width


def test_more_glyphs_than_a_batch_match_what_is_generated(pen: Pen, tmp_path: Path) -> None:
    write_animation(pen, ["1=150"], 3, tmp_path / "a.gif", scale=1)
    np.testing.assert_array_equal(frames(tmp_path / "a.gif")[0][-1], grid(pen.generate(["1"], 150, seed=3).images, 10))


def test_the_judge_picks_what_an_unconditional_generator_shows(tmp_path: Path) -> None:
    class FakeJudge:
        """Label 0 where the first pixel is dark, else 1."""

        def read(self, images: Any) -> tuple[Any, Any]:
            return None, np.eye(3)[(images[:, 0, 0] > 80).astype(int)]

    pen = Pen(Generator(stepwise(tmp_path / "g.onnx", conditional=False), "cpu"), cast(Reader, FakeJudge()), "the toy")
    write_animation(pen, ["0=3", "1=3"], 1, tmp_path / "a.gif", columns=6, scale=1)
    last = frames(tmp_path / "a.gif")[0][-1]
    assert (last[0, ::5] > 80).tolist() == [False] * 3 + [True] * 3
    np.testing.assert_array_equal(
        last, grid(sample_shard(pen.generator, pen.reader, np.array([0, 0, 0, 1, 1, 1]), SamplingOptions(1)).images, 6)
    )


def test_the_same_seed_writes_the_same_bytes(pen: Pen, tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        write_animation(pen, ["1=3"], seed, tmp_path / f"{name}.webp")
    a, b, c = ((tmp_path / f"{name}.webp").read_bytes() for name in "abc")
    assert a == b
    assert a != c


# --- what cannot be done is one sentence, and leaves nothing behind ---


def test_a_generator_without_steps(toy_generator: ToyGenerator, tmp_path: Path) -> None:
    pen = Pen(Generator(toy_generator(tmp_path / "models" / "g.onnx"), "cpu"), None, "the toy")
    with pytest.raises(UsageError, match=r"g\.onnx \(flow_matching\) writes in one go, so there is nothing to watch"):
        write_animation(pen, ["1"], 7, tmp_path / "a.gif")
    assert not (tmp_path / "a.gif").exists()


@pytest.mark.parametrize("name", ["film.mp4", "film", "gif"])
def test_an_unknown_suffix(pen: Pen, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=rf"--out .*{name}: animations end in \.gif or \.webp"):
        write_animation(pen, ["1"], 7, tmp_path / name)


@pytest.mark.parametrize(
    ("label", "choices", "sentence"),
    [
        ("1=1001", {}, "1,001 glyphs are too many to watch"),
        ("1=1000", {"columns": 1}, r"would be 16 x 19,996 pixels, .* choose another --columns or --scale"),
        ("7", {}, "no such class"),
    ],
)
def test_too_much_or_unheard_of(pen: Pen, tmp_path: Path, label: str, choices: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        write_animation(pen, [label], 7, tmp_path / "a.gif", **choices)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_left_alone_unless_told_otherwise(pen: Pen, tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_text("precious")
    with pytest.raises(UsageError, match=r"a\.gif exists already; .* --overwrite"):
        write_animation(pen, ["1"], 7, tmp_path / "a.gif")
    assert (tmp_path / "a.gif").read_text() == "precious"
    write_animation(pen, ["1"], 7, tmp_path / "a.gif", overwrite=True)
    assert len(frames(tmp_path / "a.gif")[0]) == STEPS + 1


def test_a_full_disk_leaves_nothing(
    pen: Pen, tmp_path: Path, full_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    with pytest.raises(LekhaniError, match=r"Could not write .*a\.gif"), full_disk():
        write_animation(pen, ["1"], 7, tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


def test_the_command_needs_no_torch(tmp_path: Path) -> None:
    model = stepwise(tmp_path / "g.onnx")
    words = [
        "lekhani",
        "animate",
        "--model",
        str(model),
        "--label",
        "1=2",
        "--out",
        str(tmp_path / "a.gif"),
        "--fps",
        "10",
    ]
    code = (
        f"import sys\nsys.argv = {words!r}\nfrom lekhani import cli\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    print('CODE', end.code)\nprint('TORCH', 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert "TORCH False" in done.stdout, done.stdout + done.stderr
    assert "Wrote 4 frames of 2 glyphs" in done.stdout
    assert frames(tmp_path / "a.gif")[1] == [100, 100, 100, 100 + HOLD_MS]


# --- the real ones ---


@pytest.mark.parametrize("name", ["draw", "flow_matching"])
def test_an_exported_generator_shows_what_torch_does(name: str, tiny: params.Variants, tmp_path: Path) -> None:
    import torch

    from lekhani.export.onnx_file import export_onnx, generator_inputs
    from lekhani.variants import VARIANTS
    from lekhani.variants.base import Stepwise

    torch.manual_seed(0)
    variant = VARIANTS[name].build(tiny, 28, 3, torch.device("cpu"))
    for _ in range(2):
        variant.progress = 0.1
        variant.step(torch.rand(6, 1, 28, 28), torch.arange(6) % 3)
    painter = cast(Stepwise, variant.generator().eval())
    export_onnx(painter, generator_inputs(variant.noise_dim, 3), ["images"], tmp_path / "g.onnx", {})
    generator = SimpleNamespace(
        path=tmp_path / "g.onnx", variant=name, session=SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    )
    noise, labels = torch.randn(4, variant.noise_dim), torch.tensor([0, 1, 2, 1])
    with torch.no_grad():
        expected = painter.trajectory(noise, labels)
    shown = Film(cast(Generator, generator)).run(noise.numpy(), labels.numpy(), batch_size=3)
    np.testing.assert_allclose(shown, expected.numpy(), atol=1e-4)
