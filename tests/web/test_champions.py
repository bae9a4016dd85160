"""Champions change while requests run: good ones are swapped in, bad ones are not, and no request fails."""

import base64
import contextlib
import hashlib
import io
import logging
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import live_server
import numpy as np
import pytest
from fastapi.testclient import TestClient
from onnx_generators import with_swapped_labels
from PIL import Image
from toy_registry import DATASET, NAME, Registry, constant

from lekhani import files
from lekhani.errors import LekhaniError
from lekhani.evaluate.reference import Reference
from lekhani.pen import PRETRAINED, load
from lekhani.registry import models
from lekhani.serve.api import create_app
from lekhani.serve.champions import ModelSource, find_sources
from lekhani.serve.limits import Limits
from lekhani.tracking.store import connect

ASK = {"model": DATASET, "labels": ["0", "1", "2"], "n": 2, "seed": 5}
ToyGenerator = Callable[..., Path]


@contextlib.contextmanager
def serving(monitor_seconds: float = 60.0, folder: Path | None = None) -> Iterator[TestClient]:
    limits = Limits(batch=8)
    settings: dict[str, Any] = {"poll_seconds": 0.1, "monitor_seconds": monitor_seconds, "report_folder": folder}
    with TestClient(create_app([ModelSource(DATASET)], limits=limits, **settings)) as client:
        yield client


def version(client: TestClient) -> str:
    return str(client.get("/v1/models").json()[0]["version"])


def metric(client: TestClient, name: str, **labels: str) -> float:
    return client.app.state.metrics.registry.get_sample_value(name, {"dataset": DATASET, **labels}) or 0.0  # type: ignore[attr-defined]


