"""What is decided where there is a GPU. None is needed: sessions claim to run on one, and fail as one would."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnxruntime as ort
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail
from toy_judge import toy_judge

from lekhani.errors import LekhaniError
from lekhani.inference.session import Floats, Generator, Reader, open_session

NAMES = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


class Gpu:
    """Opens sessions on the CPU that claim to be where they were asked to be."""

    def __init__(self) -> None:
        self.requested: list[Sequence[tuple[str, dict[str, str]]]] = []
        self.failing: set[str] = set()  # devices on which nothing opens
        self.absent: set[str] = set()  # devices that ONNX Runtime leaves out without an error
        self.rows: list[int] = []  # of each run on the GPU
        self.places: set[str] = set()  # where its outputs were bound
        self.mend: Callable[[Floats], Floats] = lambda values: values  # from the CPU's outputs to the GPU's
        self.real = ort.InferenceSession

    def open(
        self, model: Any, options: Any, providers: Sequence[tuple[str, dict[str, str]]], enable_fallback: int
    ) -> Any:
        """As onnxruntime.InferenceSession."""
        assert enable_fallback == 0
        self.requested.append(providers)
        names = [name for name, _ in providers]
        if any(name.startswith(device) for name in names for device in self.failing):
            raise EPFail(f"{names[0]} has no room\nand more")
        kept = [name for name in names if not any(name.startswith(device) for device in self.absent)]
        real = self.real(model, options, providers=NAMES[-1:], enable_fallback=0)
        return real if kept == NAMES[-1:] else OnGpu(self, real, kept)

    @property
    def devices(self) -> list[list[str]]:
        """Those of each request."""
        return [[name.removesuffix("ExecutionProvider") for name, _ in one] for one in self.requested]


class OnGpu:
    def __init__(self, gpu: Gpu, real: Any, names: list[str]) -> None:
        self.gpu, self.real, self.names = gpu, real, names

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def get_providers(self) -> list[str]:
        return self.names

    def run(self, outputs: list[str], feed: dict[str, Any]) -> list[Any]:
        self.gpu.rows.append(len(feed["images"]))
        return [self.gpu.mend(values) for values in self.real.run(outputs, feed)]

    def io_binding(self) -> Any:
        binding = self.real.io_binding()
        bind_input, bind_output, copy = binding.bind_cpu_input, binding.bind_output, binding.copy_outputs_to_cpu
        rows: dict[str, int] = {}
        binding.bind_cpu_input = lambda name, value: (rows.update({name: len(value)}), bind_input(name, value))
        binding.bind_output = lambda name, place: (self.gpu.places.add(place), bind_output(name, "cpu"))

        def copied() -> list[Any]:
            assert len(set(rows.values())) == 1
            self.gpu.rows.append(rows["noise"])
            return [self.gpu.mend(values) for values in copy()]

        binding.copy_outputs_to_cpu = copied
        return binding

    def run_with_iobinding(self, binding: Any) -> None:
        self.real.run_with_iobinding(binding)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    monkeypatch.delenv("LEKHANI_TENSORRT", raising=False)
    monkeypatch.delenv("LEKHANI_NHWC", raising=False)
    monkeypatch.setattr("lekhani.inference.session._gpu_present", lambda: True)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: NAMES)
    monkeypatch.setattr("onnxruntime.preload_dlls", lambda: None)
    made = Gpu()
    monkeypatch.setattr("onnxruntime.InferenceSession", made.open)
    return made


@pytest.fixture
def path(toy_generator: Callable[..., Path], tmp_path: Path) -> Path:
    return toy_generator(tmp_path / "g.onnx")


@pytest.fixture
def judge_file(tmp_path: Path) -> Path:
    return toy_judge(tmp_path / "judge.onnx")


def images_and_noise(generator: Generator, n: int) -> tuple[Floats, Floats]:
    noise = np.random.default_rng(n).standard_normal((n, generator.noise_dim), dtype=np.float32)
    return generator.run(noise, np.arange(n, dtype=np.int64) % 3), noise


# --- which provider ---


def test_tensorrt_comes_first_where_it_is_asked_for_with_engines_for_each_model(
    gpu: Gpu, path: Path, toy_generator: Callable[..., Path], judge_file: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    second = toy_generator(tmp_path / "b.onnx", conditional=False)
    open_session(path)
    assert gpu.devices == [["CUDA", "CPU"]]
    monkeypatch.setenv("LEKHANI_TENSORRT", str(tmp_path / "engines"))
    gpu.requested.clear()
    for one in (path, second, path, judge_file):
        open_session(one)
    assert gpu.devices == [["CPU"], ["Tensorrt", "CUDA", "CPU"]] * 4, "the CPU's session tells the inputs"
    options = [one[0][1] for one in gpu.requested[1::2]]
    folders = [Path(one["trt_engine_cache_path"]) for one in options]
    assert folders[0] == folders[2] != folders[1], "equal shapes with other weights must not share an engine"
    assert all(folder.is_dir() and folder.parent == tmp_path / "engines" for folder in folders)
    for which, rows in (("min", 1), ("opt", 1024), ("max", 4096)):
        assert options[0][f"trt_profile_{which}_shapes"] == f"noise:{rows}x16,labels:{rows}"
        assert options[3][f"trt_profile_{which}_shapes"] == f"images:{rows}x1x4x4"
    open_session(path, "cpu")
    assert gpu.devices[-1] == ["CPU"]


def test_each_device_that_does_not_open_a_model_is_left_with_one_warning(
    gpu: Gpu, path: Path, tmp_path: Path, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LEKHANI_TENSORRT", str(tmp_path))
    for failing, absent, opened in (
        ({"Tensorrt"}, set(), "CUDA"),
        (set(), {"Tensorrt"}, "CUDA"),
        ({"CUDA"}, {"Tensorrt"}, "CPU"),
        ({"Tensorrt", "CUDA"}, set(), "CPU"),
        (set(), {"Tensorrt", "CUDA"}, "CPU"),
    ):
        caplog.clear()
        gpu.failing, gpu.absent = failing, absent
        assert open_session(path).get_providers()[0] == f"{opened}ExecutionProvider"
        left = ["Tensorrt", "CUDA"][: 2 if opened == "CPU" else 1]
        assert [record.getMessage().split(" (")[0] for record in caplog.records] == [
            f"{device} cannot open {path}" for device in left
        ]
        assert all(record.getMessage().endswith(f"; running on {opened}.") for record in caplog.records)
        assert ("has no room" in caplog.text) == bool(failing)
        assert ("libraries do not load" in caplog.text) == (not failing)
        assert "and more" not in caplog.text


def test_a_file_that_opens_nowhere_is_an_error_and_no_warning(
    gpu: Gpu, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not onnx")
    with pytest.raises(LekhaniError, match="cannot be opened as an ONNX model"):
        open_session(tmp_path / "m.onnx")
    assert not caplog.records


def test_onnx_runtime_does_not_change_the_device_by_itself(
    path: Path, judge_file: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its own class: neither where a provider cannot be made nor where one fails in a run."""
    create, asked = ort.InferenceSession._create_inference_session, []

    def broken(self: Any, providers: Any, *words: Any) -> None:
        asked.append([name for name, _ in providers])
        if len(providers) > 1:
            raise RuntimeError("no CUDA here")
        create(self, providers, *words)

    monkeypatch.setattr("lekhani.inference.session._gpu_present", lambda: True)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: NAMES)
    monkeypatch.setattr("onnxruntime.preload_dlls", lambda: None)
    monkeypatch.setattr("onnxruntime.InferenceSession._create_inference_session", broken)
    reader = Reader(judge_file)
    assert asked == [NAMES[1:], NAMES[2:]]
    assert capsys.readouterr().out == ""

    inner = Mock()
    inner.is_webgpu_graph_capture_enabled.return_value = False
    inner.run.side_effect = EPFail("out of memory")
    reader.session._sess = inner
    with pytest.raises(LekhaniError, match="cannot read: out of memory"):
        reader.read(np.zeros((2, 4, 4), np.uint8))
    assert len(asked) == 2


