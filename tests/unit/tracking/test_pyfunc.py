"""A registered generator is loaded and served by MLflow alone, and it is the file that was logged."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from services import answers, free_port, running

from lekhani.data.spec import DEVANAGARI
from lekhani.files import sha256
from lekhani.inference.session import Generator
from lekhani.registry import models
from lekhani.tracking import logged, runs

EXPERIMENT = "test-pyfunc"
ToyGenerator = Callable[..., Path]


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory, toy_generator: ToyGenerator) -> Path:
    """A toy that writes three Devanagari letters."""
    return toy_generator(tmp_path_factory.mktemp("model") / "generator.onnx", classes=DEVANAGARI[:3])


@pytest.fixture
def register(store: Path) -> Callable[[str, Path], str]:
    """Logs and registers a file as `lekhani-<name>` and gives the URI of its challenger."""

    def one(name: str, path: Path) -> str:
        uri = logged.log_model(runs.create_run(EXPERIMENT, name, "test", {}), path)
        models.register(name, uri, {"model_sha256": sha256(path)})
        return f"models:/lekhani-{name}@challenger"

    return one


@pytest.fixture
def model(register: Callable[[str, Path], str], conditional: Path) -> PyFuncModel:
    return mlflow.pyfunc.load_model(register("letters", conditional))


def pictures(found: pd.DataFrame) -> np.ndarray[Any, Any]:
    return np.stack(found["image"].tolist())


def test_it_draws_what_the_exported_file_draws(model: PyFuncModel, conditional: Path) -> None:
    labels = np.arange(150) % 3
    found = model.predict(pd.DataFrame({"label": labels}), params={"seed": 5})
    expected = Generator(conditional, "cpu").sample(labels, np.random.default_rng(5))
    assert pictures(found).dtype == np.uint8
    np.testing.assert_array_equal(pictures(found), expected)
    assert found["label"].tolist() == labels.tolist()
    assert found["glyph"].tolist() == [DEVANAGARI[label].glyph for label in labels]
    assert found["class_name"].tolist() == [DEVANAGARI[label].name for label in labels]
    again, other = (model.predict(pd.DataFrame({"label": labels}), params={"seed": seed}) for seed in (5, 6))
    np.testing.assert_array_equal(pictures(again), pictures(found))
    assert (pictures(other) != pictures(found)).any()


@pytest.mark.parametrize(
    "asked",
    [
        {"label": ["ग", "क"]},
        pd.DataFrame({"label": ["character_3_ga", "character_1_ka"]}),
        pd.DataFrame({"label": [2, "क"]}),
    ],
    ids=["dict", "names", "mixed"],
)
def test_a_label_is_a_glyph_a_name_or_a_number(model: PyFuncModel, asked: Any) -> None:
    found = model.predict(asked)
    assert found["label"].tolist() == [2, 0]
    bright = pictures(found).mean((1, 2))
    assert bright[0] > bright[1] + 100, "the label reaches the file"


def test_a_digit_as_text_is_the_digit_and_never_a_class_number(
    register: Callable[[str, Path], str], toy_generator: ToyGenerator, tmp_path: Path
) -> None:
    classes = tuple(replace(one, label=label) for label, one in enumerate((DEVANAGARI[0], *DEVANAGARI[36:46])))
    path = toy_generator(tmp_path / "generator.onnx", classes=classes)
    loaded = mlflow.pyfunc.load_model(register("digits", path))
    asked = pd.DataFrame({"label": pd.Series(["0", "९", "٣", 0], dtype=object)})
    assert loaded.predict(asked)["glyph"].tolist() == ["०", "९", "३", "क"]


NO_CLASS = r"There is no class '.+'; valid are क ख ग, names such as character_1_ka, and the integers 0 to 2\."
NO_NOISE = r"The column noise must hold 16 finite numbers in each row\."


@pytest.mark.parametrize(
    ("table", "seed", "sentence"),
    [
        *(({"label": ["क", wrong]}, 0, NO_CLASS) for wrong in ("Q", "0", -1, 3, 1.5, True, None)),
        *(({"label": [0], "noise": [wrong]}, 0, NO_NOISE) for wrong in ([0.0] * 15, [float("nan")] * 16)),
        ({"label": ["क"]}, -1, r"The seed is -1; it must be 0 or more\."),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(
    model: PyFuncModel, table: dict[str, list[Any]], seed: int, sentence: str
) -> None:
    columns = {name: pd.Series(values, dtype=object) for name, values in table.items()}
    with pytest.raises(MlflowException, match=sentence) as caught:
        model.predict(pd.DataFrame(columns), params={"seed": seed})
    assert caught.value.get_http_status_code() == 400


def test_noise_of_the_caller_s_own(model: PyFuncModel, conditional: Path) -> None:
    noise, labels = np.random.default_rng(1).standard_normal((2, 16), dtype=np.float32), np.array([0, 2])
    found = model.predict(pd.DataFrame({"label": labels, "noise": [row.tolist() for row in noise]}))
    raw = Generator(conditional, "cpu").run(noise, labels)
    np.testing.assert_array_equal(pictures(found), np.rint(raw[:, 0] * 255))


def test_an_unconditional_one_ignores_the_label_and_says_so(
    register: Callable[[str, Path], str], toy_generator: ToyGenerator, tmp_path: Path
) -> None:
    path = toy_generator(tmp_path / "generator.onnx", conditional=False)
    loaded = mlflow.pyfunc.load_model(register("free", path))
    found = loaded.predict(pd.DataFrame({"label": ["anything", "at all"]}), params={"seed": 3})
    assert list(found.columns) == ["image"], "it does not draw what was requested"
    expected = Generator(path, "cpu").sample(np.zeros(2, np.int64), np.random.default_rng(3))
    np.testing.assert_array_equal(pictures(found), expected)
    assert loaded.metadata.metadata["label"] == "ignored: this generator takes no label"


def test_a_changed_file_is_refused_in_a_sentence(
    register: Callable[[str, Path], str], conditional: Path, tmp_path: Path
) -> None:
    stored = Path(mlflow.artifacts.download_artifacts(register("tampered", conditional)))
    folder = tmp_path / "copy"
    shutil.copytree(stored, folder)
    mlflow.pyfunc.load_model(str(folder))
    path = folder / "artifacts" / "generator.onnx"
    path.write_bytes(path.read_bytes().replace(b"flow_matching", b"flow_matchinG"))
    told = r"generator.onnx has the SHA-256 \w{12}, but the model was logged with \w{12}; it was changed"
    with pytest.raises(MlflowException, match=told):
        mlflow.pyfunc.load_model(str(folder))


FOREIGN = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "lekhani", "onnx"}:
            raise ImportError(f"{name} must not be needed")

sys.meta_path.insert(0, Refuse())
import mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
found = model.predict(model.input_example, params={"seed": 7})
print(len(found), sorted({"torch", "lekhani", "onnx"} & set(sys.modules)))
"""


