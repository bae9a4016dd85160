"""The deployments of prefect.yaml on a real Prefect server with a real worker, a scheduled run included; the pipeline is cut as small as it gets."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from workspace import ROOT, SCRIPTS, Workspace

STAGES = ["fetch", "prepare", "validate", "judge", "baseline"]
STAGES = [f"{stage}@mnist" for stage in STAGES]
STAGES += [*(f"{stage}@mnist-flow_matching" for stage in ("train", "export", "usefulness", "evaluate")), "compare"]


class Prefect:
    """A workspace with a Prefect server of its own."""

    def __init__(self, space: Workspace) -> None:
        self.space = space
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}/api"
        space.environment |= {
            "PREFECT_API_URL": self.url,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "3",
            "PREFECT_SERVER_UI_ENABLED": "false",
        }

    @contextmanager
    def running(self, *words: str) -> Iterator[None]:
        """One of Prefect's long-lived commands, which ends with the block."""
        log = self.space.path.parent / f"{words[0]}.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                [str(SCRIPTS / "prefect"), *words],
                cwd=self.space.path,
                env=self.space.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                yield
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(40)
                finally:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """Ask the server's API: POST what there is to post, else GET."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or "null")

    def until(self, what: str, seconds: float, probe: Any) -> Any:
        """What `probe` returns once that is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(OSError):
                if found := probe():
                    return found
            time.sleep(0.5)
        logs = "\n".join(log.read_text()[-3000:] for log in self.space.path.parent.glob("*.log"))
        pytest.fail(f"{what} did not come about within {seconds} s\n{logs}")

    def ended(self, **which: Any) -> dict[str, Any]:
        """The flow run that answers a filter, once it has ended."""
        final = {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}}
        runs = self.until("the flow run", 400, lambda: self.ask("flow_runs/filter", {"flow_runs": {**which, "state": final}}))
        return runs[0]  # type: ignore[no-any-return]

    def tasks(self, run: dict[str, Any]) -> dict[str, str]:
        """State by name of a flow run's tasks, which the server hears of a moment later."""
        asked = {"flow_runs": {"id": {"any_": [run["id"]]}}, "limit": 200}
        return {task["name"]: task["state_name"] for task in self.ask("task_runs/filter", asked)}

    def seconds(self, run: dict[str, Any]) -> float:
        start, end = (datetime.fromisoformat(run[key]) for key in ("start_time", "end_time"))
        return (end - start).total_seconds()


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    space = Workspace(tmp_path_factory.mktemp("scheduled") / "project")
    space.copy_pipeline()
    (space.path / "prefect.yaml").write_bytes((ROOT / "prefect.yaml").read_bytes())
    params = space.params()
    quick = params["profiles"]["quick"]
    quick["judge"]["images_seen"] = 6000
    quick["train"] |= {"images_seen": {"per_class": 32}, "score_every": 0}
    quick["variants"]["flow_matching"] |= {"channels": [8, 16], "steps": 1}
    quick["evaluate"] = {"n_generated": 100, "sampling_seeds": 2, "kid_subset_size": 50}
    quick["usefulness"] |= {"images_seen": 64, "seeds": 2}
    params["usefulness"]["shares"] = [1.0]
    params["pipeline"] = {"variants": ["flow_matching"], "students": []}
    params["gate"] |= {"max_fid_ratio": 1e9, "min_recall_ratio": 0.0, "max_near_copies_excess": 0.99, "max_train_excess_deviations": 1e9}
    params["gate"] |= {"min_usefulness_ratio": 0.0, "max_latency_ms": 1e5, "max_collapsed_classes": 10}
    quick["gate"] = {"min_label_agreement": 0.0, "min_label_agreement_second": 0.0}
    space.write_params(params)
    space.commit("start")
    server = Prefect(space)
    with server.running("server", "start", "--host", "127.0.0.1", "--port", str(server.port)):
        server.until("the server", 120, lambda: server.ask("health"))
        space.run("prefect", "work-pool", "create", "lekhani", "--type", "process")
        said = space.run("prefect", "--no-prompt", "deploy", "--all")
        assert all(name in said for name in ("retrain/nightly-quick", "retrain/weekly-full", "promote/on-demand", "generate/on-demand"))
        with server.running("worker", "start", "--pool", "lekhani"):
            yield server


