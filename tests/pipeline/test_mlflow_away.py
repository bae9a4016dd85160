"""The tracking server goes away in the middle of training, which ends well; MLflow knows all of it in the end."""

import json
from functools import partial
from pathlib import Path

import mlflow
import pytest
import yaml
from services import free_port, mlflow_server
from training import finish, start, wait_for_rows, workspace


@pytest.mark.slow
def test_nothing_is_lost(tmp_path: Path) -> None:
    folder, store = workspace(tmp_path / "project"), tmp_path / "store"
    store.mkdir()
    choices = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    choices["tracking"]["backend"] = "mlflow"
    (folder / "params.yaml").write_text(yaml.safe_dump(choices), encoding="utf-8")
    port = free_port()
    server = partial(mlflow_server, store, port, f"sqlite:///{store}/mlflow.db", str(store / "artifacts"))
    away = {
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    }
    with server():
        process = start(folder, **away)
        wait_for_rows(process, folder, 20)
    _, told = process.communicate(timeout=240)
    assert process.returncode == 0, told
    assert told.count("training goes on") == 1
    assert "Connection refused" in told
    training = json.loads((folder / "models" / "mnist" / "dcgan" / "training.json").read_text())
    (left,) = (folder / "mlruns" / "unlogged").iterdir()
    assert {path.suffix for path in left.iterdir()} == {".jsonl", ".png"}
    with server():
        client = mlflow.MlflowClient(away["MLFLOW_TRACKING_URI"])
        assert client.get_run(left.name).info.status == "RUNNING"
        finish(folder, **away)  # any next stage tells it, here another training
        run = client.get_run(left.name)
        steps = sorted(one.step for one in client.get_metric_history(left.name, "train/loss_d"))
        images = [one.path for one in client.list_artifacts(left.name, "images") if one.path.endswith(".png")]
    assert run.info.status == "FINISHED"
    assert run.data.tags["generator_sha256"] == training["generator_sha256"]
    assert steps == list(range(1, 151))
    assert any("+step+150+" in path for path in images)
    assert not left.exists()
