"""The whole pipeline, cut to a minute, in a folder of its own: what a user of DVC, MLflow and Prefect would check."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from workspace import Workspace, open_gate

from lekhani.registry import models
from lekhani.tracking.store import connect

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The pipeline reproduced once on MNIST's embedded scans."""
    space = Workspace(tmp_path_factory.mktemp("pipeline") / "project")
    space.copy_pipeline()
    params = space.params()
    quick = params["profiles"]["quick"]
    quick["judge"] |= {"images_seen": 8000, "width": 8}
    quick["train"]["images_seen"] = {"per_class": 150}
    quick["variants"]["dcgan"]["channels"] = 8
    quick["variants"]["flow_matching"] |= {"channels": [16, 24], "steps": 3}
    quick["evaluate"] = {"n_generated": 300, "sampling_seeds": 2, "kid_subset_size": 100}
    quick["usefulness"] |= {"images_seen": 600, "seeds": 2}
    params["train"]["sample_every"] = 700
    open_gate(params)
    space.write_params(params)
    space.commit("start")
    space.run("dvc", "repro")
    space.commit("reproduced")
    return space


def test_every_output_is_there_and_keeps_its_contract(workspace: Workspace) -> None:
    info, reports = workspace.json("data/prepared/mnist/dataset.json"), workspace.path / "reports"
    assert info["counts"] == {"train": 1078, "test": 719}
    assert workspace.json("reports/mnist/validation.json")["passed"] is True
    assert workspace.json("reports/mnist/judge.json")["accuracy"] > 0.6
    for variant in ("dcgan", "flow_matching", "turbo"):
        card = workspace.json(f"reports/mnist/{variant}/scorecard.json")
        assert card["fid"] > card["fid_floor"] > 0
        assert card["fid_ratio"] == pytest.approx(card["fid"] / card["fid_floor"])
        assert card["parity_max_abs"] < 1e-4
        assert ("label_agreement" in card) == (variant != "dcgan")
        assert {"near_copies", "train_excess", "fid_std", "usefulness_gain_10", "collapsed_classes"} <= set(card)
        assert "nats_per_image" not in card, "none of them has a likelihood"
        assert card["usefulness"] == workspace.json(f"reports/mnist/{variant}/usefulness.json")["usefulness"]
        assert workspace.json(f"models/mnist/{variant}/training.json")["data_digest"] == info["digest"]
        samples = list((reports / "mnist" / variant / "samples").glob("*.png"))
        assert len(samples) == (1 if variant == "turbo" else 3)
        pictures = {path.name for path in (reports / "mnist" / variant / "figures").iterdir()}
        assert pictures == {"worst.png", "closest.png"} | ({"confusion.png"} if variant != "dcgan" else set())
    assert len((reports / "leaderboard.csv").read_text().splitlines()) == 4
    shown = {path.name for path in (reports / "leaderboard").iterdir()}
    assert shown == {f"mnist-{name}.png" for name in ("curves", "precision_recall", "agreement", "class_fid")}


def test_a_second_repro_runs_nothing_and_metrics_are_shown(workspace: Workspace) -> None:
    out = workspace.run("dvc", "repro")
    assert "Running stage" not in out
    assert "Data and pipelines are up to date" in out
    assert workspace.run("git", "status", "--porcelain") == ""
    out = workspace.run("dvc", "metrics", "show", "--md")
    assert "fid_ratio" in out
    assert "flow_matching" in out


def test_changing_one_variant_touches_its_stages_only(workspace: Workspace) -> None:
    params = workspace.params()
    params["variants"]["dcgan"]["label_smoothing"] = 0.2
    workspace.write_params(params)
    try:
        status = json.loads(workspace.run("dvc", "status", "--json"))
        assert set(status) == {"train@mnist-dcgan"}  # what follows it is changed only once it has run
    finally:
        workspace.run("git", "checkout", "-q", "params.yaml")


def test_register_then_generate(workspace: Workspace) -> None:
    assert "lekhani-mnist version 1" in workspace.lekhani("register", "--dataset", "mnist")
    assert "version 1" in workspace.lekhani("register")  # again: nothing new
    drawn = {}
    for seed, out in (("7", "one"), ("7", "two"), ("8", "three")):
        workspace.lekhani("generate", "--dataset", "mnist", "--label", "3=4", "--seed", seed, "--out", out)
        drawn[out] = {path.name: path.read_bytes() for path in (workspace.path / out).iterdir()}
    assert drawn["one"] == drawn["two"]
    pictures = [name for name in drawn["one"] if name.endswith("png")]
    assert len(pictures) == 4
    assert not any(drawn["one"][name] == drawn["three"][name] for name in pictures)
    model = workspace.json("one/dataset.json")["model"]
    assert model["name"] == "lekhani-mnist:1"
    assert model["lineage"]["data"]["digest"] == workspace.json("data/prepared/mnist/dataset.json")["digest"]


def registry(workspace: Workspace) -> dict[str, Any]:
    with workspace.inside():
        client = connect()
        versions = client.search_model_versions("name = 'lekhani-mnist'")
        return {"aliases": models.aliases("mnist"), "tags": {str(one.version): dict(one.tags) for one in versions}}


def test_promote_refuse_force_and_roll_back(workspace: Workspace) -> None:
    workspace.lekhani("register", "--variant", "flow_matching")
    before = registry(workspace)
    assert "**Promote**" in workspace.lekhani("promote", "--check")
    assert registry(workspace) == before, "--check changes nothing"
    assert not (workspace.path / "reports/mnist/decision.json").exists()
    assert "There is no champion yet" in workspace.lekhani("promote")
    first = registry(workspace)["aliases"]["champion"]
    candidate = workspace.json("reports/mnist/decision.json")["candidate"]
    assert candidate["version"] == first
    scored, again = workspace.json("reports/mnist/flow_matching/scorecard.json"), candidate["scorecard"]
    repeated = again.keys() - {"latency_ms", "size_mb"}  # which are measured anew
    assert {key: again[key] for key in repeated} == {key: scored[key] for key in repeated}
    assert f"champion {first} stands" in workspace.lekhani("promote", code=3)

    workspace.lekhani("register", "--variant", "dcgan")
    assert "The candidate takes no labels, and the champion does" in workspace.lekhani("promote", code=3)
    now = registry(workspace)
    second = now["aliases"]["challenger"]
    assert now["aliases"]["champion"] == first
    assert "label_agreement_drop" in now["tags"][second]["gate.failed"]
    assert "--reason" in workspace.lekhani("promote", "--force", code=2)
    assert "by force: to see what happens" in workspace.lekhani("promote", "--force", "--reason", "to see what happens")
    assert registry(workspace)["aliases"] == {"champion": second, "previous": first}
    back = workspace.lekhani("rollback", "--dataset", "mnist", "--reason", "seen")
    assert f"version {first} is champion again" in back
    assert registry(workspace)["aliases"] == {"champion": first}
    assert "nothing to go back to" in workspace.lekhani("rollback", "--dataset", "mnist", code=2)
    assert workspace.run("git", "status", "--porcelain", "--untracked-files=no") == ""


def test_a_clone_without_the_run_opens_one_and_says_so(workspace: Workspace, tmp_path: Path) -> None:
    clone = Workspace(tmp_path / "clone")
    shutil.copytree(workspace.path, clone.path, ignore=shutil.ignore_patterns("mlruns", "one", "two", "three"))
    out = clone.lekhani("evaluate", "--dataset", "mnist", "--variant", "flow_matching")
    assert "does not have the training run of mnist/flow_matching" in out
    assert "version 1" in clone.lekhani("register", "--dataset", "mnist")
