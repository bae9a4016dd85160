"""What the pipeline logs to MLflow is logged once, found again, and leaves what the training knew of itself."""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import psutil
import pytest
from mlflow.entities import Run
from PIL import Image

from lekhani import files
from lekhani.data.spec import MNIST, DatasetInfo, Prepared
from lekhani.errors import LekhaniError
from lekhani.tracking import logged, runs, unlogged, view
from lekhani.tracking.reporter import MlflowReporter
from lekhani.tracking.store import connect, use_experiment

EXPERIMENT = "test-runs"
DIGEST = "ab" * 32
INFO = DatasetInfo("mnist", "Latin digits", 28, MNIST, {"train": 10, "test": 5}, {"name": "embedded"}, DIGEST)
DATA = Prepared(INFO, np.zeros((15, 28, 28), np.uint8), np.arange(15) % 10, np.arange(15) >= 10)
FACTS: dict[str, Any] = {"dataset": "mnist", "variant": "dcgan", "generator_sha256": "cd" * 32, "data_digest": DIGEST}
FACTS |= {"profile": "quick", "seed": 7, "images_seen": 640, "choices": {"dcgan": {"lr_g": 1e-3}}}


def stored(run_id: str) -> Run:
    return mlflow.MlflowClient().get_run(run_id)


def artifacts(run_id: str, folder: str = "") -> list[str]:
    found: list[str] = []
    for entry in mlflow.MlflowClient().list_artifacts(run_id, folder or None):
        found += artifacts(run_id, entry.path) if entry.is_dir else [entry.path]
    return sorted(found)


def start(store: Path) -> str:
    report = store / "validation.html"
    report.write_text("<p>fine</p>")
    params, tags = {"seed": 7, "betas": "[0.5, 0.999]"}, {"dataset": "mnist", "variant": "dcgan"}
    return runs.start_run(EXPERIMENT, "mnist/dcgan", params, tags, DATA, store / "prepared", [report])


@pytest.fixture
def started(store: Path) -> str:
    return start(store)


@pytest.fixture
def finished(started: str) -> str:
    """A run whose training has ended well, under a digest of its own."""
    runs.end_run(started, "FINISHED", {"generator_sha256": started * 2})
    return started


def facts_of(run_id: str) -> dict[str, Any]:
    return FACTS | {"generator_sha256": run_id * 2}


def test_runs_of_one_variant_differ_by_name() -> None:
    usual = {"profile": "quick", "seed": 7, "lr_g": 4e-4, "betas": "[0.5, 0.999]"}
    assert runs.run_name("mnist/dcgan", usual, usual) == "mnist/dcgan seed=7"
    assert runs.run_name("mnist/dcgan", usual | {"seed": 8, "lr_g": 1e-3}, usual) == "mnist/dcgan seed=8 lr_g=0.001"
    assert runs.run_name("mnist/dcgan", usual, {}) == "mnist/dcgan seed=7", "nothing is committed to compare with"


