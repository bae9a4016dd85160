"""The whole pipeline, cut to a minute, in a folder of its own: what a user of DVC, MLflow and Prefect would check."""

import json
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from workspace import Workspace, open_gate

from lekhani.registry import models
from lekhani.tracking.store import connect

pytestmark = pytest.mark.slow

# Outputs that differ between two equal runs; docs/contracts.md says why.
VARYING = (
    *("reports/*/judge_timing.json", "reports/*/*/train_timing.json", "reports/*/*/export_timing.json"),
    *("reports/*/*/speed.csv", "reports/leaderboard.md", "reports/leaderboard.html", "reports/leaderboard"),
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The pipeline reproduced once on MNIST's embedded scans."""
    space = Workspace(tmp_path_factory.mktemp("pipeline") / "project")
    space.copy_pipeline()
    params = space.params()
    params["pipeline"] |= {"variants": ["dcgan", "flow_matching"], "students": ["turbo"]}
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
    info = workspace.json("data/prepared/mnist/dataset.json")
    assert info["counts"] == {"train": 1078, "test": 719}
    assert workspace.json("reports/mnist/validation.json")["passed"] is True
    assert workspace.json("reports/mnist/judge.json")["accuracy"] > 0.6
    for variant in ("dcgan", "flow_matching", "turbo"):
        card = workspace.json(f"reports/mnist/{variant}/measurements.json")
        assert card["fid"] > card["fid_floor"] > 0
        assert card["fid_ratio"] == pytest.approx(card["fid"] / card["fid_floor"])
        assert card["parity_max_abs"] < 1e-4
        assert ("label_agreement" in card) == (variant != "dcgan")
        training = workspace.json(f"models/mnist/{variant}/training.json")
        assert training["data_digest"] == info["digest"]
        losses = (workspace.path / f"reports/mnist/{variant}/losses.csv").read_text().splitlines()
        assert len(losses) > 1
        assert len(list((workspace.path / f"reports/mnist/{variant}/samples").glob("*.png"))) == (
            1 if variant == "turbo" else 3
        )
        assert (workspace.path / f"reports/mnist/{variant}/grid.png").stat().st_size > 1000
        assert card["sampling_seeds"] == 2
        assert card["train_seed"] == card["seed"] == 7
        assert card["fid_std"] > 0
        assert {
            "near_copies",
            "train_excess",
            "usefulness",
            "usefulness_gain_10",
            "judges_agree",
            "collapsed_classes",
        } <= set(card)
        assert "nats_per_image" not in card, "none of them has a likelihood"
        assert card["usefulness"] == workspace.json(f"reports/mnist/{variant}/usefulness.json")["usefulness"]
        pictures = {path.name for path in (workspace.path / f"reports/mnist/{variant}/figures").iterdir()}
        assert pictures == {"worst.png", "closest.png"} | ({"confusion.png"} if variant != "dcgan" else set())
        curve = (workspace.path / f"reports/scorecards/mnist-{variant}/curve.csv").read_text().splitlines()
        assert len(curve) == len((workspace.path / f"reports/mnist/{variant}/scores.csv").read_text().splitlines())
    assert {path.name for path in (workspace.path / "cache/mnist").iterdir()} == {"judge.npz"}
    board = (workspace.path / "reports/leaderboard.csv").read_text().splitlines()
    assert len(board) == 4
    assert (workspace.path / "reports/leaderboard.png").stat().st_size > 1000
    assert "flow_matching" in (workspace.path / "reports/leaderboard.html").read_text(encoding="utf-8")
    shown = {path.name for path in (workspace.path / "reports/leaderboard").iterdir()}
    assert shown == {f"mnist-{name}.png" for name in ("curves", "precision_recall", "agreement", "class_fid")}


def test_a_second_repro_runs_nothing_and_metrics_are_shown(workspace: Workspace) -> None:
    out = workspace.run("dvc", "repro")
    assert "Running stage" not in out
    assert "Data and pipelines are up to date" in out
    assert workspace.run("git", "status", "--porcelain") == ""
    out = workspace.run("dvc", "metrics", "show", "--md")
    assert "fid_ratio" in out
    assert "flow_matching" in out


def test_another_clone_writes_the_same_lock(workspace: Workspace, tmp_path: Path) -> None:
    clone = Workspace(tmp_path / "clone")
    workspace.run("git", "clone", "-q", ".", str(clone.path))
    clone.run("git", "checkout", "-q", "HEAD^{/^start}")
    clone.run("dvc", "repro", "-q")
    texts = [(space.path / "dvc.lock").read_text(encoding="utf-8") for space in (workspace, clone)]
    locks = [yaml.safe_load(text)["stages"] for text in texts]
    differ = {
        out["path"]
        for stage, entry in locks[0].items()
        for out, other in zip(entry["outs"], locks[1][stage]["outs"], strict=True)
        if out != other
    }
    assert {path for path in differ if not any(fnmatch(path, known) for known in VARYING)} == set()
    for stages in locks:
        for entry in stages.values():
            entry["outs"] = [out for out in entry["outs"] if out["path"] not in differ]
    assert yaml.safe_dump(locks[0], sort_keys=False) == yaml.safe_dump(locks[1], sort_keys=False)


def test_changing_one_variant_touches_its_stages_only(workspace: Workspace) -> None:
    params = workspace.params()
    params["variants"]["dcgan"]["label_smoothing"] = 0.2
    workspace.write_params(params)
    try:
        status = json.loads(workspace.run("dvc", "status", "--json"))
        assert set(status) == {"train@mnist-dcgan"}  # what follows it is changed only once it has run
        diff = workspace.run("dvc", "params", "diff")
        assert "variants.dcgan.label_smoothing" in diff
        assert "flow_matching" not in diff
        dry = workspace.run("dvc", "repro", "--dry")
        assert "train@mnist-flow_matching" not in dry.replace(
            "Stage 'train@mnist-flow_matching' didn't change, skipping", ""
        )
    finally:
        workspace.run("git", "checkout", "-q", "params.yaml")


def test_mlflow_remembers_one_run_per_variant(workspace: Workspace) -> None:
    with workspace.inside():
        client = connect()
        experiment = client.get_experiment_by_name("lekhani")
        assert experiment
        (run,) = client.search_runs([experiment.experiment_id], "tags.variant = 'dcgan'")
        history = client.get_metric_history(run.info.run_id, "train/loss_g")
        artifacts, images = (
            [one.path for one in client.list_artifacts(run.info.run_id, path)] for path in (None, "images")
        )
    assert run.info.run_name == "mnist/dcgan seed=7"
    assert run.info.status == "FINISHED"
    assert run.data.params["lr_g"] == "0.0004"
    assert len(history) >= 2
    assert {one.dataset.name for one in run.inputs.dataset_inputs} == {"mnist/train", "mnist/test"}
    assert run.data.metrics["eval/fid"] == workspace.json("reports/mnist/dcgan/measurements.json")["fid"]
    assert len(run.data.tags["mlflow.source.git.commit"]) == 40
    assert run.data.tags["git.dirty"] == "false"
    assert run.data.tags["lekhani.pipeline"] == run.data.tags["scored.pipeline"], "one `dvc repro`"
    assert "dvc.lock_sha256" in run.data.tags
    assert {"evaluation", "images", "judge"} <= set(artifacts)
    assert len(images) >= 3


def test_register_then_generate(workspace: Workspace) -> None:
    said = workspace.lekhani("register", "--dataset", "mnist")
    assert "lekhani-mnist version 1" in said
    assert "version 1" in workspace.lekhani("register")  # again: nothing new
    for seed, out in (("7", "one"), ("7", "two"), ("8", "three")):
        workspace.lekhani(
            "generate",
            "--dataset",
            "mnist",
            "--label",
            "3=4",
            "--label",
            "5=2",
            "--seed",
            seed,
            "--out",
            out,
        )
    names = sorted(path.name for path in (workspace.path / "one").iterdir())
    assert len(names) == 9
    sheet = workspace.json("one/dataset.json")
    assert (sheet["images"], sheet["model"]["name"]) == (6, "lekhani-mnist:1")
    assert sheet["model"]["lineage"]["data"]["digest"] == workspace.json("data/prepared/mnist/dataset.json")["digest"]
    assert (workspace.path / "one/labels.csv").read_text().splitlines()[1] == "000000_3.png,3,3,3"
    same = [(workspace.path / "one" / n).read_bytes() == (workspace.path / "two" / n).read_bytes() for n in names]
    other = [
        (workspace.path / "one" / n).read_bytes() == (workspace.path / "three" / n).read_bytes()
        for n in names
        if n.endswith("png")
    ]
    assert all(same)
    assert not any(other)
    wrong = workspace.lekhani("generate", "--dataset", "mnist", "--label", "क=1", "--out", "four", code=2)
    assert "0 1 2 3 4 5 6 7 8 9" in wrong
    assert not (workspace.path / "four").exists()


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
    now = registry(workspace)
    first = now["aliases"]["champion"]
    assert now["aliases"] == {"champion": first}
    assert now["tags"][first]["gate.verdict"] == "promote"
    decision = workspace.json("reports/mnist/decision.json")
    assert decision["promote"] is True
    assert decision["forced"] is False
    assert decision["candidate"]["version"] == first
    scored, again = workspace.json("reports/mnist/flow_matching/measurements.json"), decision["candidate"]["scorecard"]
    # Floats nearly, since on some processors their sums depend on the number of threads.
    for key in again.keys() - {"latency_ms", "size_mb"}:
        expected = scored[key]
        assert again[key] == (pytest.approx(expected, rel=1e-5) if isinstance(expected, float) else expected), key
    for words in ((), ("--check",), ("--check", "--workspace", "--variant", "flow_matching")):
        assert f"no candidate, champion {first} stands" in workspace.lekhani("promote", *words)

    workspace.lekhani("register", "--variant", "dcgan")
    refused = workspace.lekhani("promote", "--check", code=3)
    assert "The candidate takes no labels, and the champion does" in refused
    assert "The candidate takes no labels" in workspace.lekhani("promote", code=3)
    now = registry(workspace)
    second = now["aliases"]["challenger"]
    assert now["aliases"]["champion"] == first
    assert now["tags"][second]["gate.verdict"] == "refuse"
    assert "label_agreement_drop" in now["tags"][second]["gate.failed"]
    assert "--reason" in workspace.lekhani("promote", "--force", code=2)
    assert "by force: to see what happens" in workspace.lekhani("promote", "--force", "--reason", "to see what happens")
    now = registry(workspace)
    assert now["aliases"] == {"champion": second, "previous": first}
    assert now["tags"][second]["promoted_because"] == "to see what happens"
    assert now["tags"][second]["gate.verdict"] == "forced"
    assert workspace.json("reports/mnist/decision.json")["forced"] is True
    assert f"version {first} is champion again" in workspace.lekhani(
        "rollback", "--dataset", "mnist", "--reason", "seen"
    )
    assert registry(workspace)["aliases"] == {"champion": first}
    assert "nothing to go back to" in workspace.lekhani("rollback", "--dataset", "mnist", code=2)
    assert workspace.run("git", "status", "--porcelain", "--untracked-files=no") == ""


def test_a_clone_without_the_run_opens_one_and_says_so(workspace: Workspace, tmp_path: Path) -> None:
    clone = Workspace(tmp_path / "clone")
    shutil.copytree(workspace.path, clone.path, ignore=shutil.ignore_patterns("mlruns", "one", "two", "three"))
    out = clone.lekhani("evaluate", "--dataset", "mnist", "--variant", "flow_matching")
    assert "does not have the training run of mnist/flow_matching" in out
    assert "version 1" in clone.lekhani("register", "--dataset", "mnist")


def test_a_failed_validation_stops_what_follows(workspace: Workspace, tmp_path: Path) -> None:
    broken = Workspace(tmp_path / "broken")
    shutil.copytree(workspace.path, broken.path, ignore=shutil.ignore_patterns("mlruns", "cache"))
    images = np.load(broken.path / "data/prepared/mnist/images.npy")
    images[3] = 0
    (broken.path / "data/prepared/mnist/images.npy").unlink()  # DVC may have made it read-only
    np.save(broken.path / "data/prepared/mnist/images.npy", images)
    said = broken.lekhani("validate", "--dataset", "mnist", code=1)
    assert "mnist is not fit to train on" in said
    assert broken.json("reports/mnist/validation.json")["passed"] is False
    said = broken.lekhani("train", "--dataset", "mnist", "--variant", "dcgan", code=1)
    assert "failed its validation" in said
    assert "Traceback" not in said


def test_the_prefect_flow_shows_cached_stages(workspace: Workspace) -> None:
    out = workspace.run(sys.executable, "pipelines/retrain.py", "--root", str(workspace.path), "--no-register")
    assert "retrain: nothing changed" in out
    assert out.count("Finished in state Cached") == 18
    assert "Traceback" not in out, "its server has written all before it ends"


def test_training_again_with_other_seeds_gives_mean_and_deviation(workspace: Workspace, tmp_path: Path) -> None:
    space = Workspace(tmp_path / "repeats")
    shutil.copytree(workspace.path, space.path, ignore=shutil.ignore_patterns("mlruns"), symlinks=True)
    assert "No experiment on top of HEAD repeats this training" in space.lekhani("compare", "--repeats", code=2)
    change = (
        "-S",
        "pipeline.variants=[dcgan]",
        "-S",
        "pipeline.students=[]",
        "-S",
        "profiles.quick.usefulness.seeds=0",
        "-S",
        "tracking.backend=none",
    )
    space.run("dvc", "exp", "run", *change)
    assert space.json("reports/mnist/dcgan/usefulness.json") == {}, "usefulness can be left out"
    assert "usefulness" not in space.json("reports/mnist/dcgan/measurements.json")
    space.run("git", "add", "-A")
    space.run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "one variant")
    first = space.json("reports/mnist/dcgan/measurements.json")
    space.run("dvc", "exp", "run", "-S", "train.seed=8")
    second = space.json("reports/mnist/dcgan/measurements.json")
    assert (first["train_seed"], second["train_seed"]) == (7, 8)
    assert first["judge_sha256"] == second["judge_sha256"], "only training is repeated"
    space.run("git", "checkout", "-q", ".")
    space.run("dvc", "checkout", "-q")
    space.lekhani("compare", "--repeats")
    header, row = (
        line.split(",") for line in (space.path / "reports/repeats/leaderboard.csv").read_text().splitlines()
    )
    card = dict(zip(header, row, strict=True))
    assert card["training_seeds"] == "2"
    assert float(card["fid"]) == pytest.approx((first["fid"] + second["fid"]) / 2, rel=1e-4)
    assert float(card["fid_std"]) == pytest.approx(abs(first["fid"] - second["fid"]) / 2**0.5, rel=1e-3)
