"""A generator or judge in ONNX Runtime: what evaluation scores and what users run are the same few lines."""

import hashlib
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError

from lekhani.data.spec import Bytes, Classes, GlyphClass, Labels, Name, Side
from lekhani.errors import LekhaniError, first_line, first_problem
from lekhani.files import sha256
from lekhani.machine import cpu_count, peak_memory
from lekhani.pictures import to_uint8

log = logging.getLogger("lekhani")
Floats = npt.NDArray[np.float32]
Precision = Literal["float32", "float16", "auto"]

BATCH_SIZES = (16, 64, 256, 1024, 4096)  # to choose from; exported models take no more than 4096
GPU_BATCH_SIZE = 1024
DEFAULT_BATCH_SIZE = 128
WORTH_MEASURING = 5000  # images from which on the fastest batch size is measured
MEMORY_LIMIT = 2 << 30  # bytes that a batch may take
MAX_THREADS_PER_CORE = 4  # whatever OMP_NUM_THREADS says: ONNX Runtime starts them all
MIN_ROWS_PER_CORE = 4  # with fewer, all cores work on the same rows
LONG_SECONDS = 0.25  # where a batch takes longer, a larger one saves nothing
TOLERANCE = 1e-3  # that an image may leave [0,1] by, since arithmetic rounds
HALF_TOLERANCE = 0.05  # the most that float16 may change a pixel of 64 images, as a share of white
# How far a GPU may be from the CPU in float32: adding in another order stays below 1e-3, a fault changes whole strokes.
GPU_TOLERANCE = 0.01
GPU_ROWS = (8, 3)  # that they are compared on: what was planned for one size may be wrong at the next

# cuDNN is to choose the same algorithm every time, and to compute in full float32 where float32 is requested.
_CUDA = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}


def open_session(
    path: Path, provider: str = "auto", content: bytes | None = None, threads: int | None = None
) -> ort.InferenceSession:
    """Open an ONNX file, or `content`, which was made from it.

    `provider` is `cpu`, or `auto` for CUDA where it works and the CPU otherwise; where LEKHANI_TENSORRT names a folder,
    `auto` takes TensorRT before CUDA and keeps the engines that it builds there. Each of them that cannot open the
    model is left out with a warning; a session that is open stays where it is, also when it fails later. On the CPU it
    uses `threads`, by default OMP_NUM_THREADS, or else all cores that this process may use. Raises LekhaniError when
    the file is missing or no ONNX model.
    """
    if not path.is_file():
        raise LekhaniError(f"There is no model at {path}; train one with `dvc repro`, or name another file.")
    providers: list[tuple[str, dict[str, str]]] = [("CPUExecutionProvider", {})]
    if provider == "auto" and "CUDAExecutionProvider" in ort.get_available_providers() and _gpu_present():
        ort.preload_dlls()
        nhwc = {"prefer_nhwc": "1"} if os.environ.get("LEKHANI_NHWC") == "1" else {}
        providers.insert(0, ("CUDAExecutionProvider", _CUDA | nhwc))
        if folder := os.environ.get("LEKHANI_TENSORRT"):
            engine = _tensorrt_shapes(open_session(path, "cpu", content).get_inputs())
            engine |= _tensorrt_options(Path(folder).expanduser(), content or path.read_bytes())
            providers.insert(0, ("TensorrtExecutionProvider", engine))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or _threads()
    options.use_deterministic_compute = True
    failed: dict[str, str] = {}
    for first, (name, _) in enumerate(providers):
        try:
            # ONNX Runtime's own fallback prints to stdout, and moves to another device in the middle of a run.
            session = ort.InferenceSession(content or path, options, providers=providers[first:], enable_fallback=0)
            break
        except Exception as error:  # onnxruntime raises several classes of its own
            if name == "CPUExecutionProvider":
                raise LekhaniError(f"{path} cannot be opened as an ONNX model: {first_line(error)}") from error
            failed[name] = first_line(error)
    opened = session.get_providers()
    failed = {name: "its libraries do not load" for name, _ in providers if name not in opened} | failed
    for name, reason in failed.items():
        log.warning("%s cannot open %s (%s); running on %s.", _device(name), path, reason, _device(opened[0]))
    return session


