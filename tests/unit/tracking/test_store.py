"""A store at its very beginning, and one that goes away."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import mlflow
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


@pytest.mark.parametrize("changes", [(), ("DROP TABLE trace_tags",)])
def test_a_store_that_another_version_made_is_a_sentence(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: tuple[str, ...]
) -> None:
    path = shutil.copy(store / "mlflow.db", tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as database, database:
        for change in (*changes, "UPDATE alembic_version SET version_num = 'ffffffffffff'"):
            database.execute(change)
    with pytest.raises(LekhaniError, match=r"was made by another version of it .* run `mlflow db upgrade sqlite:"):
        stores.connect()


@pytest.mark.parametrize("name", ["plain", "a?b#c%41 क"])
def test_artifacts_are_found_after_the_folder_was_moved(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    here, there = tmp_path / name, tmp_path / f"{name} moved"
    (here / "mlruns").mkdir(parents=True)
    shutil.copy(store / "mlflow.db", here / "mlruns")
    monkeypatch.chdir(here)
    run = connect().create_run(stores.use_experiment("lekhani")).info.run_id
    connect().log_text(run, "kept", "a/b.txt")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # MLflow sets it
    here.rename(there)
    monkeypatch.chdir(there)
    assert mlflow.artifacts.load_text(connect().get_run(run).info.artifact_uri + "/a/b.txt") == "kept"
    new = connect().create_run(stores.use_experiment("lekhani")).info.artifact_uri
    assert new is not None
    assert new.startswith((there / "mlruns/artifacts").as_uri())
    assert not here.exists()
