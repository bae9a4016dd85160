"""A generator or judge in ONNX Runtime: what evaluation scores and what users run are the same few lines."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from lekhani.data.spec import Bytes, GlyphClass, Labels
from lekhani.errors import LekhaniError, first_line
from lekhani.files import sha256
from lekhani.pictures import to_uint8

log = logging.getLogger("lekhani")
Floats = npt.NDArray[np.float32]


def open_session(path: Path, provider: str = "auto") -> ort.InferenceSession:
    """Open an ONNX file: `auto` takes CUDA when it works here and the CPU otherwise; `cpu` stays on the CPU.

    Raises LekhaniError when the file is missing or no ONNX model.
    """
    wanted = ["CPUExecutionProvider"]
    if provider == "auto" and "CUDAExecutionProvider" in ort.get_available_providers() and _gpu_present():
        ort.preload_dlls()
        wanted.insert(0, "CUDAExecutionProvider")
    if not path.is_file():
        raise LekhaniError(f"There is no model at {path}; train one with `dvc repro`, or pass --model FILE.onnx.")
    try:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        session = ort.InferenceSession(path, options, providers=wanted)
    except Exception as error:  # onnxruntime raises several classes of its own
        raise LekhaniError(f"{path} cannot be opened as an ONNX model: {first_line(error)}") from error
    if len(wanted) > len(session.get_providers()):
        log.warning("CUDA was asked for but does not work here; running on the CPU.")
    return session


def _gpu_present() -> bool:
    # onnxruntime-gpu lists CUDA on machines without a GPU too, and logs an error when it is then asked for.
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists()


class Generator:
    """One exported generator: (noise, labels) -> images.

    Attributes: `classes` in label order, `image_size` pixels, `noise_dim`, `conditional`, `dataset`, `variant`, `sha256`.
    """

    def __init__(self, path: Path, provider: str = "auto") -> None:
        """Open the file and read what its metadata tells; raises LekhaniError when it is no generator of ours."""
        self.path = path
        self.session = open_session(path, provider)
        metadata = self.session.get_modelmeta().custom_metadata_map
        try:
            self.dataset, self.variant = metadata["dataset"], metadata["variant"]
            self.classes = tuple(GlyphClass(**entry) for entry in json.loads(metadata["classes"]))
            self.noise_dim, self.image_size = int(metadata["noise_dim"]), int(metadata["image_size"])
            self.conditional = metadata["conditional"] == "true"
        except (KeyError, ValueError, TypeError) as error:
            raise LekhaniError(f"{path} is no generator exported by lekhani: its metadata lacks or garbles {error}.") from error
        self.sha256 = sha256(path)
        self._inputs = {entry.name for entry in self.session.get_inputs()}  # an exporter drops an input that nothing reads

    def run(self, noise: Floats, labels: Labels) -> Floats:
        """One call: noise float32 [N, noise_dim], labels int64 [N] -> images float32 [N,1,H,W] in [0,1]."""
        feed = {"noise": noise, "labels": labels}
        (images,) = self.session.run(None, {name: value for name, value in feed.items() if name in self._inputs})
        return images  # type: ignore[no-any-return]

    def draw(self, labels: Labels, rng: np.random.Generator, batch_size: int = 128) -> Iterator[Bytes]:
        """Draw one image per label, as uint8 batches [n,H,W], with noise from `rng`."""
        for start in range(0, len(labels), batch_size):
            chosen = labels[start : start + batch_size]
            noise = rng.standard_normal((len(chosen), self.noise_dim), dtype=np.float32)
            yield to_uint8(self.run(noise, chosen))


class Reader:
    """A judge as ONNX: images -> features and logits. Attributes: `classes` in label order, `dataset`, `sha256`."""

    def __init__(self, path: Path, provider: str = "auto") -> None:
        """Open judge.onnx; raises LekhaniError when it is none of ours."""
        self.session, self.sha256 = open_session(path, provider), sha256(path)
        metadata: dict[str, Any] = self.session.get_modelmeta().custom_metadata_map
        try:
            self.dataset = metadata["dataset"]
            self.classes = tuple(GlyphClass(**entry) for entry in json.loads(metadata["classes"]))
        except (KeyError, ValueError, TypeError) as error:
            raise LekhaniError(f"{path} is no judge exported by lekhani: its metadata lacks or garbles {error}.") from error

    def read(self, images: Bytes, batch_size: int = 512) -> tuple[Floats, Floats]:
        """Features float32 [N,128] and logits float32 [N,K] of uint8 images [N,H,W], white on black."""
        parts = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size, None].astype(np.float32) / 255
            parts.append(self.session.run(None, {"images": batch}))
        features, logits = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return features, logits
