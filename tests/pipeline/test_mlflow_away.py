"""The tracking server goes away in the middle of training: training ends well, and MLflow knows all of it in the end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from training import COMMAND, start, wait_for_rows, workspace


@contextmanager
def server(folder: Path, port: int) -> Iterator[None]:
    """MLflow's server over the store in `folder`, until the block ends."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")]
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen([*command, *store], stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, (folder / "server.log").read_text()
                assert time.monotonic() < deadline, "the server does not start"
                time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # with its workers; they are of this test's making
        process.wait(timeout=30)


def test_nothing_is_lost(tmp_path: Path) -> None:
    folder, store = workspace(tmp_path / "project"), tmp_path / "store"
    store.mkdir()
    choices = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    choices["tracking"]["backend"] = "mlflow"
    choices["profiles"]["quick"]["train"]["images_seen"]["per_class"] = 1200  # 300 steps
    (folder / "params.yaml").write_text(yaml.safe_dump(choices), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    away = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    with server(store, port):
        process = start(folder, **away)
        wait_for_rows(process, folder, 20)
    _, told = process.communicate(timeout=240)
    assert process.returncode == 0, told
    assert told.count("MLflow does not answer") == 1
    assert "training goes on" in told
    training = json.loads((folder / "models" / "mnist" / "dcgan" / "training.json").read_text())
    with server(store, port):
        export = [*COMMAND[:3], "export", *COMMAND[4:]]
        process = start(folder, command=export, **away)
        _, told = process.communicate(timeout=240)
        assert process.returncode == 0, told
        query = (
            f"http://127.0.0.1:{port}/api/2.0/mlflow/metrics/get-history?run_id={training['mlflow_run_id']}&metric_key=train/loss_d&max_results=1000"
        )
        with urllib.request.urlopen(query, timeout=30) as answer:
            steps = sorted(int(metric["step"]) for metric in json.load(answer)["metrics"])
    assert steps == list(range(1, 301))
    assert not (folder / "checkpoints" / "mnist" / "dcgan.untold.json").exists()
