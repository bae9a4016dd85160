"""The routes of the studio: what lies between seeds, registered versions, real images and trainings."""

import base64
import io
import os
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

from lekhani import files
from lekhani.data import spec
from lekhani.evaluate.reference import Reference
from lekhani.inference.sampling import SamplingOptions, noise_source
from lekhani.inference.session import Reader
from lekhani.pen import PRETRAINED, load
from lekhani.pictures import to_uint8
from lekhani.registry import models
from lekhani.serve.api import create_app
from lekhani.serve.champions import ModelSource
from lekhani.serve.limits import Limits
from lekhani.train.reporter import CurveFiles

ToyGenerator = Callable[..., Path]


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


# --- real images ---


def test_real_images_come_with_the_version(registry: Registry, tmp_path: Path) -> None:
    reference = Reference.of(Reader(registry.judge), registry.real.images, registry.real.labels)
    ask = {"model": DATASET, "label": ["2", "0"], "n": 3, "seed": 1}
    with TestClient(create_app([ModelSource(DATASET)])) as client:
        shown = pixels(answer := client.get("/v1/real", params=ask))
        assert [one["glyph"] for one in answer.json()["images"]] == list("222000")
        assert answer.json()["model"]["version"] == registry.numbers["first"]
        for image, label in zip(shown, [2, 2, 2, 0, 0, 0], strict=True):
            assert any((image == real).all() for real in reference.images[reference.labels == label])
        assert len({image.tobytes() for image in shown[:3]}) == 3, "without repetition"
        assert (pixels(client.get("/v1/real", params=ask)) == shown).all()
        assert (pixels(client.get("/v1/real", params={**ask, "seed": 2})) != shown).any()
        assert (pixels(client.get("/v1/real", params={**ask, "label": ["0"]})) == shown[3:]).all()
        assert len(pixels(client.get("/v1/real", params={**ask, "n": 50}))) == 16, "there are no more"


