"""What the pipeline logs to MLflow is logged once and found again."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import requests
from mlflow.entities import Run
from PIL import Image

from lekhani.data.spec import MNIST, DatasetInfo
from lekhani.errors import LekhaniError
from lekhani.files import sha256
from lekhani.tracking import runs
from lekhani.tracking.store import connect, use_experiment

EXPERIMENT = "test-runs"
DIGEST = "ab" * 32
INFO = DatasetInfo("mnist", "Latin digits", 28, MNIST, {"train": 10, "test": 5}, {"name": "embedded"}, DIGEST)


def stored(run_id: str) -> Run:
    return mlflow.MlflowClient().get_run(run_id)


def artifacts(run_id: str, folder: str = "") -> list[str]:
    found: list[str] = []
    for entry in mlflow.MlflowClient().list_artifacts(run_id, folder or None):
        found += artifacts(run_id, entry.path) if entry.is_dir else [entry.path]
    return sorted(found)


@pytest.fixture
def started(store: Path) -> str:
    folder, report = store / "data" / "prepared", store / "validation.html"
    folder.mkdir(parents=True, exist_ok=True)
    report.write_text("<p>fine</p>")
    params, tags = {"seed": 7, "betas": "[0.5, 0.999]"}, {"dataset": "mnist", "git.commit": "none"}
    return runs.start_run(EXPERIMENT, "mnist/dcgan", params, tags, INFO, folder, [report])


def test_a_started_run_knows_its_params_tags_and_data(started: str) -> None:
    run = stored(started)
    assert run.info.run_name == "mnist/dcgan"
    assert run.data.params == {"seed": "7", "betas": "[0.5, 0.999]"}
    assert run.data.tags["dataset"] == "mnist"
    assert run.data.tags["git.commit"] == "none"
    assert run.data.tags["dataset.digest"] == DIGEST
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.name == "mnist"
    assert DIGEST.startswith(data.dataset.digest)
    assert artifacts(started) == ["data/validation.html"]
    assert run.info.status == "RUNNING", "export and evaluation are still to come"
    assert mlflow.active_run() is None


def test_a_reporter_logs_curves_and_grids(started: str, tmp_path: Path) -> None:
    reporter = runs.MlflowReporter(started, tmp_path / "unlogged.json")
    reporter.metrics(20, {"images_seen": 640.0, "loss_d": 0.5, "seconds_left": 3.0})
    reporter.metrics(40, {"images_seen": 1280.0, "loss_d": 0.25, "seconds_left": 0.0})
    reporter.images(40, np.arange(12, dtype=np.uint8).reshape(3, 4))
    reporter.close()
    history = mlflow.MlflowClient().get_metric_history(started, "train/loss_d")
    assert [(one.step, one.value) for one in history] == [(20, 0.5), (40, 0.25)]
    assert set(stored(started).data.metrics) == {"train/images_seen", "train/loss_d"}
    (image, *_) = [path for path in artifacts(started) if path.endswith(".png")]
    with Image.open(mlflow.artifacts.download_artifacts(run_id=started, artifact_path=image)) as picture:
        np.testing.assert_array_equal(np.asarray(picture.convert("L"))[::2, ::2], np.arange(12).reshape(3, 4))


class FakeOutage:
    """While it is entered, calls of MLflow's client that log something fail."""

    def __init__(self) -> None:
        self.calls = 0
        self.patch = pytest.MonkeyPatch()

    def __enter__(self) -> "FakeOutage":
        for name in ("log_batch", "log_image", "set_terminated", "get_metric_history"):
            self.patch.setattr(mlflow.MlflowClient, name, self.fail)
        return self

    def __exit__(self, *_: object) -> None:
        self.patch.undo()

    def fail(self, *args: Any, **kwargs: Any) -> None:
        self.calls += 1
        raise mlflow.MlflowException("connection refused\nby the other side")


def curve(run_id: str) -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in mlflow.MlflowClient().get_metric_history(run_id, "train/loss")]


