"""A generator draws by its seed and nothing else, and a file that is none of ours is one sentence."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from toy_judge import toy_judge

from lekhani.data.spec import MNIST, Bytes
from lekhani.errors import LekhaniError
from lekhani.inference.session import BATCH_SIZES, Generator, Reader, fastest_batch_size, open_session


@pytest.fixture(scope="module")
def path(toy_generator: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a toy generator."""
    return toy_generator(tmp_path_factory.mktemp("toy") / "g.onnx")


@pytest.fixture
def generator(path: Path) -> Generator:
    return Generator(path, "cpu")


@pytest.fixture(scope="module")
def judge_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_judge(tmp_path_factory.mktemp("judge") / "judge.onnx")


def drawn(generator: Generator, labels: list[int], seed: int = 1, batch_size: int = 128) -> Bytes:
    return generator.sample(np.array(labels, np.int64), np.random.default_rng(seed), batch_size)


def test_images_depend_on_label_and_seed_alone(generator: Generator) -> None:
    labels = [2, 0, 1, 1, 0, 2, 0]
    images = drawn(generator, labels)
    assert (images.shape, images.dtype) == ((7, 4, 4), np.uint8)
    assert np.rint(images.mean(axis=(1, 2)) / 255 * 3 - 0.5).tolist() == labels
    np.random.seed(0)  # the global generator must not matter
    drawn(generator, [1], seed=9)
    np.testing.assert_array_equal(drawn(generator, labels, batch_size=2), images)
    np.testing.assert_array_equal(drawn(generator, labels[:3]), images[:3])
    assert not np.array_equal(drawn(generator, labels, seed=2), images)


def test_an_input_that_the_exporter_dropped_is_not_fed(path: Path, tmp_path: Path) -> None:
    model = onnx.load(path)
    del model.graph.input[1]
    for node in list(model.graph.node):
        if node.op_type == "Cast":
            model.graph.node.remove(node)
        if node.name == "" and list(node.output) == ["number_cell"]:
            model.graph.node.remove(node)
    model.graph.initializer.append(onnx.helper.make_tensor("number_cell", onnx.TensorProto.FLOAT, [1, 1, 1, 1], [0.0]))
    onnx.save(model, tmp_path / "g.onnx")
    assert drawn(Generator(tmp_path / "g.onnx", "cpu"), [2, 0]).shape == (2, 4, 4)


def test_features_and_logits_of_a_judge(judge_file: Path) -> None:
    reader = Reader(judge_file, "cpu")
    assert reader.classes == MNIST[:3]
    images = np.stack([np.full((4, 4), shade, np.uint8) for shade in (250, 3, 128, 120, 255)])
    features, logits = reader.read(images, batch_size=2)
    np.testing.assert_allclose(features, images.reshape(5, 16) / 255, rtol=1e-5)
    assert logits.argmax(1).tolist() == [2, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "There is no model at"), (b"not onnx", "cannot be opened as an ONNX model"), (b"", "m.onnx")],
)
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "m.onnx").write_bytes(content)
    for kind in (Generator, Reader):
        with pytest.raises(LekhaniError, match=words) as caught:
            kind(tmp_path / "m.onnx", "cpu")
        assert "m.onnx" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "metadata", [{"noise_dim": None}, {"classes": "[{]"}, {"classes": '[{"label": 0}]'}, {"image_size": "big"}], ids=str
)
def test_a_model_with_missing_or_malformed_metadata(
    toy_generator: Callable[..., Path], tmp_path: Path, metadata: dict[str, str | None]
) -> None:
    path = toy_generator(tmp_path / "g.onnx", metadata=metadata)
    with pytest.raises(LekhaniError, match=r"g\.onnx is no generator exported by lekhani") as caught:
        Generator(path, "cpu")
    assert "\n" not in str(caught.value)


def test_a_judge_is_no_generator_and_a_model_without_metadata_no_judge(judge_file: Path, tmp_path: Path) -> None:
    with pytest.raises(LekhaniError, match="no generator exported by lekhani"):
        Generator(judge_file, "cpu")
    model = onnx.load(judge_file)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "j.onnx")
    with pytest.raises(LekhaniError, match="no judge exported by lekhani"):
        Reader(tmp_path / "j.onnx", "cpu")


# --- how it is run ---


