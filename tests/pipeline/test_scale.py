"""Stages on several machines, without a shared folder but for the DVC remote."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster import Cluster, cluster, said
from services import free_port, mlflow_server
from workspace import ROOT, Workspace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(
        "LEKHANI_LONG" not in os.environ, reason="takes ten minutes on two idle cores; set LEKHANI_LONG=1"
    ),
]

VARIANTS = ("dcgan", "flow_matching")
HERE = ["fetch@mnist", "prepare@mnist", "validate@mnist", "compare"]
AWAY = [
    "judge@mnist",
    "baseline@mnist",
    *(f"{one}@mnist-{variant}" for one in ("train", "export", "usefulness", "evaluate") for variant in VARIANTS),
]


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    project = Workspace(folder / "project")
    project.copy_pipeline()
    project.cut_small()
    params = project.params()
    params["pipeline"]["variants"] = list(VARIANTS)
    params["profiles"]["quick"]["variants"]["dcgan"]["channels"] = 8
    project.write_params(params)
    (project.path / "deploy").mkdir()
    (project.path / "deploy" / "workers.yaml").write_bytes((ROOT / "deploy" / "workers.yaml").read_bytes())
    automation = project.path / "pipelines/crashed.yaml"
    automation.write_text(automation.read_text().replace("within: 600", "within: 90"))
    port = free_port()
    with (
        mlflow_server(folder, port, f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts")),
        cluster(project, ("one", "two", "alone"), MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}") as made,
    ):
        project.run("prefect", "automation", "create", "--from-file", str(automation))
        yield made


def test_each_stage_runs_once_over_all_machines(machines: Cluster) -> None:
    with machines.worker("one"), machines.worker("two"):
        told = said(machines.retrain())
    assert f"{len(HERE + AWAY)} stages run, 0 cached" in told
    assert [stage for stage in HERE + AWAY if told.count(f"Running stage '{stage}':") != (stage in HERE)] == []
    runs = machines.stage_runs()
    assert sorted((run["name"], run["state_name"]) for run in runs) == sorted((stage, "Completed") for stage in AWAY)
    where = {run["name"]: run["where"] for run in runs}
    assert {where[f"train@mnist-{variant}"] for variant in VARIANTS} == {"one", "two"}

    space = machines.coordinator
    assert "up to date" in space.run("dvc", "status")
    assert (space.path / "reports/leaderboard.md").exists()
    assert "nothing changed" in said(machines.retrain())
    assert len(machines.stage_runs()) == len(AWAY)

    alone = machines.clones["alone"]
    repro = ["dvc", "repro", *(f"train@mnist-{variant}" for variant in VARIANTS)]
    said(
        subprocess.Popen(
            repro, cwd=alone.path, env=alone.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    )
    for name in (
        "judge/judge.safetensors",
        "judge/judge.onnx",
        *(f"{variant}/generator.safetensors" for variant in VARIANTS),
    ):
        path = Path("models/mnist", name)
        assert (space.path / path).read_bytes() == (alone.path / path).read_bytes(), path


def training(machines: Cluster) -> Any:
    """The stage runs that train at the moment."""
    return [
        run
        for run in machines.stage_runs()
        if run["state_name"] == "Running" and run["name"].startswith("train@") and run["where"]
    ]


def longer(seed: int) -> tuple[str, ...]:
    """Choices by which one variant trains for a while."""
    return "--variant", "dcgan", "-S", f"train.seed={seed}", "-S", "profiles.quick.train.images_seen.per_class=3000"


def test_a_worker_that_dies_is_survived(machines: Cluster) -> None:
    with ExitStack() as workers:
        pids = {name: workers.enter_context(machines.worker(name)) for name in ("one", "two")}
        process = machines.retrain(*longer(8))
        first = machines.prefect.until("a training", 600, lambda: training(machines))[0]
        for one in (victim := psutil.Process(pids[first["where"]])).children(recursive=True):
            one.kill()
        victim.kill()
        told = said(process)
    other = {"one": "two", "two": "one"}[first["where"]]
    runs = [(run["state_name"], run["where"]) for run in machines.stage_runs() if run["name"] == first["name"]]
    assert runs[:2] == [("Completed", other), ("Crashed", first["where"])]
    assert "failed" not in told.splitlines()[-1]


def test_stages_end_with_a_run_that_is_stopped(machines: Cluster) -> None:
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored where a shell has started the tests in the background, and inherited
    with machines.worker("one"):
        process = machines.retrain(*longer(9))
        first = machines.prefect.until("a training", 600, lambda: training(machines))[0]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=200)
        assert process.returncode != 0
        ended = machines.prefect.ended(id={"any_": [first["id"]]})
        assert ended["state_type"] == "CANCELLED"
        machines.prefect.until("the end of the training's process", 100, lambda: not trainers(machines.clones["one"]))


def trainers(space: Workspace) -> list[int]:
    """Processes that train in a clone."""
    known = [
        (one.pid, str(one.info["cwd"]), one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline", "cwd"])
    ]
    return [pid for pid, folder, words in known if str(space.path) in folder and "train" in words]