def test_real_images_of_the_prepared_data(client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ask = {"model": "mnist", "label": "1", "n": 4}
    nothing = client.get("/v1/real", params=ask)
    assert "There are no real images of 1 (mnist) here; run `dvc repro prepare@mnist`" in sentence(nothing, 404)
    images = np.arange(40 * 16, dtype=np.uint16).astype(np.uint8).reshape(40, 4, 4)
    labels = np.arange(40, dtype=np.int64) % 3
    counts = {"train": 30, "test": 10}
    source = {"name": "toy", "version": "1", "sha256": "0" * 64}
    made = spec.digest(images, labels, counts)
    folder = tmp_path / "data" / "prepared" / "mnist"
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    files.write_json(
        folder / "dataset.json", spec.DatasetInfo("mnist", "", 4, spec.MNIST[:3], counts, source, made).to_dict()
    )
    shown = pixels(client.get("/v1/real", params=ask))
    expected = images[30:][labels[30:] == 1]
    assert {image.tobytes() for image in shown} == {image.tobytes() for image in expected}, "of the test split"
    (folder / "images.npy").write_bytes(b"half")
    files.write_json(folder / "dataset.json", {"damaged": True})
    assert "no real images" in sentence(client.get("/v1/real", params=ask), 404)
    assert "no such class" in sentence(client.get("/v1/real", params={**ask, "label": "9"}), 422)
    assert "200 images are more than 100" in sentence(client.get("/v1/real", params={**ask, "n": 200}), 422)


# --- trainings ---


def test_trainings_while_they_run_and_afterwards(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert client.get("/v1/training").json() == []
    running, done = Path("checkpoints/mnist/turbo"), Path("reports/mnist/dcgan")
    for folder in (running, done, Path("reports/mnist/turbo"), Path("reports/scorecards/mnist-dcgan")):
        reporter = CurveFiles(folder)
        reporter.resume(0)
        for step in range(1, 701):
            values = {"images_seen": 64.0 * step, "loss": 1 / step, "images_per_second": 9.0, "seconds_left": 1.0}
            reporter.metrics(step, values)
        reporter.scores(700, {"images_seen": 44800.0, "judge_fid": 0.5})
        reporter.images(350, np.zeros((4, 4), np.uint8))
        reporter.images(700, np.full((4, 4), 255, np.uint8))
    (Path("reports/scorecards/mnist-dcgan/losses.csv")).unlink()
    with (running / "losses.csv").open("a") as file:
        file.write("701,44864,nan\n702,44928,0.1\n703,44")
    with (running / "scores.csv").open("ab") as damaged:
        damaged.write(b"\xff\x00")
    (running / "samples" / "000700.png").write_bytes((running / "samples" / "000700.png").read_bytes()[:50])
    for path in (done, *done.rglob("*")):
        os.utime(path, (1e9, 1e9))
    first, second = client.get("/v1/training").json()
    assert (first["dataset"], first["variant"], first["running"], first["total"]) == ("mnist", "turbo", True, None)
    assert first["images_seen"] == 44928
    assert list(first["curves"]) == ["loss"], "the damaged scores are left out"
    curve = first["curves"]["loss"]
    assert (len(curve), curve[0], curve[-1]) == (300, [64, 1.0], [44928, 0.1])
    assert np.asarray(Image.open(io.BytesIO(base64.b64decode(first["grid"])))).max() == 0, "the newest whole one"
    assert (second["variant"], second["running"], second["updated"]) == ("dcgan", False, "2001-09-09T01:46:40Z")
    assert (second["images_seen"], second["total"]) == (44800, 44800)
    assert second["curves"]["judge_fid"] == [[44800, 0.5]]
    for path in running.rglob("*"):
        os.utime(path, (2e9, 1e9 + 1))
    assert [one["running"] for one in client.get("/v1/training").json()] == [False, False]
    (running / "losses.csv").write_bytes(b"\x00\xff")
    assert client.get("/v1/training").json()[0]["curves"] == {}


# --- beside them ---


def test_glyphs_and_lines_as_parquet(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    headers = {"Accept": "application/vnd.apache.parquet"}
    ask: dict[str, Any] = {"model": "mnist", "labels": ["1", "2"], "n": 2, "seed": 7}
    answer = client.post("/v1/generate", json=ask, headers=headers)
    assert answer.headers["content-type"] == headers["Accept"]
    table = pq.read_table(io.BytesIO(answer.content))
    assert table["label"].to_pylist() == [1, 1, 2, 2]
    assert table["glyph"].to_pylist() == list("1122")
    stored = [np.asarray(Image.open(io.BytesIO(one["bytes"]))) for one in table["image"].to_pylist()]
    assert (np.stack(stored) == pixels(client.post("/v1/generate", json=ask))).all()
    line = {"model": "mnist", "text": "1 2", "n": 2, "seed": 2**63 - 1}
    table = pq.read_table(io.BytesIO(client.post("/v1/compose", json=line, headers=headers).content))
    assert table.column_names == ["image", "text", "seed"]
    assert table["text"].to_pylist() == ["1 2"] * 2
    assert table["seed"].to_pylist() == [2**63 - 1, 2**63]
    assert Image.open(io.BytesIO(table["image"][0]["bytes"].as_py())).mode == "RGB"
    assert b'"image": {"_type": "Image"}' in table.schema.metadata[b"huggingface"]
    monkeypatch.setattr("lekhani.serve.responses.find_spec", lambda _: None)
    assert "pip install 'lekhani[parquet]'" in sentence(client.post("/v1/generate", json=ask, headers=headers), 406)
    either = client.post("/v1/generate", json=ask, headers={"Accept": f"{headers['Accept']}, image/png;q=0.5"})
    assert either.headers["content-type"] == "image/png"


def test_lines_look_as_asked(client: TestClient, source: ModelSource) -> None:
    assert source.model is not None
    pen = load(source.model, source.judge)
    for look in (
        {"paper": "squared", "augment": "none", "light_on_dark": True},
        {"without": ["ink", "paper"], "min_confidence": 0.9},
        {"augment": "none", "ink": "blue"},
    ):
        answer = client.post("/v1/compose", json={"model": "mnist", "text": "12", "seed": 3, **look})
        assert answer.status_code == 200, answer.text
        (line,) = answer.json()["lines"]
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(line["png"]))))
        assert (shown == np.asarray(pen.compose("12", seed=3, **look))).all(), look  # type: ignore[arg-type]
    darkest = shown.reshape(-1, 3)[shown.sum(2).argmin()]
    assert darkest[2] > darkest[:2].max(), "the ink is blue"


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("compose", {"text": ""}, "text: There is nothing in it; send at least one character."),
        ("compose", {"text": "1" * 201}, "text: It is too long; send at most 200 characters."),
        ("compose", {}, "text: It is missing; send it too."),
        ("compose", {"text": "1", "height": 5}, "height: It is too small; send 16 or more."),
        ("compose", {"text": "1", "height": 64.5}, "height: It is no whole number; send one."),
        (
            "compose",
            {"text": "1", "paper": "blue"},
            "paper: There is no such choice; send 'plain', 'ruled' or 'squared'.",
        ),
        ("compose", {"text": "1", "colour": 1}, "colour: There is no such field; leave it out."),
        ("generate", {"labels": []}, "labels: There is nothing in it; send at least one."),
        ("generate", {"labels": ["1", -1]}, "labels.1: It is too small; send 0 or more."),
        (
            "explore",
            {"points": [{"mix": {"x": 1}}]},
            "points.0.mix.x: It is not written as the schema wants it; see GET",
        ),
        ("real?model=mnist&label=1&n=many", None, "n: It is no whole number; send one."),
        ("real", None, "model: It is missing; send it too."),
    ],
)
def test_what_is_wrong_is_said_in_words_for_people(client: TestClient, path: str, body: Any, expected: str) -> None:
    answer = client.get(f"/v1/{path}") if body is None else client.post(f"/v1/{path}", json=body)
    assert sentence(answer, 422).startswith(expected)