def test_channels_last_is_asked_for_only_where_it_is_wanted(gpu: Gpu, path: Path, monkeypatch: Any) -> None:
    asked = []
    for value in (None, "0", "1"):
        if value:
            monkeypatch.setenv("LEKHANI_NHWC", value)
        open_session(path)
        asked.append(gpu.requested[-1][0][1].get("prefer_nhwc"))
    assert asked == [None, None, "1"]


# --- how it is run ---


def test_on_a_gpu_half_precision_is_the_rule_and_outputs_stay_there(gpu: Gpu, path: Path) -> None:
    generator = Generator(path, precision="auto")
    assert (generator.device, generator.precision) == ("CUDA", "float16")
    assert images_and_noise(generator, 2)[0].shape == (2, 1, 4, 4)
    assert gpu.places == {"cuda"}
    assert generator.batch_size_for(1) == generator.batch_size_for(10**6) == 1024


@pytest.mark.parametrize(
    ("failing", "words"),
    [({"CUDA"}, "CUDA does not open it in float16."), (set(), "float16 would change a pixel by 0.")],
    ids=["does not open", "another size"],
)
def test_half_precision_that_does_not_work_on_the_gpu_is_not_used(
    gpu: Gpu, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any, failing: set[str], words: str
) -> None:
    def opened(model: Any, *others: Any, **more: Any) -> Any:
        if isinstance(model, bytes):  # what was made from the file
            gpu.failing, gpu.mend = failing, lambda values: values if len(values) == 64 else 1 - values
        return gpu.open(model, *others, **more)

    monkeypatch.setattr("onnxruntime.InferenceSession", opened)
    generator = Generator(path, precision="auto")
    assert (generator.device, generator.precision) == ("CUDA", "float32")
    assert generator.session.get_providers()[0] == "CUDAExecutionProvider"
    assert caplog.records[-1].getMessage().startswith(f"{path} stays in float32: {words}")


