"""A store at its very beginning, and one that goes away."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from lekhani.errors import LekhaniError
from lekhani.tracking import store as stores
from lekhani.tracking.store import connect


def test_stages_that_start_at_the_same_time_share_a_new_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    script = """
import mlflow
from lekhani.tracking.store import use_experiment
identity = use_experiment("lekhani")
print(mlflow.MlflowClient().get_experiment(identity).artifact_location)
"""
    command = [sys.executable, "-W", "ignore", "-c", script]
    running = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=240) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], outputs
    assert {output.strip() for output, _ in outputs} == {(tmp_path / "mlruns" / "artifacts").as_uri()}


def test_a_store_that_was_moved_away_is_missed_and_not_made_anew(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (tmp_path / "mlruns").mkdir()
    shutil.copy(store / "mlflow.db", "mlruns")
    assert connect().search_experiments(max_results=1)
    Path("mlruns").rename("elsewhere")
    with pytest.raises(LekhaniError, match=r"The database of MLflow at sqlite:.*mlruns/mlflow\.db is not there"):
        connect()
    assert not Path("mlruns").exists()
    Path("elsewhere").rename("mlruns")
    assert connect().search_experiments(max_results=1)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("postgresql://u:hunter2@127.0.0.1:1/db", "No module named 'psycopg2'"),
        ("http://[::1", "Invalid IPv6 URL"),
        ("ftp://x", "unsupported URI"),
        ("sqlite:///x.db", "file is not a database"),
    ],
)
def test_an_address_that_is_none_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    Path("x.db").write_bytes(b"no database" * 100)
    with pytest.raises(LekhaniError, match=r"Could not connect to MLflow at .*see MLFLOW_TRACKING_URI") as caught:
        stores.connect()
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_store_whose_lock_is_held_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'held.db'}")
    monkeypatch.setattr(stores, "LOCK_SECONDS", 0.1)
    with FileLock(tmp_path / "held.db.lock"), pytest.raises(LekhaniError, match=r"Another process holds .*held\.db"):
        stores.connect()