def test_the_comparison_is_a_view_of_the_experiment(store: Path) -> None:
    client, name = connect(), "test-view"
    assert view.page(client, name) == ""
    identity = use_experiment(name)
    page = view.page(client, name)
    assert page == f"/#/experiments/{identity}/runs?workflowType=machine_learning&viewStateShareKey=lekhani"
    experiment = client.get_experiment(identity)
    shown = json.loads(experiment.tags["mlflow.sharedViewState.lekhani"])
    assert shown["orderByKey"] == shown["selectedColumns"][0] == "metrics.`eval/fid_ratio`"
    sections = {section["uuid"] for section in shown["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in shown["compareRunCharts"]} <= sections
    old = client.create_experiment("test-view-before")
    assert f"/{old}/" in view.page(client, "test-view-before")
    assert view.TAG in client.get_experiment(old).tags


def test_a_started_run_knows_its_params_tags_and_data(started: str) -> None:
    run = stored(started)
    assert run.info.run_name == "mnist/dcgan"
    assert run.data.params == {"seed": "7", "betas": "[0.5, 0.999]"}
    tags = run.data.tags
    assert (tags["dataset"], tags["dataset.digest"], tags["mlflow.source.name"]) == ("mnist", DIGEST, "lekhani train")
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.name == "mnist/train"
    assert DIGEST.startswith(data.dataset.digest)
    tensors = json.loads(data.dataset.schema)["mlflow_tensorspec"]
    assert json.loads(tensors["features"])[0]["tensor-spec"] == {"dtype": "uint8", "shape": [-1, 28, 28]}
    assert artifacts(started) == ["data/validation.html"]
    assert run.info.status == "RUNNING"
    assert mlflow.active_run() is None


def test_a_run_ends_with_its_training_and_is_found_by_what_it_made(store: Path, finished: str) -> None:
    run = stored(finished)
    assert run.info.status == "FINISHED"
    assert runs.find_run(EXPERIMENT, FACTS) is None
    found = runs.find_run(EXPERIMENT, facts_of(finished))
    assert found is not None
    assert found.info.run_id == finished
    again, failed = start(store), start(store)
    for run_id, status in ((again, "FINISHED"), (failed, "FAILED")):
        runs.end_run(run_id, status, {"generator_sha256": finished * 2})
    found = runs.find_run(EXPERIMENT, facts_of(finished))
    assert found is not None
    assert found.info.run_id == again, "the last training that went well"


def test_what_comes_after_a_training_leaves_its_times_and_its_commit(
    finished: str, toy_generator: Callable[..., Path], tmp_path: Path
) -> None:
    client, before = mlflow.MlflowClient(), stored(finished)
    for name in ("judge.onnx", "dvc.lock"):
        (tmp_path / name).write_text(name)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "grid.png")
    card: dict[str, Any] = {"model_sha256": "aa", "fid": 3.5, "classes_covered": np.int64(9).item(), "seed": 3}
    uri = logged.log_model(finished, toy_generator(tmp_path / "generator.onnx"), [tmp_path / "judge.onnx"])
    made = {"evaluation": [tmp_path / "grid.png"], "judge": [tmp_path / "judge.onnx"]}
    runs.log_scorecard(finished, uri, {**card, "flag": True}, DATA, tmp_path, made, tmp_path / "grid.png")
    runs.log_files(finished, {"lineage": [tmp_path / "dvc.lock"]}, "registered")
    run = stored(finished)
    assert (run.info.start_time, run.info.end_time, run.info.status) == (
        before.info.start_time,
        before.info.end_time,
        "FINISHED",
    )
    assert run.data.tags.items() >= before.data.tags.items()
    assert run.data.tags["scored.model_sha256"] == "aa"
    assert {"scored.git.commit", "registered.git.commit"} <= set(run.data.tags)
    assert run.data.metrics == {"eval/fid": 3.5, "eval/classes_covered": 9.0}
    assert run.data.tags["scored.seed"] == "3", "a constant is no metric"
    assert {"evaluation/grid.png", "judge/judge.onnx", "lineage/dvc.lock"} <= set(artifacts(finished))
    assert {one.dataset.name for one in run.inputs.dataset_inputs} == {"mnist/train", "mnist/test"}
    model = client.get_logged_model(uri.removeprefix("models:/"))
    assert model.source_run_id == finished
    assert {one.key: one.dataset_name for one in model.metrics or ()}["eval/fid"] == "mnist/test"
    assert [one.model_id for one in run.outputs.model_outputs] == [model.model_id]


def test_a_training_that_mlflow_never_saw_gets_a_run_from_its_files(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    facts = FACTS | {"generator_sha256": "ef" * 32}
    (tmp_path / "losses.csv").write_text("step,images_seen,loss_d\n10,320,0.5\n20,640,0.25\n")
    (tmp_path / "scores.csv").write_text("")
    (tmp_path / "samples").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "samples" / "000020.png")
    with caplog.at_level(logging.WARNING, "lekhani"):
        run_id = runs.find_or_import_run(EXPERIMENT, "mnist/dcgan", facts, tmp_path).info.run_id
        again = runs.find_or_import_run(EXPERIMENT, "mnist/dcgan", facts, tmp_path).info.run_id
    assert run_id == again
    assert caplog.text.count("MLflow here does not have the training run of mnist/dcgan") == 1
    run, history = stored(run_id), mlflow.MlflowClient().get_metric_history(run_id, "train/loss_d")
    assert run.info.status == "FINISHED"
    assert run.data.params == {"profile": "quick", "seed": "7", "images_seen": "640", "lr_g": "0.001"}
    assert run.data.tags["lekhani.imported"] == "true"
    assert "mlflow.source.git.commit" not in run.data.tags, "it is not known"
    assert [(one.step, one.value) for one in history] == [(10, 0.5), (20, 0.25)]
    assert [path for path in artifacts(run_id) if "samples" in path and path.endswith(".png")]


def test_the_project_s_own_store_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a stage's process, which no variable tells where MLflow is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from lekhani.tracking import runs\n"
        "for _ in range(2):\n"
        "    print(runs.find_or_import_run('own', 'mnist/dcgan', json.loads(sys.argv[1]), Path('none')).info.run_id)\n"
    )
    ids = set[str]()
    for _ in range(2):
        command = [sys.executable, "-W", "ignore", "-c", code, json.dumps(FACTS)]
        ids |= set(subprocess.run(command, capture_output=True, text=True, timeout=200, check=True).stdout.split())
    assert len(ids) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"mlruns"}


