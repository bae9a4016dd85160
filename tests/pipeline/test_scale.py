"""Stages on several machines, without a shared folder but for the DVC remote."""

import os
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
    (project.path / "prefect.yaml").write_bytes((ROOT / "prefect.yaml").read_bytes())
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
    alone.run("dvc", "repro", *(f"train@mnist-{variant}" for variant in VARIANTS), seconds=1500)
    for name in ("judge/judge.onnx", *(f"{variant}/generator.safetensors" for variant in VARIANTS)):
        path = Path("models/mnist", name)
        assert (space.path / path).read_bytes() == (alone.path / path).read_bytes(), path


def test_a_worker_that_dies_is_survived(machines: Cluster) -> None:
    with ExitStack() as workers:
        pids = {name: workers.enter_context(machines.worker(name)) for name in ("one", "two")}
        longer = ("-S", "train.seed=8", "-S", "profiles.quick.train.images_seen.per_class=3000")
        process = machines.retrain("--variant", "dcgan", *longer)

        def trains(run: dict[str, Any]) -> bool:
            return run["state_name"] == "Running" and run["name"].startswith("train@") and bool(run["where"])

        first = machines.prefect.until("a training", 600, lambda: list(filter(trains, machines.stage_runs())))[0]
        for one in (victim := psutil.Process(pids[first["where"]])).children(recursive=True):
            one.kill()
        victim.kill()
        told = said(process)
    other = {"one": "two", "two": "one"}[first["where"]]
    runs = [(run["state_name"], run["where"]) for run in machines.stage_runs() if run["name"] == first["name"]]
    assert runs[:2] == [("Completed", other), ("Crashed", first["where"])]
    assert "failed" not in told.splitlines()[-1]
