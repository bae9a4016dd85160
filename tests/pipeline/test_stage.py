"""How a stage is handed over, piece by piece, without a Prefect server; DVC and git are the real ones, in a toy
project."""

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import yaml
from httpx import ConnectError
from workspace import ROOT, Workspace

sys.path.insert(0, str(ROOT / "pipelines"))

import choices
import published
import retrain
import stage
from prefect.exceptions import ObjectNotFound
from prefect.logging import disable_run_logger
from prefect.states import Completed, Crashed, Failed

from lekhani import files
from lekhani.errors import UsageError

TOY = {
    "prepare": {"cmd": "echo p > prepared", "params": ["seed"], "outs": ["prepared"]},
    "train": {
        "cmd": "cat prepared > trained; echo t >> trained",
        "deps": ["prepared"],
        "outs": [{"trained": {"persist": True}}],
    },
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A project after its first stage, with a folder as DVC remote and a clone beside it."""
    space = Workspace(tmp_path_factory.mktemp("handed") / "project")
    space.copy_pipeline()
    (space.path / "dvc.yaml").write_text(yaml.safe_dump({"stages": TOY}))
    (space.path / ".gitignore").write_text("/prepared\n/trained\n/mlruns\n")
    space.run("dvc", "remote", "add", "-d", "store", str(space.path.parent / "remote"))
    space.run("dvc", "repro", "-q", "prepare")
    space.commit("start")
    space.run("git", "clone", "-q", str(space.path), str(space.path.parent / "clone"))
    return space


def test_links_to_runs_hold_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:hunter2@mlflow.example.org/")
    files.write_json(tmp_path / "models/mnist/dcgan/training.json", {})
    monkeypatch.setattr(files, "read_checked", lambda *_: {})
    monkeypatch.setattr(published, "training_run", lambda *_: "1a")
    p: Any = SimpleNamespace(pipeline=SimpleNamespace(datasets=("mnist",), everyone=("dcgan",)))
    page = published.runs_page(tmp_path, p)
    assert "| mnist | dcgan | [1a](https://mlflow.example.org/#/runs/1a) |" in page


def test_what_is_worth_a_worker() -> None:
    needs = {
        "fetch@d": set[str](),
        "validate@d": {"fetch@d"},
        "judge@d": {"validate@d"},
        "export@d-v": {"train@d-v"},
        "compare": {"export@d-v"},
    }
    needs["train@d-v"] = {"validate@d", "judge@d"}
    assert retrain.remote_stages(needs) == {"judge@d", "train@d-v", "export@d-v"}


def test_workers_work_at_a_commit(toy: Workspace) -> None:
    commit, clone = choices.commit_of(toy.path), toy.path.parent / "clone"
    toy.write_params(toy.params() | {"seed": 8})
    assert choices.commit_of(toy.path) == commit, "choices are handed over"
    text = (toy.path / "params.yaml").read_text()
    toy.run("git", "checkout", "-q", "params.yaml")
    folder = choices.at_commit(clone, commit, text)
    assert (folder / "params.yaml").read_text() == text
    assert (folder / "dvc.yaml").read_text() == (toy.path / "dvc.yaml").read_text()
    (folder / "checkpoint").write_text("half way")
    assert choices.at_commit(clone, commit, text) == folder
    assert (folder / "checkpoint").exists(), "it goes on from where it was"

    graph = (toy.path / "dvc.yaml").read_text()
    (toy.path / "dvc.yaml").write_text(graph + "# changed\n")
    with pytest.raises(UsageError, match=r"work at a commit, and dvc.yaml differs from it; commit and push it"):
        choices.commit_of(toy.path)
    toy.commit("second")
    second = choices.commit_of(toy.path)
    assert (choices.at_commit(clone, second, text) / "dvc.yaml").read_text().endswith("# changed\n"), (
        "the clone fetches what it has not"
    )
    with pytest.raises(UsageError, match="push it to where this worker's clone comes from"):
        choices.at_commit(clone, "0" * 40, text)


Answer = Callable[[Any], Any]


@pytest.fixture
def worker(toy: Workspace, monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], Any]:
    """Hands `train` over to a worker that is the function given: the parameters in, the final state and the entries
    of dvc.lock out."""

    def run_remotely(answer: Answer) -> Any:
        def run_deployment(_: str, parameters: dict[str, Any], **more: Any) -> Any:
            state, made = answer(json.loads(json.dumps(parameters)))
            client.read_flow_run = lambda _: SimpleNamespace(state=state)
            client.read_artifacts = lambda **_: [SimpleNamespace(data=json.dumps(made))]
            return SimpleNamespace(id=uuid4(), state=None)

        client: Any = SimpleNamespace()
        monkeypatch.setattr(stage, "run_deployment", run_deployment)
        monkeypatch.setattr(stage, "get_client", lambda **_: nullcontext(client))
        commit = choices.commit_of(toy.path)
        with disable_run_logger():
            return stage.run_remotely.fn(toy.path, "train", ["prepare"], ["prepare"], commit, "stage/worker")

    return run_remotely


def test_what_a_worker_made_is_taken_over_without_running_it(toy: Workspace, worker: Callable[[Answer], Any]) -> None:
    clone = toy.path.parent / "clone"

    def work(asked: Any) -> Any:
        assert asked["needs"] == ["prepare"]
        assert list(asked["lock"]) == ["prepare"]
        folder = choices.at_commit(clone, asked["commit"], asked["params_yaml"])
        stage.add_lock_entries(folder, asked["lock"])
        (folder / "prepared").write_text("of another run\n")
        other = Workspace(folder)
        other.run("dvc", "pull", "--force", "prepare")
        other.run("dvc", "repro", "--single-item", "train")
        other.run("dvc", "push", "train")
        return Completed(message="run"), stage.lock_entries(folder, ["train"])

    state = worker(work)
    assert (state.name, state.message) == ("Completed", "run")
    assert (toy.path / "trained").read_text() == "p\nt\n"
    assert "up to date" in toy.run("dvc", "status")
    assert set(stage.lock_entries(toy.path, ["prepare", "train", "never"])) == {"prepare", "train"}


DEPLOY = "`prefect deploy --all --prefect-file deploy/workers.yaml` makes it"
NO_DEPLOYMENT = f"There is no deployment 'stage/worker'; {DEPLOY}."


@pytest.mark.parametrize(
    ("ending", "name", "said"),
    [
        (Crashed(message="no heartbeats"), "Lost", "The worker that ran it is gone: no heartbeats"),
        (Failed(message="mnist is not fit to train on."), "Failed", "mnist is not fit to train on. (on a worker)"),
        (ObjectNotFound(Exception("404")), "Invalid", NO_DEPLOYMENT),
        (ConnectError("refused"), "Unreachable", "Prefect's server does not answer: refused"),
    ],
)
def test_what_becomes_of_a_worker_that_fails(
    toy: Workspace, worker: Callable[[Answer], Any], ending: Any, name: str, said: str
) -> None:
    def answer(_: Any) -> Any:
        if isinstance(ending, Exception):
            raise ending
        return ending, {}

    before = (toy.path / "dvc.lock").read_bytes()
    state = worker(answer)
    assert (state.name, state.message, state.is_failed()) == (name, said, True)
    assert (toy.path / "dvc.lock").read_bytes() == before


def test_a_try_finds_the_run_that_is_going_unless_its_worker_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {"None-0": Crashed(), "None-1": Completed(message="run")}
    asked: list[str] = []

    def run_deployment(*_: Any, idempotency_key: str, **more: Any) -> Any:
        asked.append(idempotency_key)
        return SimpleNamespace(id=uuid4(), state=runs[idempotency_key])

    client = SimpleNamespace(
        read_flow_run=lambda _: SimpleNamespace(state=runs[asked[-1]]), read_artifacts=lambda **_: []
    )
    monkeypatch.setattr(stage, "run_deployment", run_deployment)
    monkeypatch.setattr(stage, "get_client", lambda **_: nullcontext(client))
    assert stage.run_on_worker("stage/worker", {"stage": "train"})[0].message == "run"
    assert asked == ["None-0", "None-1"]
