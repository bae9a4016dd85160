"""Champions come and go in the registry while requests run: good ones are taken over, others kept out, and nobody notices but the log."""

import contextlib
import hashlib
import io
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
import onnx_surgery as surgery
import pytest
import toys
from fastapi.testclient import TestClient
from onnx import numpy_helper

from lekhani import files
from lekhani.errors import LekhaniError
from lekhani.inference.session import Reader
from lekhani.pen import load
from lekhani.registry import models
from lekhani.serve.api import create_app
from lekhani.serve.champions import Choice
from lekhani.serve.limits import Limits
from lekhani.serve.monitor import Reference
from lekhani.tracking import runs
from lekhani.tracking.store import connect

DATASET = "served-toys"
ASK = {"model": DATASET, "labels": ["0", "1", "2"], "n": 2, "seed": 5}
NAME = f"lekhani-{DATASET}"
ToyGenerator = Callable[..., Path]


def constant(source: Path, target: Path, name: str, value: Any) -> Path:
    """The same network with another value of one of its constants."""
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, np.float32), name))
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, target)
    return target


class Registry:
    """Registered versions of toys by name, each with its judge, its scorecard and a reference of real images."""

    def __init__(self, folder: Path, good: Path) -> None:
        self.folder, self.good = folder, good
        self.judge = toys.judge(folder / "judge.onnx")
        self.numbers: dict[str, str] = {}
        self.reader = Reader(self.judge)
        real = load(good).generate(["0", "1", "2"], n=700, seed=100).images
        self.reference = Reference.of(self.reader, real)
        again = load(good).generate(["0", "1", "2"], n=700, seed=101).images
        fid = self.reference.distance(self.reader.read(again)[0])
        self.card = {"fid": fid, "fid_std": fid / 10, "n_generated": 2100, "label_agreement": 1.0, "classes_covered": 3}

    def register(self, name: str, path: Path, **tags: str) -> None:
        """As `lekhani register` does; the scorecard promises what the good one keeps."""
        beside = self.folder / name
        beside.mkdir()
        files.write_json(beside / "scorecard.json", self.card)
        self.reference.save(beside / "reference.npz")
        with runs.resume(None, "test-serving", name, {}) as run_id:
            uri = runs.log_model(path, sorted(beside.iterdir()))
            mlflow.log_artifact(str(self.judge), "judge")
        assert run_id
        version = models.register(DATASET, uri, {"variant": "toy", "model_sha256": files.sha256(path), **tags})
        self.numbers[name] = str(version.version)

    def crown(self, name: str) -> None:
        connect().set_registered_model_alias(NAME, "champion", self.numbers[name])


@pytest.fixture
def registry(store: Path, toy_generator: ToyGenerator, tmp_path: Path) -> Iterator[Registry]:
    made = Registry(tmp_path, toy_generator(tmp_path / "good.onnx", metadata={"dataset": DATASET}))
    made.register("first", made.good)
    made.crown("first")
    yield made
    connect().delete_registered_model(NAME)


@contextlib.contextmanager
def serving(look_seconds: float = 60.0, folder: Path | None = None) -> Iterator[TestClient]:
    limits = Limits(batch=8)
    with TestClient(
        create_app([Choice(DATASET)], limits=limits, poll_seconds=0.1, look_seconds=look_seconds, report_folder=folder)
    ) as client:
        yield client


def version(client: TestClient) -> str:
    return str(client.get("/v1/models").json()[0]["version"])


def metric(client: TestClient, name: str, **labels: str) -> float:
    return client.app.state.metrics.registry.get_sample_value(name, {"dataset": DATASET, **labels}) or 0.0  # type: ignore[attr-defined]