def test_a_gpu_gets_powers_of_two_and_its_caller_what_was_asked_for(gpu: Gpu, path: Path, judge_file: Path) -> None:
    generator, on_cpu = Generator(path), Generator(path, "cpu")
    reader, cpu_reader = Reader(judge_file), Reader(judge_file, "cpu")
    assert gpu.rows == [8, 4, 8, 4], "each was compared with the CPU at two sizes"
    for n, rows in ((1, 1), (2, 2), (3, 4), (65, 128), (1000, 1024), (1024, 1024), (1025, 1025), (0, 0)):
        gpu.rows.clear()
        images, noise = images_and_noise(generator, n)
        np.testing.assert_array_equal(images, on_cpu.run(noise, np.arange(n, dtype=np.int64) % 3))
        pictures = np.random.default_rng(n).integers(0, 256, (n, 4, 4), dtype=np.uint8)
        if n:
            got, expected = reader.read(pictures, 2000), cpu_reader.read(pictures, 2000)
            assert all(map(np.array_equal, got, expected))
        assert set(gpu.rows) == {rows}


def double_rows(values: Floats) -> Floats:
    return np.concatenate([values, values])


def second_size_is_stale(values: Floats) -> Floats:
    return values if len(values) == 8 else 1 - values


@pytest.mark.parametrize(
    ("mend", "words"),
    [
        (lambda values: values + np.float32(0.02), "it differs from the CPU by 0.02, more than 0.01"),
        (second_size_is_stale, "it differs from the CPU by"),
        (lambda values: values * np.float32("nan"), "it differs from the CPU by nan, more"),
        (double_rows, "it fails: operands could not be broadcast"),
    ],
    ids=["drift", "second size", "nan", "untrimmed"],
)
def test_a_gpu_that_computes_something_else_is_not_used(
    gpu: Gpu,
    path: Path,
    judge_file: Path,
    caplog: pytest.LogCaptureFixture,
    mend: Callable[[Floats], Floats],
    words: str,
) -> None:
    gpu.mend = mend
    generator = Generator(path, precision="auto")
    assert (generator.device, generator.precision) == ("CPU", "float32")
    (warning,) = caplog.records
    assert warning.getMessage().startswith(f"{path} runs on the CPU and not on CUDA, where {words}")
    images, noise = images_and_noise(generator, 5)
    np.testing.assert_array_equal(images, Generator(path, "cpu").run(noise, np.arange(5, dtype=np.int64) % 3))
    caplog.clear()
    gpu.mend = lambda values: mend(values) * np.float32(30)
    reader = Reader(judge_file)
    assert reader.session.get_providers() == NAMES[-1:]
    assert [str(judge_file) in record.getMessage() for record in caplog.records] == [True]


def test_a_gpu_that_fails_when_it_is_tried_is_not_used(gpu: Gpu, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Floats) -> Floats:
        raise EPFail("CUDNN_STATUS_NOT_SUPPORTED\nand more")

    gpu.mend = fail
    assert Generator(path).device == "CPU"
    (warning,) = caplog.records
    assert warning.getMessage().endswith("not on CUDA, where it fails: CUDNN_STATUS_NOT_SUPPORTED.")


def test_what_rounding_changes_is_allowed_and_more_of_it_on_tensorrt(
    gpu: Gpu, path: Path, judge_file: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    gpu.mend = lambda values: values * np.float32(1.005)  # logits of some hundreds
    assert Reader(judge_file).session.get_providers()[0] == "CUDAExecutionProvider"

    def device(shift: float) -> str:
        gpu.mend = lambda values: values + np.float32(shift)
        return Generator(path).device

    assert [device(0.009), device(0.02)] == ["CUDA", "CPU"]
    monkeypatch.setenv("LEKHANI_TENSORRT", str(tmp_path))
    assert [device(0.009), device(0.02), device(0.06)] == ["Tensorrt", "Tensorrt", "CPU"]


def test_the_cpu_is_compared_with_nothing(path: Path, judge_file: Path, monkeypatch: Any) -> None:
    opened: list[Any] = []
    real = ort.InferenceSession
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *words, **more: opened.append(0) or real(*words, **more))
    monkeypatch.setattr("lekhani.inference.session._threads", lambda: 1)
    Generator(path, "cpu")
    Reader(judge_file)
    assert len(opened) == 2
