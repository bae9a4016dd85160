"""The tracking server goes away in the middle of training, which ends well; MLflow knows all of it in the end."""

import json
import urllib.request
from functools import partial
from pathlib import Path

import yaml
from services import free_port, mlflow_server
from training import COMMAND, start, wait_for_rows, workspace


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
    assert told.count("MLflow does not answer") == 1
    assert "training goes on" in told
    training = json.loads((folder / "models" / "mnist" / "dcgan" / "training.json").read_text())
    with server():
        export = [*COMMAND[:3], "export", *COMMAND[4:]]
        process = start(folder, command=export, **away)
        _, told = process.communicate(timeout=240)
        assert process.returncode == 0, told
        query = f"http://127.0.0.1:{port}/api/2.0/mlflow/metrics/get-history?run_id={training['mlflow_run_id']}&metric_key=train/loss_d&max_results=1000"
        with urllib.request.urlopen(query, timeout=30) as answer:
            steps = sorted(int(metric["step"]) for metric in json.load(answer)["metrics"])
    assert steps == list(range(1, 151))
    assert not (folder / "checkpoints" / "mnist" / "dcgan.unlogged.json").exists()
