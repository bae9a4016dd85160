"""A registered generator as MLflow loads and serves it: labels in, images out, by ONNX Runtime alone.

`runs.log_model` copies this file into every model that it logs (MLflow's "models from code"), so that loading one
reads no pickle. It travels without us: it imports neither lekhani nor torch.
"""

import hashlib
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
BATCH = 128


class GlyphModel(PythonModel):
    """One exported generator behind MLflow's interface.

    Input is a table with the column `label`, a row per image: a glyph, a class name or a digit of any script as text
    (so that "0" draws ०), a class number as an integer; a dict {"label": [...]} does as well. An optional column
    `noise` holds a vector of noise_dim floats for each row in place of the noise that is drawn. The parameter `seed`, 0
    by default, decides all that is drawn: the same seed and labels give the same images.

    Output has a row per image: `label` int, `class_name` and `glyph` as requested, and `image` uint8 [H,W], white on
    black, which JSON shows as nested lists. A generator that takes no label ignores the column `label`, and its output
    is `image` alone.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Open the ONNX file; raises MlflowException when it is not the one that was logged, by its SHA-256."""
        path = Path(context.artifacts["generator"])
        content = path.read_bytes()
        found, logged = hashlib.sha256(content).hexdigest(), context.model_config["model_sha256"]
        if found != logged:
            raise MlflowException(
                f"{path} has the SHA-256 {found[:12]}, but the model was logged with {logged[:12]}; "
                "it was changed or damaged, so fetch it again."
            )
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self.session = ort.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )  # what was checked is what is opened
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.classes: list[dict[str, Any]] = json.loads(metadata["classes"])
        self.noise_dim, self.image_size = int(metadata["noise_dim"]), int(metadata["image_size"])
        self.conditional = metadata["conditional"] == "true"
        self._numbers = {value: c["label"] for c in self.classes if (value := decimal(c["glyph"]))}
        self._numbers |= {c["name"]: c["label"] for c in self.classes}
        self._numbers |= {c["glyph"]: c["label"] for c in self.classes}
        self._inputs = {
            entry.name for entry in self.session.get_inputs()
        }  # an exporter drops an input that nothing reads

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:  # type: ignore[override]
        """Draw one image per row of `model_input`.

        Raises MlflowException, which a server answers with 400, for input that cannot be drawn.
        """
        table = model_input.explode("label")  # MLflow makes one row of {"label": ["क", "ख"]}
        count, seed = len(table), int((params or {}).get("seed", 0))
        if seed < 0:
            raise MlflowException.invalid_parameter_value(f"The seed is {seed}; it must be 0 or more.")
        labels = np.array([self._label(one) for one in table["label"]] if self.conditional else [0] * count, np.int64)
        noise = self._noise(table["noise"]) if "noise" in table else self._drawn(count, seed)
        images = np.empty((count, self.image_size, self.image_size), np.uint8)
        for start in range(0, count, BATCH):
            part = slice(start, start + BATCH)
            images[part] = np.rint(np.clip(self.run(noise[part], labels[part])[:, 0], 0, 1) * 255)
        asked = {"label": "label", "class_name": "name", "glyph": "glyph"} if self.conditional else {}
        columns = {column: [self.classes[label][key] for label in labels] for column, key in asked.items()}
        return pd.DataFrame({**columns, "image": list(images)})

    def run(self, noise: Floats, labels: Labels) -> Floats:
        """The ONNX file: noise float32 [N, noise_dim], labels int64 [N] -> images float32 [N,1,H,W] in [0,1].

        It is reached by `mlflow.pyfunc.load_model(uri).unwrap_python_model().run(...)`.
        """
        feed = {"noise": noise, "labels": labels}
        (images,) = self.session.run(None, {name: value for name, value in feed.items() if name in self._inputs})
        return images  # type: ignore[no-any-return]

    def _label(self, wanted: Any) -> int:
        if isinstance(wanted, int | np.integer) and not isinstance(wanted, bool) and 0 <= wanted < len(self.classes):
            return int(wanted)
        for meant in (wanted, decimal(wanted)) if isinstance(wanted, str) else ():
            if meant in self._numbers:
                return int(self._numbers[meant])
        glyphs = " ".join(c["glyph"] for c in self.classes)
        raise MlflowException.invalid_parameter_value(
            f"There is no class {str(wanted)[:40]!r}; valid are {glyphs}, names such as {self.classes[0]['name']}, "
            f"and the integers 0 to {len(self.classes) - 1}."
        )

    def _drawn(self, count: int, seed: int) -> Floats:
        return np.random.default_rng(seed).standard_normal((count, self.noise_dim), dtype=np.float32)

    def _noise(self, rows: "pd.Series[Any]") -> Floats:
        try:
            noise = np.array(rows.tolist(), np.float32).reshape(len(rows), self.noise_dim)
        except (TypeError, ValueError):
            noise = np.full((1, 1), np.nan, np.float32)
        if not np.isfinite(noise).all():
            raise MlflowException.invalid_parameter_value(
                f"The column noise must hold {self.noise_dim} finite numbers in each row."
            )
        return noise


def decimal(text: str) -> str:
    """A single digit of any script as 0 to 9; "" for all else."""
    return str(unicodedata.decimal(text, "")) if len(text) == 1 else ""


set_model(GlyphModel())