def test_it_needs_neither_torch_nor_lekhani(
    register: Callable[[str, Path], str], conditional: Path, tmp_path: Path
) -> None:
    words = [sys.executable, "-c", FOREIGN, register("foreign", conditional)]
    done = subprocess.run(
        words, cwd=tmp_path, env=elsewhere(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "3 []", done.stderr[-600:]


def elsewhere() -> dict[str, str]:
    """The environment without the path of this project's source."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
        "PYTHONSAFEPATH": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


@pytest.fixture
def served(register: Callable[[str, Path], str], conditional: Path, tmp_path: Path) -> Iterator[str]:
    """The address of `mlflow models serve`."""
    port, uri = free_port(), register("served", conditional)
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "-h", "127.0.0.1", "-p", str(port)]
    command += ["--env-manager", "local"]
    settings = elsewhere() | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ready = partial(answers, f"http://127.0.0.1:{port}/ping")
    with running(command, ready, tmp_path / "log", end=signal.SIGTERM, cwd=tmp_path, env=settings):
        yield f"http://127.0.0.1:{port}/invocations"


def test_mlflow_serves_it(served: str, conditional: Path) -> None:
    def ask(**body: Any) -> requests.Response:
        return requests.post(served, data=json.dumps(body), headers={"Content-Type": "application/json"}, timeout=20)

    expected = Generator(conditional, "cpu").sample(np.array([2, 0]), np.random.default_rng(4)).tolist()
    for form in ({"inputs": {"label": ["ग", "क"]}}, {"dataframe_records": [{"label": 2}, {"label": 0}]}):
        answer = ask(**form, params={"seed": 4})
        assert answer.status_code == 200, answer.text
        rows = answer.json()["predictions"]
        assert [row["glyph"] for row in rows] == ["ग", "क"]
        assert [row["image"] for row in rows] == expected
    assert ask(inputs={"label": ["Q"]}).status_code == 400


def test_what_is_logged_with_it(store: Path, conditional: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a folder # of 50%25"
    folder.mkdir()
    for name in ("model_card.md", "grid.png"):
        (folder / name).write_text(name)
    shutil.copy(conditional, folder / "generator.onnx")
    run_id = runs.create_run(EXPERIMENT, "with", "test", {})
    uri = logged.log_model(run_id, folder / "generator.onnx", [folder / "model_card.md", folder / "grid.png"])
    info = mlflow.models.get_model_info(uri)
    assert info.signature.outputs.input_names() == ["label", "class_name", "glyph", "image"]
    assert info.metadata["model_sha256"] == sha256(conditional)
    stored = Path(mlflow.artifacts.download_artifacts(uri))
    required = [line.split("==")[0] for line in (stored / "requirements.txt").read_text().split()]
    assert sorted(required) == ["mlflow", "numpy", "onnxruntime", "pandas"]
    names = sorted(path.name for path in (stored / "artifacts").iterdir())
    assert names == ["generator.onnx", "grid.png", "model_card.md"]
    assert not list(stored.rglob("*.pkl"))