def test_an_outage_in_the_middle_loses_nothing(started: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reporter = runs.MlflowReporter(started, tmp_path / "unlogged.json")
    reporter.metrics(1, {"loss": 1.0})
    with caplog.at_level(logging.WARNING, "lekhani"), FakeOutage() as outage:
        for step in (2, 3, 4):
            reporter.metrics(step, {"loss": float(step)})
            reporter.images(step, np.zeros((4, 4), np.uint8))
    assert outage.calls == 1, "it is not called again at every step"
    assert caplog.text.count("MLflow does not answer (connection refused)") == 1
    reporter.metrics(5, {"loss": 5.0})
    assert curve(started) == [(1, 1.0)], "the next attempt comes later"
    reporter.close()
    assert curve(started) == [(step, float(step)) for step in (1, 2, 3, 4, 5)]
    assert len([path for path in artifacts(started) if path.endswith(".png") and "samples" in path]) >= 3
    assert not (tmp_path / "unlogged.json").exists()


def test_a_resumed_run_logs_no_step_twice(started: str, tmp_path: Path) -> None:
    first = runs.MlflowReporter(started, tmp_path / "unlogged.json")
    first.resume(0)
    for step in (1, 2, 3):
        first.metrics(step, {"images_seen": float(step), "loss": float(step)})
    runs.end_run(started, "KILLED")
    assert stored(started).info.status == "KILLED"
    assert runs.reopen_run(EXPERIMENT, started)
    assert stored(started).info.status == "RUNNING"
    again = runs.MlflowReporter(started, tmp_path / "unlogged.json")
    again.resume(2)
    for step in (3, 4):
        again.metrics(step, {"images_seen": float(step), "loss": float(step)})
    assert curve(started) == [(step, float(step)) for step in (1, 2, 3, 4)]


def test_an_interrupted_run_does_not_stay_running(started: str) -> None:
    assert not runs.reopen_run(EXPERIMENT, "f" * 32), "a run of another store"
    runs.kill_run("f" * 32)
    runs.kill_run(started)
    assert stored(started).info.status == "KILLED"
    with pytest.raises(ValueError, match="mine"), runs.resume(started, EXPERIMENT, "mnist/dcgan", {}):
        raise ValueError("mine")
    runs.kill_run(started)
    assert stored(started).info.status == "FAILED", "it has ended, and why is known"


def test_an_unreachable_server_does_not_mean_that_there_is_no_such_run(
    started: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise mlflow.MlflowException("connection refused\nby the other side")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "get_run", refuse)
        patch.setattr(mlflow.MlflowClient, "get_experiment_by_name", refuse)
        for call in (lambda: runs.reopen_run(EXPERIMENT, started), lambda: use_experiment(EXPERIMENT)):
            with pytest.raises(
                LekhaniError, match=r"MLflow at sqlite.*: connection refused; set tracking\.backend"
            ) as e:
                call()
            assert "\n" not in str(e.value)
    with (
        pytest.raises(LekhaniError, match=r"Could not use MLflow at .*: no route to host; set"),
        runs.resume(started, EXPERIMENT, "mnist/dcgan", {}),
    ):
        raise requests.ConnectionError("no route to host")  # as while an artifact is uploaded


def test_an_unknown_run_is_started_once_and_found_again(started: str, caplog: pytest.LogCaptureFixture) -> None:
    def resumed(run_id: str | None) -> str:
        with runs.resume(run_id, EXPERIMENT, "mnist/dcgan", {}) as found:
            return found

    elsewhere = "0123456789abcdef" * 2
    with caplog.at_level(logging.WARNING, "lekhani"):
        ids = {resumed(elsewhere) for _ in range(3)}
    assert len(ids) == 1
    assert elsewhere not in ids
    assert caplog.text.count("MLflow here does not have the training run of mnist/dcgan (01234567)") == 1
    assert stored(min(ids)).info.run_name == "mnist/dcgan"
    assert resumed("f" * 32) not in ids, "another training run is another run"
    mlflow.MlflowClient().delete_run(started)
    assert resumed(started) != started
    assert resumed(None) == resumed(None), "stages after an untracked training share a run"


def test_a_scorecard_becomes_metrics_tags_and_files(started: str, tmp_path: Path) -> None:
    for name in ("grid.png", "judge.onnx"):
        (tmp_path / name).write_text(name)
    card: dict[str, Any] = {
        "dataset": "mnist",
        "variant": "dcgan",
        "model_sha256": "aa",
        "fid": 3.5,
        "classes_covered": np.int64(9).item(),
    }
    with runs.resume(started, EXPERIMENT, "mnist/dcgan", {"stage": "evaluate"}) as run_id:
        assert run_id == started
        runs.log_scorecard({**card, "flag": True}, [tmp_path / "grid.png"], [tmp_path / "judge.onnx"])
    run = stored(started)
    assert (run.info.run_name, run.info.status, run.data.tags["stage"]) == ("mnist/dcgan", "FINISHED", "evaluate")
    assert run.data.metrics == {"fid": 3.5, "classes_covered": 9.0}
    assert run.data.tags["model_sha256"] == "aa"
    assert {"evaluation/grid.png", "judge/judge.onnx"} <= set(artifacts(started))


def test_the_leaderboard_is_kept_in_a_run_of_its_own(store: Path, tmp_path: Path) -> None:
    for name in ("leaderboard.html", "mnist-curves.png"):
        (tmp_path / name).write_text(name)
    runs.log_leaderboard(
        EXPERIMENT, [tmp_path / "leaderboard.html", tmp_path / "mnist-curves.png"], {"git.commit": "none"}
    )
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id], "tags.`mlflow.runName` = 'leaderboard'")
    assert set(artifacts(found.info.run_id)) == {"leaderboard.html", "mnist-curves.png"}
    assert found.info.status == "FINISHED"