def test_a_new_champion_is_swapped_in_without_a_failed_request(registry: Registry, tmp_path: Path) -> None:
    second = constant(registry.good, tmp_path / "second.onnx", "little", 0.03)
    registry.register("second", second)
    sheets = {
        files.sha256(path): load(path).generate(["0", "1", "2"], n=2, seed=5).images for path in (registry.good, second)
    }
    seen: list[str] = []
    wrong: list[Any] = []
    stop = threading.Event()

    def client_runs(client: TestClient) -> None:
        while not stop.is_set():
            answer = client.post("/v1/generate", json=ASK)
            if answer.status_code != 200:
                wrong.append(answer.text)
                continue
            value = answer.json()
            drawn = [np.asarray(Image.open(io.BytesIO(base64.b64decode(one["png"])))) for one in value["images"]]
            if not (np.stack(drawn) == sheets[value["model"]["sha256"]]).all():
                wrong.append("this model draws something else")
            seen.append(value["model"]["sha256"])

    with serving() as client:
        threads = [threading.Thread(target=client_runs, args=(client,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        live_server.until(lambda: len(seen) > 8)
        registry.promote("second")
        live_server.until(lambda: version(client) == registry.numbers["second"])
        more = len(seen) + 8
        live_server.until(lambda: len(seen) > more)
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert set(seen) == set(sheets)
        assert metric(client, "lekhani_model_swaps_total") == 1
        about = {"version": registry.numbers["second"], "variant": "flow_matching", "sha256": files.sha256(second)}
        assert metric(client, "lekhani_model_info", **about) == 1
        registry.promote("first")  # a rollback
        live_server.until(lambda: version(client) == registry.numbers["first"])


def test_damaged_confused_and_nan_models_are_not_served(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry.register(
        "damaged",
        constant(registry.good, tmp_path / "d.onnx", "little", 0.01),
        model_sha256=hashlib.sha256(b"other").hexdigest(),
    )
    centres = [[3 / 6, 1 / 6, 5 / 6]]
    judge = constant(registry.judge, tmp_path / "other" / "judge.onnx", "centres", centres)
    registry.register("swapped", with_swapped_labels(registry.good, tmp_path / "s.onnx", [1, 0, 2]), judge)
    registry.register("confused", with_swapped_labels(registry.good, tmp_path / "c.onnx", [1, 2, 0]))
    registry.register("nan", constant(registry.good, tmp_path / "n.onnx", "offset", np.nan))
    with serving() as client, caplog.at_level(logging.INFO, "lekhani"):
        for name, reason, sentence in (
            ("damaged", "fetch", "its SHA-256 differs"),
            ("confused", "self-test", "The judge reads 0.0% of what"),
            ("swapped", "self-test", "takes real images of 0 1 for other classes"),
            ("nan", "self-test", "gives images that are not finite numbers"),
        ):
            before = metric(client, "lekhani_models_kept_out_total", reason=reason)
            registry.promote(name)
            live_server.until(lambda sentence=sentence: sentence in str(client.get("/readyz").json()["trouble"]))
            assert client.get("/readyz").status_code == 200, "the old one is still served"
            assert version(client) == registry.numbers["first"]
            assert metric(client, "lekhani_models_kept_out_total", reason=reason) > before
            assert client.post("/v1/generate", json=ASK).status_code == 200
            time.sleep(0.5)
            assert sum(sentence in record.getMessage() for record in caplog.records) == 1, (
                "logged once, not at every poll"
            )
        if reason == "self-test":
            assert metric(client, "lekhani_models_kept_out_total", reason=reason) == 3, (
                "a version that failed is not tested again"
            )
        registry.promote("first")
        live_server.until(lambda: client.get("/readyz").json()["trouble"] == {})


def test_the_server_goes_on_while_the_registry_is_away(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as client:

        def away(_: str) -> models.Version:
            raise LekhaniError("MLflow does not answer.")

        live_server.until(lambda: metric(client, "lekhani_registry_up") == 1)
        with monkeypatch.context() as patch:
            patch.setattr(models, "newest", away)
            live_server.until(lambda: client.get("/readyz").json()["trouble"] == {DATASET: "MLflow does not answer."})
            assert client.get("/readyz").status_code == 200
            assert metric(client, "lekhani_registry_up") == 0
            assert client.post("/v1/generate", json=ASK).status_code == 200
        live_server.until(lambda: client.get("/readyz").json()["trouble"] == {})
        assert metric(client, "lekhani_registry_up") == 1


def test_a_judge_that_was_exchanged_is_not_served(registry: Registry, tmp_path: Path) -> None:
    registry.register("exchanged", constant(registry.good, tmp_path / "e.onnx", "little", 0.03))
    judge = models.fetch(DATASET, registry.numbers["exchanged"]).judge
    assert judge is not None
    constant(judge, judge, "centres", [[3 / 6, 1 / 6, 5 / 6]])
    with serving() as client:
        registry.promote("exchanged")
        said = "judge.onnx in MLflow at .* is not the file that was registered"
        live_server.until(lambda: re.search(said, str(client.get("/readyz").json()["trouble"])))
        assert version(client) == registry.numbers["first"]


def test_a_version_of_earlier_is_served_with_a_warning(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def earlier(path: Path) -> Reference:
        return replace(loaded(path), images=np.zeros((0, 4, 4), np.uint8), labels=np.zeros(0, np.int64))

    loaded = Reference.load
    monkeypatch.setattr(Reference, "load", earlier)
    with serving() as client:
        assert client.post("/v1/generate", json=ASK).status_code == 200
    assert "came without real images by which to test its judge" in caplog.text


def test_a_registry_that_is_moved_away_and_exchanged_is_noticed(
    store: Path, toy_generator: ToyGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "mlflow.db", tmp_path / "other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    good = toy_generator(tmp_path / "good.onnx", metadata={"dataset": DATASET})
    made = {"first": good, "second": constant(good, tmp_path / "second.onnx", "little", 0.03)}
    for name, generator in made.items():
        if path.exists():
            path.rename(other)
        shutil.copy(store / "mlflow.db", path)
        registry = Registry(tmp_path, generator)
        registry.register(name, generator)
        registry.promote(name)
        assert registry.numbers == {name: "1"}

    def served(client: TestClient) -> str:
        assert client.get("/readyz").status_code == 200
        return str(client.post("/v1/generate", json=ASK).json()["model"]["sha256"])

    def is_away(client: TestClient, sentence: str) -> bool:
        trouble = client.get("/readyz").json()["trouble"]
        return sentence in str(trouble) and metric(client, "lekhani_registry_up") == 0

    with serving() as client:
        assert served(client) == files.sha256(made["second"])
        path.rename(tmp_path / "away.db")
        live_server.until(lambda: is_away(client, "is not there; restore it"))
        assert served(client) == files.sha256(made["second"])
        other.rename(path)
        live_server.until(lambda: served(client) == files.sha256(made["first"]))
        live_server.until(lambda: client.get("/readyz").json()["trouble"] == {})
        assert metric(client, "lekhani_registry_up") == 1
        shutil.rmtree(models.fetch(DATASET, "1").generator.parents[1])
        live_server.until(lambda: is_away(client, f"of {NAME} version 1 in MLflow at"))
        assert served(client) == files.sha256(made["first"])
        connect().delete_registered_model(NAME)
        live_server.until(lambda: is_away(client, f"Nothing is registered as {NAME}"))
        assert served(client) == files.sha256(made["first"])


@pytest.mark.parametrize("asked", [[], ["devanagari"]])
def test_without_a_registry_the_pretrained_models_are_served(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = PRETRAINED / "devanagari"
    expected = ModelSource("devanagari", folder / "generator.onnx", folder / "judge.onnx")
    assert expected in find_sources(asked)
    assert list(tmp_path.iterdir()) == []
    with TestClient(create_app([expected])) as client:
        answer = client.post("/v1/generate", json={"model": "devanagari", "labels": ["\u0915"], "n": 1})
    assert answer.status_code == 200


def test_an_empty_registry_is_an_error_at_the_start(store: Path) -> None:
    app = create_app([ModelSource("never-registered")])
    with pytest.raises(LekhaniError, match="Nothing is registered as lekhani-never-registered"), TestClient(app):
        pass


def test_a_blurred_model_with_a_good_models_scorecard_raises_the_alarm(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry.register("blurred", constant(registry.good, tmp_path / "b.onnx", "little", 0.008))
    with serving(monitor_seconds=0.01, folder=tmp_path / "reports") as client:
        live_server.until(lambda: "drift" in client.get("/v1/models").json()[0]["watch"])
        client.post("/v1/generate", json=ASK | {"n": 50})
        time.sleep(0.5)
        measures = client.get("/v1/models").json()[0]["watch"]
        assert not any(one["alarm"] for one in measures.values()), "a good one raises none"
        assert metric(client, "lekhani_watch_alarm", measure="drift") == 0
        with caplog.at_level(logging.WARNING, "lekhani"):
            registry.promote("blurred")
            live_server.until(lambda: metric(client, "lekhani_watch_alarm", measure="drift") == 1)
            assert metric(client, "lekhani_watch", measure="drift") > 2 * metric(
                client, "lekhani_watch_promised", measure="drift"
            )
            assert "is worse than its scorecard promised" in caplog.text
    (report,) = (files.read_json(path) for path in (tmp_path / "reports").glob("*.json"))
    assert [one["measure"] for one in report["alarms"]] == ["drift"]
    assert report["models"][0]["watch"]["drift"]["alarm"] is True
    (page,) = (tmp_path / "reports").glob("*.md")
    assert "| **alarm** |" in page.read_text()
