"""The same commands against a team's MLflow, a server over PostgreSQL and S3, as one of the team sees it.

Nothing but MLFLOW_TRACKING_URI is set; artifacts come and go through the server, which alone has the keys to database
and bucket.
"""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import mlflow
import pytest
from team import PASSWORD, SECRET, Team
from workspace import Workspace

from lekhani.generate.shards import DatasetRequest
from lekhani.generate.write import counts, write_dataset
from lekhani.inference.sampling import Plan, SamplingOptions
from lekhani.pen import find

pytestmark = pytest.mark.slow
NAME = "lekhani-mnist"


@pytest.fixture(scope="module")
def workspace(team: Team, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The pipeline reproduced once, with one small variant and a gate that hardly asks anything of a first champion."""
    space = Workspace(tmp_path_factory.mktemp("member") / "project")
    space.environment["MLFLOW_TRACKING_URI"] = team.uri
    space.copy_pipeline()
    params = space.params()
    params["pipeline"] |= {"variants": ["cgan"], "students": []}
    params["train"]["sample_every"] = 1000
    params["gate"] |= {"max_fid_ratio": 1e6, "min_recall_ratio": 0.0, "max_collapsed_classes": 10}
    params["gate"] |= {"max_near_copies_excess": 0.99, "max_train_excess_deviations": 1e6, "max_latency_ms": 1e6}
    quick = params["profiles"]["quick"]
    quick["judge"]["images_seen"] = 6000
    quick["train"]["images_seen"] = {"per_class": 600}
    quick["evaluate"] = {"n_generated": 200, "sampling_seeds": 2, "kid_subset_size": 50}
    quick["usefulness"]["seeds"] = 0
    quick["gate"] = {"min_label_agreement": 0.0, "min_label_agreement_second": 0.0, "min_modes_ratio": 0.0}
    space.write_params(params)
    space.commit("start")
    space.run("dvc", "repro")
    space.commit("reproduced")
    return space


@pytest.fixture(scope="module")
def first(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 is champion; a copy of the file that it was registered from."""
    assert f"{NAME} version 1 is cgan" in workspace.run("lekhani", "register")
    assert "**Promote**" in workspace.run("lekhani", "promote")
    return Path(shutil.copy(workspace.path / "models/mnist/cgan/generator.onnx", tmp_path_factory.mktemp("first")))


@pytest.fixture(scope="module")
def second(workspace: Workspace, first: Path) -> Path:
    """Version 2, which was trained on less, is challenger; the file that it was registered from."""
    params = workspace.params()
    params["variants"]["cgan"]["budget"] = 0.05
    workspace.write_params(params)
    workspace.run("dvc", "repro")
    workspace.commit("trained on less")
    assert f"{NAME} version 2 is cgan" in workspace.run("lekhani", "register")
    return workspace.path / "models/mnist/cgan/generator.onnx"


@pytest.fixture
def elsewhere(team: Team, tmp_path: Path) -> Workspace:
    """The empty folder of someone who knows the server's address."""
    space = Workspace(tmp_path / "elsewhere")
    space.path.mkdir()
    space.environment["MLFLOW_TRACKING_URI"] = team.uri
    return space


@pytest.fixture
def client(team: Team) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(team.uri)


def aliases(team: Team) -> dict[str, int]:
    return dict(team.rows(f"SELECT alias, version FROM registered_model_aliases WHERE name = '{NAME}'"))


def sentence(space: Workspace, *words: str, within: float = 120) -> str:
    """Run a command that is to fail with exit code 1 and one sentence in good time, and return the sentence."""
    begun = time.monotonic()
    said = space.run("lekhani", *words, code=1)
    assert time.monotonic() - begun < within
    last = said.strip().splitlines()[-1]
    assert last.startswith("lekhani: ")
    assert "Traceback" not in said
    assert PASSWORD not in said
    assert SECRET not in said
    return last


def test_runs_arrive(workspace: Workspace, team: Team, client: mlflow.MlflowClient) -> None:
    experiment = client.get_experiment_by_name("lekhani")
    assert experiment
    (found,) = client.search_runs([experiment.experiment_id], "tags.variant = 'cgan'")
    assert found.info.status == "FINISHED"
    assert found.data.params["width"] == "128"
    assert len(found.data.tags["mlflow.source.git.commit"]) == 40
    assert {one.dataset.name for one in found.inputs.dataset_inputs} == {"mnist/train", "mnist/test"}
    card = workspace.json("reports/mnist/cgan/measurements.json")
    assert found.data.metrics["eval/fid"] == card["fid"]
    assert len(client.get_metric_history(found.info.run_id, "train/loss_g")) > 1
    # In the database and in the bucket, and nowhere here.
    assert team.rows(
        f"SELECT value FROM latest_metrics WHERE run_uuid = '{found.info.run_id}' AND key = 'eval/fid'"
    ) == [(card["fid"],)]
    (stored,) = team.stored(found.info.run_id, "evaluation/measurements.json")
    assert json.load(stored.get()["Body"]) == card
    assert not (workspace.path / "mlruns").exists()


def test_a_champion_comes_and_goes(workspace: Workspace, team: Team, client: mlflow.MlflowClient, second: Path) -> None:
    before = {"champion": 1, "challenger": 2}
    assert aliases(team) == before
    assert "**Refuse**" in workspace.run("lekhani", "promote", code=3)
    assert aliases(team) == before
    assert client.get_model_version(NAME, "2").tags["gate.verdict"] == "refuse"
    workspace.run("lekhani", "promote", "--force", "--reason", "to see version 2")
    assert aliases(team) == {"champion": 2, "previous": 1}
    decision = workspace.json("reports/mnist/decision.json")
    kept = [json.load(stored.get()["Body"]) for stored in team.stored("gate", "/decision.json")]
    assert decision in kept
    assert sum(one["candidate"]["version"] == "2" for one in kept) == 2, "a refusal is kept as well"
    workspace.run("lekhani", "rollback", "--dataset", "mnist", "--reason", "seen")
    assert aliases(team)["champion"] == 1


def test_the_champion_writes_for_whoever_knows_the_address(elsewhere: Workspace, first: Path, tmp_path: Path) -> None:
    options = ("--label", "3=2", "--label", "7=1", "--seed", "5", "--out", "glyphs")
    said = elsewhere.run("lekhani", "generate", "--dataset", "mnist", *options)
    assert f"{NAME} version 1" in said
    pen = find("mnist", first)
    write_dataset(
        pen, DatasetRequest(Plan(counts(pen.classes, ["3=2", "7=1"])), SamplingOptions(5)), str(tmp_path / "expected")
    )
    origins = {"dataset.json", "README.md"}  # say by which way the model came
    expected = {path.name: path.read_bytes() for path in (tmp_path / "expected").iterdir() if path.name not in origins}
    assert {
        path.name: path.read_bytes() for path in (elsewhere.path / "glyphs").iterdir() if path.name not in origins
    } == expected
    assert len(expected) == 4
    assert [path.name for path in elsewhere.path.iterdir()] == ["glyphs"]


def test_a_server_that_is_away_for_a_while(
    workspace: Workspace, elsewhere: Workspace, team: Team, second: Path
) -> None:
    before = aliases(team)
    generate = ("generate", "--dataset", "mnist", "--label", "3=1", "--out", "glyphs")
    team.stop()
    try:
        for space, *words in (
            (elsewhere, *generate),
            (workspace, "register"),
            (workspace, "promote", "--version", "2"),
        ):
            said = sentence(space, *words)
            assert team.uri in said
            assert "Nothing is registered" not in said
    finally:
        team.start()
    # One that takes calls and never answers.
    for variable, value in (("TIMEOUT", "1"), ("MAX_RETRIES", "1")):
        elsewhere.environment[f"MLFLOW_HTTP_REQUEST_{variable}"] = value
    os.killpg(team.pid, signal.SIGSTOP)
    try:
        sentence(elsewhere, *generate)
    finally:
        os.killpg(team.pid, signal.SIGCONT)
    assert aliases(team) == before
    assert not any(elsewhere.path.iterdir())
    elsewhere.run("lekhani", *generate)


def test_a_champion_whose_file_is_lost_or_not_its_own(
    workspace: Workspace, elsewhere: Workspace, team: Team, client: mlflow.MlflowClient, first: Path, second: Path
) -> None:
    before, model = aliases(team), str(client.get_model_version(NAME, "1").source).removeprefix("models:/")
    (stored,) = team.stored(model, "generator.onnx")
    generate = ("generate", "--dataset", "mnist", "--label", "3=1", "--out", "glyphs")
    promote = ("promote", "--version", "2")
    try:
        stored.delete()
        for space, *words in ((elsewhere, *generate), (workspace, *promote)):
            assert f"{NAME} " in sentence(space, *words)
        stored.put(Body=second.read_bytes())
        for space, *words in ((elsewhere, *generate), (workspace, *promote)):
            said = sentence(space, *words)
            assert f"{NAME} version 1" in said
            assert "SHA-256" in said
    finally:
        stored.put(Body=first.read_bytes())
    assert aliases(team) == before
    assert not any(elsewhere.path.iterdir())
    elsewhere.run("lekhani", *generate)
