"""The routes of the studio: what lies between seeds, registered versions, real images and trainings."""

import base64
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from toy_judge import toy_judge
from toy_registry import DATASET, NAME, Registry, constant

from lekhani.inference.sampling import SamplingOptions, noise_source
from lekhani.pen import PRETRAINED, load
from lekhani.pictures import to_uint8
from lekhani.registry import models
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


# --- versions ---


def test_a_version_writes_beside_the_champion(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = constant(registry.good, tmp_path / "second.onnx", "little", 0.03)
    registry.register("second", second, usefulness="0.9", fid_ratio="1.25")
    fetched: list[str] = []
    fetch = models.fetch
    monkeypatch.setattr(models, "fetch", lambda *given, **more: fetched.append(given[1]) or fetch(*given, **more))
    first, number = registry.numbers["first"], registry.numbers["second"]
    ask: dict[str, Any] = {"model": DATASET, "labels": ["0", "1", "2"], "seed": 5}
    points = [{"label": label, "mix": {"5": 1.0}} for label in ("0", "1", "2")]
    with TestClient(create_app([ModelSource(DATASET)])) as client, ThreadPoolExecutor() as pool:
        fetched.clear()
        both = [pool.submit(client.post, "/v1/generate", json={**ask, "version": number}) for _ in range(2)]
        expected = load(second).generate(["0", "1", "2"], seed=5).images
        for answer in (one.result(60) for one in both):
            assert (pixels(answer) == expected).all()
            assert answer.json()["model"]["version"] == number
        explored = client.post("/v1/explore", json={"model": DATASET, "points": points, "version": number})
        assert (pixels(explored)[0] == expected[0]).all()
        assert fetched == [number], "two requests at once load it once"
        sure = client.post("/v1/generate", json={**ask, "version": number, "min_confidence": 0.5})
        assert sure.status_code == 200, "with its judge"
        for named in (first, "", None):
            assert client.post("/v1/generate", json={**ask, "version": named}).json()["model"]["version"] == first
        assert fetched == [number], "the champion is there"
        listed = client.get("/v1/versions", params={"model": DATASET}).json()
        assert [(one["version"], one["aliases"], one["variant"], one["url"]) for one in listed] == [
            (number, ["challenger"], "toy", None),
            (first, ["champion"], "toy", None),
        ]
        assert listed[0]["figures"] == {"fid_ratio": 1.25, "label_agreement": None, "usefulness": 0.9}
        for wrong in ("999999", "0", "newest", "\u0967"):
            refused = client.post("/v1/generate", json={**ask, "version": wrong})
            assert f"GET /v1/versions?model={DATASET} lists those" in sentence(refused, 404)
        registry.register("damaged", constant(registry.good, tmp_path / "damaged.onnx", "little", 0.01))
        damaged = registry.numbers["damaged"]
        fetch(DATASET, damaged).generator.write_bytes(b"no model")
        refused = client.post("/v1/generate", json={**ask, "version": damaged})
        assert f"as {NAME} version {damaged}: its SHA-256 differs" in sentence(refused, 422)
        with monkeypatch.context() as away:
            away.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
            away.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            asked = client.get("/v1/versions", params={"model": DATASET})
            assert "MLflow at http://127.0.0.1:9" in sentence(asked, 503)
            assert client.post("/v1/generate", json={**ask, "version": number}).status_code == 200, "it is loaded"


def test_the_page_of_a_version_in_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example.org/team/")
    assert models.page_of("mnist", "3") == "https://mlflow.example.org/team/#/models/lekhani-mnist/versions/3"


def test_only_a_few_versions_stay_loaded(registry: Registry) -> None:
    for name in "abcde":
        registry.register(name, registry.good)
    with TestClient(create_app([ModelSource(DATASET)])) as client:
        loaded = client.app.state.versions._loaded  # type: ignore[attr-defined]
        for name in "abcdae":
            body = {"model": DATASET, "labels": ["0"], "version": registry.numbers[name]}
            assert client.post("/v1/generate", json=body).status_code == 200
        assert [number for _, number in loaded] == [registry.numbers[name] for name in "cdae"]


def test_what_is_served_from_a_file_is_its_only_version(client: TestClient) -> None:
    (only,) = client.get("/v1/versions", params={"model": "mnist"}).json()
    assert (only["version"], only["aliases"], only["variant"], only["url"]) == ("", [], "flow_matching", None)
    asked = client.post("/v1/generate", json={"model": "mnist", "labels": ["1"], "version": "3"})
    assert "served from a file" in sentence(asked, 404)
    folder = PRETRAINED / "mnist"
    with TestClient(create_app([ModelSource("mnist", folder / "generator.onnx", folder / "judge.onnx")])) as other:
        (only,) = other.get("/v1/versions", params={"model": "mnist"}).json()
    assert 1 < only["figures"]["fid_ratio"] < 10
    assert 0.9 < only["figures"]["label_agreement"] <= 1