def test_a_run_whose_process_was_killed_does_not_stay_running(store: Path) -> None:
    code = (
        "import sys, time, psutil\n"
        "from lekhani.tracking import runs\n"
        f"run_id = runs.create_run({EXPERIMENT!r}, 'gone', 'test', "
        "{runs._PROCESS: runs._process(psutil.Process())})\n"
        "print(run_id, flush=True); time.sleep(100)\n"
    )
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    orphan = process.stdout.readline().strip()
    alive = start(store)
    assert stored(orphan).info.status == "RUNNING"
    mlflow.MlflowClient().log_metric(orphan, "train/images_seen", 64.0, timestamp=(last := int(time.time() * 1000)))
    process.kill()
    process.communicate(timeout=20)
    other = runs.create_run(EXPERIMENT, "elsewhere", "test", {runs._PROCESS: "another-machine:1:2"})
    start(store)
    assert (stored(orphan).info.status, stored(orphan).info.end_time) == ("KILLED", last)
    assert [stored(one).info.status for one in (alive, other)] == ["RUNNING", "RUNNING"]
    assert runs._process(psutil.Process()) == stored(alive).data.tags[runs._PROCESS]


def test_a_reporter_logs_curves_and_grids(started: str) -> None:
    reporter = MlflowReporter(started)
    reporter.metrics(20, {"images_seen": 640.0, "loss_d": 0.5, "seconds_left": 3.0})
    reporter.metrics(40, {"images_seen": 1280.0, "loss_d": 0.25, "seconds_left": 0.0})
    reporter.images(40, np.arange(12, dtype=np.uint8).reshape(3, 4))
    reporter.close()
    history = mlflow.MlflowClient().get_metric_history(started, "train/loss_d")
    assert [(one.step, one.value) for one in history] == [(20, 0.5), (40, 0.25)]
    assert set(stored(started).data.metrics) == {"train/images_seen", "train/loss_d"}
    (image, *_) = [path for path in artifacts(started) if path.endswith(".png")]
    with Image.open(mlflow.artifacts.download_artifacts(run_id=started, artifact_path=image)) as picture:
        assert picture.size == (8, 6)


def test_system_metrics_can_be_logged_too(started: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    reporter = MlflowReporter(started, system_metrics=True)
    deadline = time.monotonic() + 20
    while "system/cpu_utilization_percentage" not in stored(started).data.metrics:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    reporter.close()


class FakeOutage:
    """MLflow refuses what a run is told, until the block ends."""

    def __init__(self) -> None:
        self.patch, self.calls = pytest.MonkeyPatch(), 0

    def __enter__(self) -> "FakeOutage":
        for method in ("log_batch", "log_image", "set_terminated", "get_run"):
            self.patch.setattr(mlflow.MlflowClient, method, self.fail)
        return self

    def __exit__(self, *_: object) -> None:
        self.patch.undo()

    def fail(self, *args: Any, **kwargs: Any) -> None:
        self.calls += 1
        raise mlflow.MlflowException("connection refused\nby the other side")


def curve(run_id: str) -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in mlflow.MlflowClient().get_metric_history(run_id, "train/loss")]


def test_an_outage_in_the_middle_loses_nothing(started: str, caplog: pytest.LogCaptureFixture) -> None:
    reporter = MlflowReporter(started)
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
    assert not Path("mlruns/unlogged").exists()


