"""Glyphs step by step over HTTP are those of the Python API, of the served model and of the package's."""

import base64
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from stepwise_toy import STEPS, stepwise_generator

from lekhani.inference.sampling import SamplingOptions, noise_source
from lekhani.inference.session import Generator
from lekhani.inference.stepwise import StepwiseSession
from lekhani.pictures import to_uint8
from lekhani.serve import champions
from lekhani.serve.api import create_app
from lekhani.serve.champions import ModelSource

ASK = {"model": "mnist", "variant": "draw", "labels": ["1", 2, "0"], "seed": 7}


@pytest.fixture(scope="module")
def package(toy_generator: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models as the package has them: a generator in one go, and two in steps, of which one tells its windows."""
    folder = tmp_path_factory.mktemp("package") / "mnist"
    folder.mkdir()
    shutil.copy(toy_generator(folder.parent / "g.onnx"), folder / "generator.onnx")
    stepwise_generator(folder / "draw.onnx", windows=True)
    stepwise_generator(folder / "draw_plain.onnx")
    return folder


@pytest.fixture(scope="module")
def client(package: Path) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(champions, "PRETRAINED", package.parent)
        with TestClient(create_app([ModelSource("mnist", package / "generator.onnx")])) as client:
            yield client


def decoded(frames: list[list[str]]) -> Any:
    return np.array([[np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))) for png in step] for step in frames])


@pytest.mark.parametrize("variant", ["draw", "draw_plain"])
def test_the_steps_of_each_variant(client: TestClient, package: Path, variant: str) -> None:
    (model,) = client.get("/v1/models").json()
    assert model["animated"] == ["draw", "draw_plain"], "the served model writes in one go"
    answer = client.post("/v1/steps", json=ASK | {"variant": variant})
    assert answer.status_code == 200, answer.text
    value = answer.json()
    assert (value["model"]["dataset"], value["variant"], value["seed"]) == ("mnist", variant, 7)
    generator = Generator(package / f"{variant}.onnx")
    noise = noise_source(generator, SamplingOptions(7), 0)(3)
    images, windows = StepwiseSession(generator).watch(noise, np.array([1, 2, 0]))
    np.testing.assert_array_equal(decoded(value["frames"]), [to_uint8(step) for step in images])
    assert len(value["windows"]) == len(value["frames"]) == STEPS + 1
    assert value["windows"][0] == [None] * 3, "nothing is written before the first step"
    if windows is None:
        assert value["windows"] == [[None] * 3] * (STEPS + 1)
    else:
        found = [[[square[side] for side in ("x", "y", "width")] for square in step] for step in value["windows"][1:]]
        np.testing.assert_allclose(found, windows, rtol=1e-6)


def test_the_served_model_comes_first(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(champions, "PRETRAINED", package.parent)
    served = stepwise_generator(tmp_path / "own.onnx", conditional=True)
    with TestClient(create_app([ModelSource("mnist", served)])) as client:
        (model,) = client.get("/v1/models").json()
        assert model["animated"] == ["draw", "draw_plain"]
        value = client.post("/v1/steps", json=ASK).json()
        assert value["windows"][-1] == [None] * 3, "not the package's"
        last = decoded(value["frames"])[-1]
        written = client.post("/v1/generate", json={"model": "mnist", "labels": ASK["labels"], "seed": 7}).json()
        np.testing.assert_array_equal(last, decoded([[one["png"] for one in written["images"]]])[0])


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        ({"variant": "turbo"}, 404, "There is no variant turbo of mnist to watch; there are: draw, draw_plain."),
        ({"model": "own"}, 404, "There is no model own here"),
        ({"labels": ["क"]}, 422, "no such class"),
        ({"labels": ["1"] * 25}, 422, "labels: These are too many; send at most 24."),
    ],
)
def test_what_is_refused(client: TestClient, change: dict[str, Any], status: int, sentence: str) -> None:
    answer = client.post("/v1/steps", json=ASK | change)
    assert (answer.status_code, sentence in answer.json()["detail"]) == (status, True), answer.text