class JudgeMetadata(BaseModel):
    """What a judge says of itself in metadata_props, where every value is text."""

    model_config = ConfigDict(strict=True, frozen=True)

    dataset: Name
    classes: Json[Classes]


class GeneratorMetadata(JudgeMetadata):
    """What a generator says of itself."""

    variant: Name
    image_size: Json[Side]
    noise_dim: Json[Annotated[int, Field(ge=1, le=1 << 20)]]
    conditional: Json[bool]
    lineage: Json[dict[str, str]] = {}


_Metadata = TypeVar("_Metadata", bound=JudgeMetadata)
_REMEDY = "export the model again, or take another one."


def _metadata(path: Path, session: ort.InferenceSession, kind: type[_Metadata], name: str) -> _Metadata:
    try:
        return kind.model_validate(session.get_modelmeta().custom_metadata_map)
    except ValidationError as error:
        problem = f"{path} is no {name} exported by lekhani"
        raise LekhaniError(f"{problem}: its metadata is garbled, {first_problem(error)}.") from error
    except UnicodeDecodeError as error:
        raise LekhaniError(f"{path} is no {name} exported by lekhani: its metadata is no text in UTF-8.") from error


def _check_inputs(path: Path, session: ort.InferenceSession, known: Mapping[str, tuple[str | int, ...]]) -> None:
    """Raise LekhaniError for an input that is not `known` with its type and its dimensions after the batch."""
    for entry in session.get_inputs():
        kind, *dims = known.get(entry.name, ("unknown",))
        fits = len(entry.shape) == len(dims) + 1 and all(
            not isinstance(found, int) or found == dim for found, dim in zip(entry.shape[1:], dims, strict=True)
        )
        if entry.type != kind or not fits:
            problem = f"{path} takes {entry.name!r} as {entry.type} {entry.shape}"
            raise LekhaniError(f"{problem}, which does not fit its metadata; {_REMEDY}")


def _check_output(path: Path, name: str, values: Any, shape: tuple[int | None, ...]) -> None:
    """Raise LekhaniError where an output is not float32 of this shape (None: any), or not finite."""
    expected = f"float32 {[size or 'any' for size in shape]}"
    if not isinstance(values, np.ndarray):
        raise LekhaniError(f"{path} gives {name} that are no tensor, and not {expected}; {_REMEDY}")
    fits = values.ndim == len(shape) and all(one in {None, size} for one, size in zip(shape, values.shape, strict=True))
    if values.dtype != np.float32 or not fits:
        found = f"{values.dtype} {list(values.shape)}"
        raise LekhaniError(f"{path} gives {name} as {found}, and not as {expected}; {_REMEDY}")
    if not np.isfinite(values).all():
        raise LekhaniError(f"{path} gives {name} that are not finite numbers; {_REMEDY}")


def _device(provider: str) -> str:
    return provider.removesuffix("ExecutionProvider")


def load_tensorrt() -> None:
    """Load TensorRT's libraries, if its package is there: ONNX Runtime finds them once that has loaded them."""
    with suppress(ImportError):
        import_module("tensorrt")


def _tensorrt_options(folder: Path, content: bytes) -> dict[str, str]:
    load_tensorrt()
    # ONNX Runtime tells engines apart by a network's shape and not by its weights, so every model has its own folder.
    own = folder / hashlib.sha256(content).hexdigest()[:16]
    own.mkdir(parents=True, exist_ok=True)
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(own),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(own),
    }


def _tensorrt_shapes(inputs: Iterable[Any]) -> dict[str, str]:
    """The numbers of rows that one engine is built for; without them each new number builds another one."""
    rows = {"min": 1, "opt": GPU_BATCH_SIZE, "max": BATCH_SIZES[-1]}
    shapes = {entry.name: entry.shape[1:] for entry in inputs}
    return {
        f"trt_profile_{which}_shapes": ",".join(
            f"{name}:{'x'.join(str(size) for size in (n, *shape))}" for name, shape in shapes.items()
        )
        for which, n in rows.items()
    }


