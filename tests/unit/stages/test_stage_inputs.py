"""What the stages themselves decide: whether an export may ship, and what a run is tagged with."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from lekhani import files, params
from lekhani.errors import LekhaniError
from lekhani.export.onnx_file import require_parity
from lekhani.paths import MODELS
from lekhani.stages import timings
from lekhani.stages import train as train_stage
from lekhani.stages.inputs import validated_data
from lekhani.stages.trained import load_trained
from lekhani.tracking.revision import revision, training_tags

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("difference", [1.1e-4, float("inf"), float("nan")])
def test_a_parity_failure_fails_the_stage(difference: float) -> None:
    require_parity(1e-4, 1e-4, Path("g.onnx"))
    with pytest.raises(LekhaniError, match=r"g\.onnx differs from torch by .* not fit to ship"):
        require_parity(difference, 1e-4, Path("g.onnx"))


def test_a_run_outside_git_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_EXP_NAME", "trial")
    (tmp_path / "dvc.lock").write_text("x")
    tags = revision()
    assert tags["git.commit"] == "none"
    assert tags["dvc.experiment"] == "trial"
    assert tags["pipeline"] == "trial"
    assert "mlflow.source.git.commit" not in training_tags()
    assert len(tags["dvc.lock_sha256"]) == 64


def test_training_refuses_data_that_failed_validation(project: Path) -> None:
    path = Path("reports/own/validated.json")
    files.write_json(path, files.read_json(path) | {"passed": False})
    with pytest.raises(LekhaniError, match="own failed its validation"):
        validated_data("own")


def test_a_curve_has_the_seconds_that_training_had_taken(project: Path) -> None:
    file = Path("reports/own/flow_matching/speed.csv")
    curve = [{"images_seen": "1000", "judge_fid": "9.5"}, {"images_seen": "1600", "judge_fid": "4.25"}]
    assert timings.with_seconds("own", "flow_matching", curve) == curve, "it is not known"
    # A start that takes 10 seconds, then 100 images a second; speeds are means from the start.
    rows = [{"images_seen": seen, "images_per_second": seen / (10 + seen / 100)} for seen in (500, 1000, 2000)]
    files.write_csv(file, rows)
    timed = timings.with_seconds("own", "flow_matching", curve)
    assert [row["seconds"] for row in timed] == [20.0, 26.0]


# --- students and their teachers ---


def test_a_student_without_its_teacher_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choices = params.load(ROOT / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_stage, "validated_data", lambda _: SimpleNamespace(info=None))
    with pytest.raises(
        LekhaniError,
        match=r"turbo learns from flow_matching, but .* is not there; run `dvc repro train@own-flow_matching` first",
    ):
        train_stage.train(choices, "own", "turbo")


def test_a_teacher_is_built_from_what_its_training_wrote_down(project: Path, tiny: params.Variants) -> None:
    today = params.load(ROOT / "params.yaml")
    assert today.variants.flow_matching.channels != tiny.flow_matching.channels
    choices, built = load_trained(today, "own", "flow_matching")
    assert choices.flow_matching == tiny.flow_matching
    for name, value in load_file(MODELS / "own" / "flow_matching" / "generator.safetensors").items():
        assert torch.equal(value, built.generator().state_dict()[name]), name