def test_a_logged_model_is_found_by_its_run_and_its_file(
    started: str, toy_generator: Callable[..., Path], tmp_path: Path
) -> None:
    use_experiment(EXPERIMENT)
    first, second = (
        toy_generator(tmp_path / f"{name}.onnx", metadata={"lineage": name}) for name in ("first", "second")
    )
    assert runs.logged_model(started, sha256(first)) is None
    with runs.resume(started, EXPERIMENT, "mnist/dcgan", {}):
        uri = runs.log_model(first)
        assert runs.logged_model(started, sha256(second)) is None, "a run that exports anew has another model"
        other = runs.log_model(second)
    assert runs.logged_model(started, sha256(first)) == uri
    assert runs.logged_model(started, sha256(second)) == other
    with runs.resume(None, EXPERIMENT, "mnist/another", {}) as run_id:
        assert runs.logged_model(run_id, sha256(first)) is None


def test_a_model_that_was_logged_in_part_is_not_found(
    started: str, toy_generator: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = toy_generator(tmp_path / "generator.onnx", metadata={"lineage": "in part"})
    with monkeypatch.context() as patch, runs.resume(started, EXPERIMENT, "mnist/dcgan", {}):
        patch.setattr("mlflow.models.Model.save", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
        with pytest.raises(OSError, match="no space left"):
            runs.log_model(path)
    assert runs.logged_model(started, sha256(path)) is None
    with runs.resume(started, EXPERIMENT, "mnist/dcgan", {}):
        uri = runs.log_model(path)
    assert runs.logged_model(started, sha256(path)) == uri


def test_a_deleted_experiment_is_a_sentence(store: Path) -> None:
    client = connect()
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(
        LekhaniError, match=r"experiment 'gone' is deleted; restore it or name another under tracking\.experiment"
    ):
        use_experiment("gone")


def test_telemetry_is_off_before_mlflow_is_imported() -> None:
    code = (
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'mlflow':\n"
        "            print(os.environ.get('MLFLOW_DISABLE_TELEMETRY')); sys.stdout.flush(); os._exit(0)\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import lekhani.registry.models\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "true", done.stderr[-300:]