def test_a_scheduled_run_then_nothing_to_do(prefect: Prefect) -> None:
    space, params = prefect.space, (prefect.space.path / "params.yaml").read_bytes()
    deployment = prefect.ask("deployments/name/retrain/nightly-quick")
    assert [(one["schedule"]["cron"], one["schedule"]["timezone"]) for one in deployment["schedules"]] == [("0 2 * * *", "UTC")]
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["parameter_openapi_schema"]["properties"]["profile"]["anyOf"][0]["enum"] == ["quick", "full"]
    every_minute = {"interval": 60, "anchor_date": (datetime.now(UTC) + timedelta(seconds=3)).isoformat()}
    schedule = prefect.ask(f"deployments/{deployment['id']}/schedules", [{"active": True, "schedule": every_minute}])[0]
    started = {"deployment_id": {"any_": [deployment["id"]]}, "state": {"name": {"any_": ["Running", "Completed", "Failed"]}}}
    prefect.until("a scheduled run", 180, lambda: prefect.ask("flow_runs/filter", {"flow_runs": started}))
    prefect.ask(f"deployments/{deployment['id']}/schedules/{schedule['id']}", method="DELETE")

    run = prefect.ended(deployment_id={"any_": [deployment["id"]]})
    assert run["auto_scheduled"] is True
    assert (run["state_name"], run["state"]["message"]) == ("Completed", f"{len(STAGES)} stages run, 0 cached")
    states = prefect.until("all tasks", 30, lambda: (found := prefect.tasks(run)) and len(found) == len(STAGES) + 1 and found)
    assert states == {**dict.fromkeys(STAGES, "Completed"), "artifacts": "Completed"}
    of_run = {"flow_run_id": {"any_": [run["id"]]}}
    told = [line["message"] for line in prefect.ask("logs/filter", {"logs": of_run, "sort": "TIMESTAMP_DESC"})]
    assert any("lekhani compare" in line for line in told), "the stages' logs are streamed"
    shown = {one["key"]: one["data"] for one in prefect.ask("artifacts/filter", {"artifacts": of_run})}
    assert set(shown) == {"leaderboard", "samples-mnist", "mlflow-runs"}
    assert "| 1 | flow_matching |" in shown["leaderboard"]
    assert "data:image/png;base64,iVBORw0KGgo" in shown["samples-mnist"]

    # Two at once: the first registers and promotes, the second waits for its turn and has nothing to do.
    ask = ("prefect", "deployment", "run", "retrain/nightly-quick", "--param", "register_best=true", "--flow-run-name")
    space.run(*ask, "one")
    space.run(*ask, "two")
    one, two = prefect.ended(name={"any_": ["one"]}), prefect.ended(name={"any_": ["two"]})
    assert one["state"]["message"] == "nothing changed; lekhani-mnist version 1 promoted"
    assert two["state"]["message"] == "nothing changed"
    assert two["start_time"] >= one["end_time"]
    states = prefect.until("all tasks", 30, lambda: (found := prefect.tasks(two)) and len(found) == len(STAGES) + 2 and found)
    assert states == {**dict.fromkeys([*STAGES, "register@mnist"], "Cached"), "artifacts": "Completed"}
    decided = prefect.until("the decision", 30, lambda: prefect.ask("artifacts/filter", {"artifacts": {"key": {"any_": ["gate-mnist"]}}}))
    assert "**Promote**" in decided[0]["data"]
    assert prefect.seconds(two) < 120, "30 s on a machine with nothing else to do"

    assert (space.path / "params.yaml").read_bytes() == params
    assert space.run("git", "status", "--porcelain") == ""


def test_batch_inference_on_demand(prefect: Prefect) -> None:
    asked = ("dataset=mnist", 'labels=["3=2"]', "out=glyphs", "seed=7")
    words = [word for one in asked for word in ("--param", one)]
    prefect.space.run("prefect", "deployment", "run", "generate/on-demand", *words, "--flow-run-name", "batch")
    run = prefect.ended(name={"any_": ["batch"]})
    assert run["state_name"] == "Completed", run["state"]["message"]
    assert len(list((prefect.space.path / "glyphs").glob("*.png"))) == 2


def test_a_wrong_choice_is_one_sentence(prefect: Prefect) -> None:
    asked = ("prefect", "deployment", "run", "retrain/nightly-quick", "--param", 'overrides=["train.sed=8"]', "--flow-run-name", "wrong")
    prefect.space.run(*asked)
    run = prefect.ended(name={"any_": ["wrong"]})
    assert (run["state_type"], run["state_name"]) == ("FAILED", "Failed"), "what automations look for"
    assert run["state"]["message"].startswith("overrides: Could not override 'train.sed'")
    assert prefect.tasks(run) == {}


def test_nothing_is_left_running(prefect: Prefect) -> None:
    assert not prefect.ask("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}})