def test_a_new_champion_takes_over_without_a_request_lost(registry: Registry, tmp_path: Path) -> None:
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
            digest = answer.json()["model"]["sha256"]
            arrays = np.load(
                io.BytesIO(client.post("/v1/generate", json=ASK, headers={"accept": "application/x-npz"}).content)
            )
            if not any((arrays["images"] == sheet).all() for sheet in sheets.values()):
                wrong.append("neither model draws this")
            seen.append(digest)

    with serving() as client:
        threads = [threading.Thread(target=client_runs, args=(client,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        toys.until(lambda: len(seen) > 8)
        registry.crown("second")
        toys.until(lambda: version(client) == registry.numbers["second"])
        more = len(seen) + 8
        toys.until(lambda: len(seen) > more)
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert set(seen) == set(sheets)
        assert metric(client, "lekhani_model_swaps_total") == 1
        assert (
            metric(
                client,
                "lekhani_model_info",
                version=registry.numbers["second"],
                variant="flow_matching",
                sha256=files.sha256(second),
            )
            == 1
        )
        registry.crown("first")  # a rollback
        toys.until(lambda: version(client) == registry.numbers["first"])


def test_what_is_damaged_confused_or_no_number_is_kept_out(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry.register(
        "damaged",
        constant(registry.good, tmp_path / "d.onnx", "little", 0.01),
        model_sha256=hashlib.sha256(b"other").hexdigest(),
    )
    registry.register("confused", surgery.relabelled(registry.good, tmp_path / "c.onnx", [1, 2, 0]))
    registry.register("nan", constant(registry.good, tmp_path / "n.onnx", "offset", np.nan))
    with serving() as client, caplog.at_level(logging.INFO, "lekhani"):
        for name, reason, sentence in (
            ("damaged", "fetch", "its SHA-256 differs"),
            ("confused", "self-test", "The judge reads 0.0% of what"),
            ("nan", "self-test", "no numbers between 0 and 1"),
        ):
            before = metric(client, "lekhani_models_kept_out_total", reason=reason)
            registry.crown(name)
            toys.until(lambda sentence=sentence: sentence in str(client.get("/readyz").json()["trouble"]))
            assert client.get("/readyz").status_code == 200, "the old one serves on"
            assert version(client) == registry.numbers["first"]
            assert metric(client, "lekhani_models_kept_out_total", reason=reason) > before
            assert client.post("/v1/generate", json=ASK).status_code == 200
            time.sleep(0.5)
            assert sum(sentence in record.getMessage() for record in caplog.records) == 1, (
                "told once, not at every look"
            )
        if reason == "self-test":
            assert metric(client, "lekhani_models_kept_out_total", reason=reason) == 2, "what failed is not tried again"
        registry.crown("first")
        toys.until(lambda: client.get("/readyz").json()["trouble"] == {})


def test_a_registry_that_is_away_is_no_reason_to_stop(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as client:

        def away(_: str) -> dict[str, str]:
            raise LekhaniError("MLflow does not answer.")

        toys.until(lambda: metric(client, "lekhani_registry_up") == 1)
        with monkeypatch.context() as patch:
            patch.setattr(models, "aliases", away)
            toys.until(lambda: client.get("/readyz").json()["trouble"] == {DATASET: "MLflow does not answer."})
            assert client.get("/readyz").status_code == 200
            assert metric(client, "lekhani_registry_up") == 0
            assert client.post("/v1/generate", json=ASK).status_code == 200
        toys.until(lambda: client.get("/readyz").json()["trouble"] == {})
        assert metric(client, "lekhani_registry_up") == 1


def test_nothing_registered_is_a_sentence_at_the_start(store: Path) -> None:
    app = create_app([Choice("never-registered")])
    with pytest.raises(LekhaniError, match="Nothing is registered as lekhani-never-registered"), TestClient(app):
        pass


def test_a_blurred_model_behind_an_honest_scorecard_raises_the_alarm(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry.register("blurred", constant(registry.good, tmp_path / "b.onnx", "little", 0.008))
    with serving(look_seconds=0.01, folder=tmp_path / "reports") as client:
        toys.until(lambda: "drift" in client.get("/v1/models").json()[0]["watch"])
        client.post("/v1/generate", json=ASK | {"n": 50})
        time.sleep(0.5)
        assert not any(one["alarm"] for one in client.get("/v1/models").json()[0]["watch"].values()), (
            "an honest one raises none"
        )
        assert metric(client, "lekhani_watch_alarm", measure="drift") == 0
        with caplog.at_level(logging.WARNING, "lekhani"):
            registry.crown("blurred")
            toys.until(lambda: metric(client, "lekhani_watch_alarm", measure="drift") == 1)
            assert metric(client, "lekhani_watch", measure="drift") > 2 * metric(
                client, "lekhani_watch_promised", measure="drift"
            )
            assert "is worse than its scorecard promised" in caplog.text
    (report,) = (files.read_json(path) for path in (tmp_path / "reports").glob("*.json"))
    assert [one["measure"] for one in report["alarms"]] == ["drift"]
    assert report["models"][0]["watch"]["drift"]["alarm"] is True
    (page,) = (tmp_path / "reports").glob("*.md")
    assert "| **alarm** |" in page.read_text()
