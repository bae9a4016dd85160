"""The routes of the studio: what lies between seeds, registered versions, real images and trainings."""

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from toy_judge import toy_judge

from lekhani.inference.sampling import SamplingOptions, noise_source
from lekhani.pen import load
from lekhani.pictures import to_uint8
from lekhani.serve.api import create_app
from lekhani.serve.champions import ModelSource
from lekhani.serve.limits import Limits

ToyGenerator = Callable[..., Path]


@pytest.fixture(scope="module")
def source(toy_generator: ToyGenerator, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    folder = tmp_path_factory.mktemp("models")
    return ModelSource("mnist", toy_generator(folder / "g.onnx"), toy_judge(folder / "j.onnx"))


@pytest.fixture(scope="module")
def client(source: ModelSource) -> Iterator[TestClient]:
    with TestClient(create_app([source], limits=Limits(images=100))) as client:
        yield client


def pixels(answer: Any) -> Any:
    """The images of an answer in JSON, uint8 [N,H,W]."""
    assert answer.status_code == 200, answer.text
    return np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(i["png"])))) for i in answer.json()["images"]])


def sentence(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["detail"])


# --- between seeds ---


def test_a_point_is_drawn_of_noise_between_seeds(client: TestClient, source: ModelSource) -> None:
    assert source.model is not None
    generator = load(source.model).generator
    seven, twelve = (noise_source(generator, SamplingOptions(seed), 0)(1) for seed in (7, 12))
    mixes = [{"7": 1.0}, {"7": 3}, {"7": 0.8, "12": 0.6}, {"12": 5e307, "7": -5e307}]
    points = [{"label": label, "mix": mix} for label, mix in zip(["1", 1, "2", "2"], mixes, strict=True)]
    answer = client.post("/v1/explore", json={"model": "mnist", "points": points})
    root = np.float32(np.sqrt(0.5))
    noise = [seven, seven, np.float32(0.8) * seven + np.float32(0.6) * twelve, root * twelve - root * seven]
    drawn = to_uint8(generator.run(np.concatenate(noise), np.array([1, 1, 2, 2])))
    assert np.abs(pixels(answer).astype(int) - drawn).max() <= 1
    assert [one["glyph"] for one in answer.json()["images"]] == list("1122")
    generated = client.post("/v1/generate", json={"model": "mnist", "labels": ["1"], "seed": 7})
    assert (pixels(answer)[0] == pixels(generated)[0]).all(), "a seed alone is the seed of /v1/generate"
    assert 'lekhani_images_total{dataset="mnist"} 5' in client.get("/metrics").text


def test_points_that_cannot_be_drawn(client: TestClient) -> None:
    def refusal(*points: Any) -> str:
        return sentence(client.post("/v1/explore", json={"model": "mnist", "points": points}), 422)

    good = {"label": "1", "mix": {"1": 1.0}}
    assert "101 images are more than 100" in refusal(*[good] * 101)
    assert "not all 0" in refusal(good, {"label": "1", "mix": {"1": 0.0, "2": 0}})
    assert "give every point a label" in refusal({"mix": {"1": 1.0}})
    assert "no such class" in refusal({"label": "क", "mix": {"1": 1.0}})
    for mix in ({}, {"-1": 1.0}, {"x": 1.0}, {"07": 1.0}, {str(seed): 1.0 for seed in range(9)}, {"1": "1"}):
        assert "points.0.mix" in refusal({"label": "1", "mix": mix}), mix
    headers, body = {"Content-Type": "application/json"}, '{"points": [{"label": "1", "mix": {"1": NaN}}]}'
    assert "points.0.mix" in sentence(client.post("/v1/explore", content=body, headers=headers), 422)


def test_a_generator_without_labels_draws_what_is_unknown(toy_generator: ToyGenerator, tmp_path: Path) -> None:
    source = ModelSource("mnist", toy_generator(tmp_path / "g.onnx", conditional=False), toy_judge(tmp_path / "j.onnx"))
    with TestClient(create_app([source])) as client:
        points = [{"label": "of no class", "mix": {"1": 1.0}}, {"mix": {"1": 1.0}}, {"label": None, "mix": {"2": 1.0}}]
        ask = {"model": "mnist", "points": points}
        shown = pixels(answer := client.post("/v1/explore", json=ask))
        assert [(one["label"], one["glyph"]) for one in answer.json()["images"]] == [(-1, "")] * 3
        assert (shown[0] == shown[1]).all()
        assert (shown[0] != shown[2]).any()
        arrays = np.load(
            io.BytesIO(client.post("/v1/explore", json=ask, headers={"Accept": "application/x-npz"}).content)
        )
        assert arrays["labels"].tolist() == [-1] * 3