def test_an_outage_to_the_end_is_made_good_by_the_next_stage(
    store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter = MlflowReporter(run_id := start(store))
    grid = np.random.default_rng(0).integers(0, 255, (200, 200)).astype(np.uint8)
    with FakeOutage():
        reporter.metrics(1, {"loss": 1.0})
        reporter.images(1, grid)
        reporter.close()
        runs.end_run(run_id, "FINISHED", {"generator_sha256": run_id * 2})
        before = int(time.time() * 1000)
        with pytest.raises(LekhaniError, match=r"Could not use MLflow at .*: connection refused"):
            unlogged.log_kept()
    folder = Path("mlruns/unlogged") / run_id
    assert {path.name for path in folder.iterdir()} == {"items.jsonl", "000001.png"}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2 * 400 * 400
    with Image.open(folder / "000001.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture)[::2, ::2], grid)
    broken = folder.parent / ("e" * 32)
    broken.mkdir()
    (broken / "items.jsonl").write_text("{")
    monkeypatch.setattr(unlogged, "is_active", lambda *_: True)
    found = runs.find_run(EXPERIMENT, facts_of(run_id))
    assert found is not None
    assert (found.info.run_id, curve(run_id)) == (run_id, [(1, 1.0)])
    assert found.info.end_time <= before, "when training ended, not when it was told"
    assert not folder.exists()
    assert "cannot be read" in caplog.text, "what is broken keeps nobody from logging the rest"
    files.remove(broken)


def test_a_resumed_run_logs_no_step_twice(started: str) -> None:
    first = MlflowReporter(started)
    first.resume(0)
    for step in (1, 2, 3):
        first.metrics(step, {"images_seen": float(step), "loss": float(step)})
    runs.end_run(started, "KILLED")
    assert stored(started).info.status == "KILLED"
    assert runs.reopen_run(EXPERIMENT, started)
    assert stored(started).info.status == "RUNNING"
    again = MlflowReporter(started)
    again.resume(2)
    for step in (3, 4):
        again.metrics(step, {"images_seen": float(step), "loss": float(step)})
    assert curve(started) == [(step, float(step)) for step in (1, 2, 3, 4)]
    assert not runs.reopen_run(EXPERIMENT, "f" * 32), "a run of another store"


def test_an_unreachable_server_does_not_mean_that_there_is_no_such_run(started: str) -> None:
    def refuse(*_: object) -> None:
        raise mlflow.MlflowException("connection refused\nby the other side")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "get_run", refuse)
        patch.setattr(mlflow.MlflowClient, "get_experiment_by_name", refuse)
        for call in (lambda: runs.reopen_run(EXPERIMENT, started), lambda: use_experiment(EXPERIMENT)):
            with pytest.raises(
                LekhaniError, match=r"MLflow at sqlite.*: connection refused; set tracking\.backend"
            ) as e:
                call()
            assert "\n" not in str(e.value)


def test_the_leaderboard_does_not_stand_among_trainings(store: Path, tmp_path: Path) -> None:
    for name in ("leaderboard.html", "mnist-curves.png"):
        (tmp_path / name).write_text(name)
    runs.log_leaderboard(EXPERIMENT, [tmp_path / "leaderboard.html", tmp_path / "mnist-curves.png"])
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(f"{EXPERIMENT}-leaderboard")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert set(artifacts(found.info.run_id)) == {"leaderboard.html", "mnist-curves.png"}
    assert found.info.status == "FINISHED"


def test_a_logged_model_is_found_by_its_run_and_its_files(
    started: str, toy_generator: Callable[..., Path], tmp_path: Path
) -> None:
    first, second = (
        toy_generator(tmp_path / f"{name}.onnx", metadata={"lineage": name}) for name in ("first", "second")
    )
    card = tmp_path / "measurements.json"
    card.write_text("{}")
    assert logged.logged_model(started, first) is None
    uri = logged.log_model(started, first)
    assert logged.logged_model(started, second) is None, "a run that exports anew has another model"
    other = logged.log_model(started, second)
    assert logged.logged_model(started, first) == uri
    assert logged.logged_model(started, second) == other
    assert logged.logged_model(started, first, [card]) is None
    scored = logged.log_model(started, first, [card])
    assert logged.logged_model(started, first, [card]) == scored
    assert logged.logged_model(runs.create_run(EXPERIMENT, "another", "test", {}), first) is None


def test_a_model_that_was_logged_in_part_is_not_found(
    started: str, toy_generator: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = toy_generator(tmp_path / "generator.onnx", metadata={"lineage": "in part"})
    with monkeypatch.context() as patch:
        patch.setattr("mlflow.models.Model.save", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
        with pytest.raises(OSError, match="no space left"):
            logged.log_model(started, path)
    assert logged.logged_model(started, path) is None
    uri = logged.log_model(started, path)
    assert logged.logged_model(started, path) == uri


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