def _agrees(
    path: Path, session: ort.InferenceSession, run: Callable[[ort.InferenceSession, int], Sequence[Floats]]
) -> bool:
    """Whether a session on a GPU computes what the CPU does; warns where it does not, or fails.

    `run` gives the outputs of a session for so many rows. Differences are shares of the largest value, and at least of
    1, which is white.
    """
    device = _device(session.get_providers()[0])
    if device == "CPU":
        return True
    # TensorRT computes in TF32, with the digits of float16, and ONNX Runtime has no option against it.
    tolerance = HALF_TOLERANCE if device == "Tensorrt" else GPU_TOLERANCE
    try:
        reference = open_session(path, "cpu")
        pairs = [pair for n in GPU_ROWS for pair in zip(run(reference, n), run(session, n), strict=True)]
        difference = float(np.max([np.abs(one - other).max() / max(1, np.abs(one).max()) for one, other in pairs]))
        problem = f"it differs from the CPU by {difference:.2g}, more than {tolerance}"
    except Exception as error:  # onnxruntime raises several classes of its own
        difference, problem = math.nan, f"it fails: {first_line(error)}"
    if difference <= tolerance:
        return True
    log.warning("%s runs on the CPU and not on %s, where %s.", path, device, problem)
    return False


def _padded(session: ort.InferenceSession, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """On a GPU, where cuDNN plans anew for each number of rows, the last row again up to a power of two."""
    n = len(values)
    if session.get_providers()[0] == "CPUExecutionProvider" or not 0 < n < GPU_BATCH_SIZE:
        return values
    return np.concatenate([values, np.repeat(values[-1:], (1 << (n - 1).bit_length()) - n, 0)])


def _threads() -> int:
    number = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # Ray sets it for its workers
    cores = cpu_count()
    return min(int(number), MAX_THREADS_PER_CORE * cores) if re.fullmatch("[1-9][0-9]{0,9}", number) else cores


def _gpu_present() -> bool:
    # onnxruntime-gpu lists CUDA on machines without a GPU too, and logs an error when it is then requested.
    # /dev/dxg is how Linux within Windows (WSL 2) reaches one.
    return any(Path(place).exists() for place in ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/dxg"))


def fastest_batch_size(
    seconds: Callable[[int], float], sizes: Iterable[int], memory: Callable[[], int], limit: int = MEMORY_LIMIT
) -> int:
    """The batch size with most images per second, the smaller one of two that are within 5%.

    `seconds` runs a batch and returns how long that took, `memory` returns how many bytes are in use. Sizes are tried
    in turn until one took LONG_SECONDS, the next could need more than `limit` bytes, or one did not fit into memory.
    """
    before, best, rate = memory(), 0, 0.0
    for size in sizes:
        try:
            took = seconds(size)
        except Exception:  # onnxruntime's own, when a GPU is out of memory; the first size has to run
            if not best:
                raise
            break
        if size / took > 1.05 * rate:
            best, rate = size, size / took
        if took > LONG_SECONDS or (memory() - before) * 4 > limit:  # the next size is four times this one
            break
    return best


class Generator:
    """One exported generator: (noise, labels) -> images.

    Attributes: `classes` in label order, `image_size` in pixels, `noise_dim`, `conditional`, `dataset`, `variant`,
    `lineage` as exported, `sha256` of the file, `device` (CPU, CUDA or Tensorrt), `precision` (float32 or float16).
    """

    def __init__(self, path: Path, provider: str = "auto", precision: Precision = "float32") -> None:
        """Open the file and read its metadata; raises LekhaniError when lekhani did not export it as a generator.

        `auto` precision is float16 on a GPU and float32 elsewhere. Where float16 would change an image visibly
        or does not work, float32 stays. Where a GPU draws other images than the CPU, the model moves there, with a
        warning.
        """
        self.path, self.precision = path, "float32"
        self._open(provider)
        about = _metadata(path, self.session, GeneratorMetadata, "generator")
        self.dataset, self.variant, self.classes = about.dataset, about.variant, about.classes
        self.noise_dim, self.image_size, self.conditional = about.noise_dim, about.image_size, about.conditional
        self.lineage = about.lineage
        _check_inputs(path, self.session, {"noise": ("tensor(float)", self.noise_dim), "labels": ("tensor(int64)",)})
        self.sha256 = sha256(path)
        self._inputs = {entry.name for entry in self.session.get_inputs()}  # without those that the network ignores
        self._is_checked = False
        if not _agrees(path, self.session, lambda session, n: [self._run(session, *self._example(n))]):
            provider = "cpu"
            self._open(provider)
        if precision == "float16" or (precision == "auto" and self.device != "CPU"):
            self._halve(provider)

    def batch_size_for(self, n: int) -> int:
        """How many of `n` images to draw at a time.

        On the CPU no bit of an image depends on it, so the fastest is measured where there are many images. On a GPU it
        may decide the last bit of a value, so it is constant.
        """
        if self.device != "CPU":
            return GPU_BATCH_SIZE
        return self.fastest_batch_size if n >= WORTH_MEASURING else DEFAULT_BATCH_SIZE

    @cached_property
    def fastest_batch_size(self) -> int:
        """The fastest batch size on this machine, measured once; see the function of this name."""
        fitting = takewhile(lambda size: size * self.noise_dim * 4 <= MEMORY_LIMIT, BATCH_SIZES)
        return fastest_batch_size(self._seconds, fitting, peak_memory)

    def run(self, noise: Floats, labels: Labels) -> Floats:
        """One call: noise float32 [N, noise_dim], labels int64 [N] -> images float32 [N,1,H,W] in [0,1].

        The first output is checked for that; a LekhaniError names what is wrong with it.
        """
        try:
            images = self._drawn(noise, labels)
        except Exception as error:  # onnxruntime raises several classes of its own
            raise LekhaniError(f"{self.path} cannot draw: {first_line(error)}") from error
        if not self._is_checked:
            _check_output(self.path, "images", images, (len(noise), 1, self.image_size, self.image_size))
            if not (images.min(initial=0) >= -TOLERANCE and images.max(initial=0) <= 1 + TOLERANCE):
                found = f"from {images.min():.4g} to {images.max():.4g}"
                raise LekhaniError(f"{self.path} draws values {found}, and they must be from 0 to 1; {_REMEDY}")
            self._is_checked = True
        return images

    def _drawn(self, noise: Floats, labels: Labels) -> Floats:
        """Images of one call, by all cores."""
        rows = -(-len(noise) // _threads())
        if self._single is None or rows < MIN_ROWS_PER_CORE:
            return self._run(self.session, noise, labels)
        parts = [slice(start, start + rows) for start in range(0, len(noise), rows)]
        images = self._pool.map(lambda part: self._run(self._single, noise[part], labels[part]), parts)
        return np.concatenate(list(images))

    def _open(self, provider: str, content: bytes | None = None) -> None:
        """Open the file, or `content`, for few rows at a time and for many.

        Some of ONNX Runtime's operators, transposed convolutions above all, use one core however many there are. So a
        large batch is split among the cores, each with its rows in a session of one thread.
        """
        self.session = open_session(self.path, provider, content)
        self.device = _device(self.session.get_providers()[0])
        split = self.device == "CPU" and _threads() > 1
        self._single = open_session(self.path, provider, content, threads=1) if split else None

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_threads(), "generator")

    def _run(self, session: ort.InferenceSession, noise: Floats, labels: Labels) -> Floats:
        binding, fed = session.io_binding(), {"noise": _padded(session, noise), "labels": _padded(session, labels)}
        for name, value in fed.items():
            if name in self._inputs:
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
        on_cpu = session.get_providers()[0] == "CPUExecutionProvider"
        binding.bind_output(session.get_outputs()[0].name, "cpu" if on_cpu else "cuda")
        session.run_with_iobinding(binding)
        images: Floats = binding.copy_outputs_to_cpu()[0]
        added = len(fed["noise"]) - len(noise)
        return images[:-added] if added else images

    def _halve(self, provider: str) -> None:
        """Switch to float16 unless that changes an image visibly, or does not work."""
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        noise, labels = self._example(64)
        expected, before = self.run(noise, labels), (self.session, self._single, self.device)
        half = convert_float_to_float16(onnx.load(self.path), keep_io_types=True)
        try:
            self._open(provider, half.SerializeToString())
            if self.device != before[-1]:
                raise LekhaniError(f"{before[-1]} does not open it in float16")
            parts = [np.abs(self.run(noise[:n], labels[:n]) - expected[:n]).max() for n in (64, min(GPU_ROWS))]
            difference = float(np.max(parts))
            problem = f"float16 would change a pixel by {difference:.2f} of white"
        except LekhaniError as error:
            difference, problem = math.nan, str(error)
        if difference <= HALF_TOLERANCE:
            self.precision = "float16"
        else:  # also for NaN
            self.session, self._single, self.device = before
            log.warning("%s stays in float32: %s.", self.path, problem.removesuffix("."))

    def _example(self, n: int) -> tuple[Floats, Labels]:
        noise = np.random.default_rng(0).standard_normal((n, self.noise_dim), dtype=np.float32)
        return noise, np.arange(n, dtype=np.int64) % len(self.classes)

    def _seconds(self, n: int) -> float:
        noise, labels = self._example(n)
        self.run(noise, labels)  # the first time takes longer
        start = time.perf_counter()
        self.run(noise, labels)
        return time.perf_counter() - start

    def sample(self, labels: Labels, rng: np.random.Generator, batch_size: int = DEFAULT_BATCH_SIZE) -> Bytes:
        """One image per label, uint8 [N,H,W], with noise from `rng`, which does not depend on `batch_size`."""
        batches = []
        for start in range(0, len(labels), batch_size):
            batch = labels[start : start + batch_size]
            noise = rng.standard_normal((len(batch), self.noise_dim), dtype=np.float32)
            batches.append(to_uint8(self.run(noise, batch)))
        return np.concatenate(batches)


class Reader:
    """A judge, exported: images -> features and logits.

    Attributes: `classes` in label order, `image_size` in pixels, `dataset`, `sha256` of the file.
    """

    def __init__(self, path: Path, provider: str = "auto") -> None:
        """Open judge.onnx; raises LekhaniError when lekhani did not export it as a judge.

        Where a GPU reads something else than the CPU, the CPU reads, with a warning.
        """
        self.path, self.session, self.sha256 = path, open_session(path, provider), sha256(path)
        about = _metadata(path, self.session, JudgeMetadata, "judge")
        self.dataset, self.classes = about.dataset, about.classes
        shape = self.session.get_inputs()[0].shape or [0]
        self.image_size = shape[-1] if isinstance(shape[-1], int) else 0
        _check_inputs(path, self.session, {"images": ("tensor(float)", 1, self.image_size, self.image_size)})
        self._is_checked = False
        if not _agrees(path, self.session, lambda session, n: self._run(session, self._example(n))):
            self.session = open_session(path, "cpu")

    def read(self, images: Bytes, batch_size: int = 512) -> tuple[Floats, Floats]:
        """Features float32 [N,128] and logits float32 [N,K] of uint8 images [N,H,W], white on black.

        The first output is checked for that; a LekhaniError names what is wrong with it.
        """
        parts = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size, None].astype(np.float32)
            parts.append(self._read(batch / np.float32(255)))
        features, logits = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return features, logits

    def _read(self, batch: Floats) -> tuple[Floats, Floats]:
        try:
            features, logits = self._run(self.session, batch)
        except Exception as error:  # onnxruntime raises several classes of its own
            raise LekhaniError(f"{self.path} cannot read: {first_line(error)}") from error
        if not self._is_checked:
            _check_output(self.path, "features", features, (len(batch), None))
            _check_output(self.path, "logits", logits, (len(batch), len(self.classes)))
            self._is_checked = True
        return features, logits

    def _run(self, session: ort.InferenceSession, batch: Floats) -> Sequence[Floats]:
        rows = _padded(session, batch)
        outputs: Sequence[Floats] = session.run(["features", "logits"], {"images": rows})
        added = len(rows) - len(batch)
        return [values[:-added] for values in outputs] if added else outputs

    def _example(self, n: int) -> Floats:
        return np.random.default_rng(0).random((n, 1, self.image_size, self.image_size), dtype=np.float32)


@dataclass(frozen=True)
class LoadedModel:
    """A generator, and its judge where one is known.

    An unconditional generator needs the judge to serve labels, the others to filter.
    """

    generator: Generator
    reader: Reader | None
    origin: str  # for people: where the generator came from
    version: str | None = None  # lekhani-D:N, when it is registered

    @property
    def classes(self) -> tuple[GlyphClass, ...]:
        """What it can write, in label order."""
        return self.generator.classes
