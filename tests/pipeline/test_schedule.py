"""The deployments of prefect.yaml on a real Prefect server with a real worker, a scheduled run included; the
pipeline is cut as small as it gets."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from prefect_server import Prefect
from workspace import ROOT, Workspace

pytestmark = pytest.mark.slow

STAGES = ["fetch", "prepare", "validate", "judge", "baseline"]
STAGES = [f"{stage}@mnist" for stage in STAGES]
STAGES += [*(f"{stage}@mnist-flow_matching" for stage in ("train", "export", "usefulness", "evaluate")), "compare"]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = Workspace(tmp_path_factory.mktemp("scheduled") / "project")
    made.copy_pipeline()
    text = (ROOT / "prefect.yaml").read_text(encoding="utf-8")  # its smoke test takes all variants, which is long
    (made.path / "prefect.yaml").write_text(text.replace("smoke: true", "smoke: true\n      variants: [flow_matching]"))
    made.cut_small()
    made.commit("start")
    return made


@pytest.fixture(scope="module")
def prefect(space: Workspace) -> Iterator[Prefect]:
    server = Prefect(space.path.parent)
    server.join(space)
    with server.serving(space):
        space.run("prefect", "work-pool", "create", "lekhani", "--type", "process")
        said = space.run("prefect", "--no-prompt", "deploy", "--all")
        assert all(
            name in said
            for name in ("retrain/nightly-quick", "retrain/weekly-full", "promote/on-demand", "generate/on-demand")
        )
        with server.worker(space):
            yield server


def test_a_scheduled_run_then_nothing_to_do(space: Workspace, prefect: Prefect) -> None:
    params = (space.path / "params.yaml").read_bytes()
    deployment = prefect.ask("deployments/name/retrain/nightly-quick")
    assert [(one["schedule"]["cron"], one["schedule"]["timezone"]) for one in deployment["schedules"]] == [
        ("0 2 * * *", "UTC")
    ]
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["parameter_openapi_schema"]["properties"]["profile"]["anyOf"][0]["enum"] == ["quick", "full"]
    every_minute = {"interval": 60, "anchor_date": (datetime.now(UTC) + timedelta(seconds=3)).isoformat()}
    schedule = prefect.ask(f"deployments/{deployment['id']}/schedules", [{"active": True, "schedule": every_minute}])[0]
    started = {
        "deployment_id": {"any_": [deployment["id"]]},
        "state": {"name": {"any_": ["Running", "Completed", "Failed"]}},
    }
    prefect.until("a scheduled run", 180, lambda: prefect.runs(**started))
    prefect.ask(f"deployments/{deployment['id']}/schedules/{schedule['id']}", method="DELETE")

    run = prefect.ended(deployment_id={"any_": [deployment["id"]]})
    assert run["auto_scheduled"] is True
    stages = f"{len(STAGES)} stages run, 0 cached"
    assert (run["state_name"], run["state"]["message"]) == ("Completed", f"smoke test passed, {stages}; then {stages}")
    assert run["name"] == "quick, flow_matching, smoke test"
    assert "miniature" not in space.run("git", "worktree", "list")
    states = prefect.until(
        "all tasks", 30, lambda: (found := prefect.tasks(run)) and len(found) == len(STAGES) + 2 and found
    )
    assert states.pop("smoke-test-0") == "Completed"
    assert states == {**dict.fromkeys(STAGES, "Completed"), "artifacts": "Completed"}
    of_run = {"flow_run_id": {"any_": [run["id"]]}}
    told = [line["message"] for line in prefect.ask("logs/filter", {"logs": of_run, "sort": "TIMESTAMP_DESC"})]
    assert any("lekhani compare" in line for line in told), "the stages' logs are streamed"
    shown = prefect.artifacts(run)
    assert set(shown) == {"leaderboard", "samples-mnist", "mlflow-runs"}
    assert "| 1 | flow_matching |" in shown["leaderboard"]
    assert "data:image/png;base64,iVBORw0KGgo" in shown["samples-mnist"]

    # Two at once: the first registers and promotes, the second waits for its turn and has nothing to do.
    ask = ("prefect", "deployment", "run", "retrain/nightly-quick", "--param", "register_best=true", "--param")
    space.run(*ask, "smoke=false", "--flow-run-name", "one")
    space.run(*ask, "smoke=false", "--flow-run-name", "two")
    one, two = prefect.ended(name={"any_": ["one"]}), prefect.ended(name={"any_": ["two"]})
    assert one["state"]["message"] == "nothing changed; lekhani-mnist version 1 promoted"
    assert two["state"]["message"] == "nothing changed"
    assert two["start_time"] >= one["end_time"]
    states = prefect.until(
        "all tasks", 30, lambda: (found := prefect.tasks(two)) and len(found) == len(STAGES) + 2 and found
    )
    assert states == {**dict.fromkeys([*STAGES, "register@mnist"], "Cached"), "artifacts": "Completed"}
    assert "**Promote**" in prefect.until("the decision", 30, lambda: prefect.artifacts(one).get("gate-mnist"))
    assert prefect.seconds(two) < 120, "30 s on a machine with nothing else to do"

    assert (space.path / "params.yaml").read_bytes() == params
    assert space.run("git", "status", "--porcelain") == ""


def test_batch_inference_on_demand(space: Workspace, prefect: Prefect) -> None:
    asked = ("dataset=mnist", 'labels=["3=2"]', "each=1", "format=npz", "shard_size=4", "out=glyphs", "seed=7")
    words = [word for one in asked for word in ("--param", one)]
    space.run("prefect", "deployment", "run", "generate/on-demand", *words, "--flow-run-name", "batch")
    run = prefect.ended(name={"any_": ["batch"]})
    assert run["state_name"] == "Completed", run["state"]["message"]
    assert run["state"]["message"].startswith("Wrote 11 images of 10 classes")
    assert len(list((space.path / "glyphs").rglob("*.npz"))) == 3
    shown = prefect.until("the datasheet", 30, lambda: prefect.artifacts(run).get("generated-mnist"))
    assert shown == (space.path / "glyphs" / "README.md").read_text(encoding="utf-8")


def test_a_wrong_choice_is_one_sentence(space: Workspace, prefect: Prefect) -> None:
    wrong = ("--param", 'overrides=["train.sed=8"]', "--flow-run-name", "wrong")
    space.run("prefect", "deployment", "run", "retrain/nightly-quick", *wrong)
    run = prefect.ended(name={"any_": ["wrong"]})
    assert (run["state_type"], run["state_name"]) == ("FAILED", "Failed"), "what automations look for"
    assert run["state"]["message"].startswith("overrides: Could not override 'train.sed'")
    assert prefect.tasks(run) == {}


def test_nothing_is_left_running(prefect: Prefect) -> None:
    assert not prefect.runs(state={"type": {"any_": ["RUNNING", "PENDING"]}})