def test_the_fastest_batch_size_within_the_limits() -> None:
    def best(times: dict[int, float], memory: dict[int, int] | None = None, limit: int = 1000) -> int:
        tried = [0]

        def seconds(size: int) -> float:
            tried.append(size)
            if times[size] < 0:
                raise RuntimeError("no room")
            return times[size]

        return fastest_batch_size(seconds, times, lambda: 5000 + (memory or {}).get(tried[-1], 0), limit)

    assert best({16: 0.02, 64: 0.04, 256: 0.1}) == 256
    assert best({16: 0.02, 64: 0.079, 256: 0.315}) == 16, "larger ones are no more than 5% quicker"
    assert best({16: 0.03, 64: 0.08, 256: 0.3, 1024: 0.31}) == 256, "a batch that takes long is the last one tried"
    assert best({16: 0.02, 64: 0.04, 256: -1, 1024: 0.1}) == 64, "there was no room on the GPU"
    assert best({16: 0.02, 64: 0.04, 256: 0.1}, {16: 200, 64: 300}) == 64, (
        "the next one could take more than is allowed"
    )
    with pytest.raises(RuntimeError):
        best({16: -1})


def test_the_batch_size_is_measured_once_and_only_for_many_images_on_the_cpu(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert generator.fastest_batch_size in BATCH_SIZES
    monkeypatch.setattr("lekhani.inference.session.fastest_batch_size", lambda *_: 0)
    assert generator.fastest_batch_size in BATCH_SIZES
    generator.__dict__["fastest_batch_size"] = 7
    assert [generator.batch_size_for(n) for n in (1, 4999, 5000, 10**6)] == [128, 128, 7, 7]
    generator.device = "CUDA"
    assert {generator.batch_size_for(n) for n in (1, 4999, 5000, 10**6)} == {1024}


def test_threads_are_those_that_are_ours(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5, 7})
    for value, threads in (("", 3), ("2", 2), ("0", 3), ("many", 3), ("4,2", 4), ("99999999", 12)):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert open_session(path, "cpu").get_session_options().intra_op_num_threads == threads


def test_half_precision_is_taken_where_it_does_not_show(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full, half = Generator(path, "cpu"), Generator(path, "cpu", "float16")
    assert [full.precision, half.precision] == ["float32", "float16"]
    assert Generator(path, "cpu", "auto").precision == "float32"
    noise = np.random.default_rng(5).standard_normal((50, 16), dtype=np.float32)
    labels = np.arange(50, dtype=np.int64) % 3
    expected, got = full.run(noise, labels), half.run(noise, labels)
    assert got.dtype == np.float32
    assert 0 < np.abs(got - expected).max() < 0.002
    assert half.sha256 == full.sha256
    monkeypatch.setattr("lekhani.inference.session.HALF_TOLERANCE", 1e-9)
    strict = Generator(path, "cpu", "float16")
    assert strict.precision == "float32"
    assert "stays in float32: float16 would change a pixel" in caplog.text
    np.testing.assert_array_equal(strict.run(noise, labels), expected)


def test_neither_batch_nor_cores_change_a_bit_of_a_real_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of a batch do not influence one another."""
    from lekhani.export.onnx_file import export_onnx, generator_inputs
    from lekhani.variants.nets import DcganGenerator

    classes = json.dumps([{"label": 0, "name": "zero", "glyph": "0"}])
    metadata = {"dataset": "toys", "variant": "dcgan", "classes": classes, "conditional": "false"}
    metadata |= {"noise_dim": "6", "image_size": "28"}
    export_onnx(DcganGenerator(6, 16, 28), generator_inputs(6, 10), ["images"], tmp_path / "g.onnx", metadata)
    noise = np.random.default_rng(0).standard_normal((70, 6), dtype=np.float32)
    labels = np.zeros(70, np.int64)
    (whole,) = open_session(tmp_path / "g.onnx", "cpu").run(None, {"noise": noise, "labels": labels})
    for cores in (1, 2, 3, 40):
        monkeypatch.setattr("lekhani.inference.session._threads", lambda cores=cores: cores)
        generator = Generator(tmp_path / "g.onnx", "cpu")
        for size in (1, 2, 3, 5, 16, 33, 70):
            parts = [generator.run(noise[i : i + size], labels[i : i + size]) for i in range(0, 70, size)]
            np.testing.assert_array_equal(np.concatenate(parts), whole)
