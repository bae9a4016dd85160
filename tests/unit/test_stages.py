"""What the stages themselves decide: whether an export may ship, and what a run is tagged with."""

from pathlib import Path

import pytest

from lekhani import stages
from lekhani.errors import LekhaniError


@pytest.mark.parametrize("difference", [1.1e-4, 3.0, float("inf"), float("nan")])
def test_a_parity_failure_fails_the_stage(difference: float) -> None:
    with pytest.raises(LekhaniError, match=r"g\.onnx differs from torch by .* not fit to ship"):
        stages._check_parity(difference, 1e-4, Path("g.onnx"))


def test_parity_within_the_bound_passes() -> None:
    stages._check_parity(1e-4, 1e-4, Path("g.onnx"))


def test_a_run_outside_git_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_EXP_NAME", "trial")
    (tmp_path / "dvc.lock").write_text("x")
    tags = stages._revision({"generator_sha256": "ab"})
    assert tags["git.commit"] == "none"
    assert tags["dvc.experiment"] == "trial"
    assert tags["generator_sha256"] == "ab"
    assert len(tags["dvc.lock_sha256"]) == 64


def test_training_refuses_data_that_failed_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reports" / "own").mkdir(parents=True)
    (tmp_path / "reports" / "own" / "validation.json").write_text('{"passed": false}')
    with pytest.raises(LekhaniError, match="own failed its validation"):
        stages._validated("own")
