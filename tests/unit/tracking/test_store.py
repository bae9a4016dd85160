"""A store at its very beginning."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("uri", ["", "sqlite:///sweep.db"])
def test_stages_that_start_side_by_side_share_a_new_store(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    script = "from lekhani.tracking.store import use_experiment; print(use_experiment('lekhani'))"
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    told = [process.communicate(timeout=240) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], told
    assert {said.strip() for said, _ in told} == {"1"}, "one experiment"
