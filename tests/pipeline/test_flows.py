"""The flows piece by piece, without a Prefect server; DVC, git and the commands are the real ones, in a toy project."""

import contextlib
import fcntl
import json
import os
import shutil
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from workspace import ROOT, Workspace

sys.path.insert(0, str(ROOT / "pipelines"))

import choices
import commands
import promote
import retrain
import stage
from prefect.client.schemas.objects import TaskRun
from prefect.logging import disable_run_logger
from prefect.results import ResultRecord, ResultRecordMetadata
from prefect.serializers import JSONSerializer
from prefect.states import Cancelled, Completed, Failed

from lekhani import params
from lekhani.data.sources import fetch
from lekhani.errors import LekhaniError, UsageError
from lekhani.paths import in_project

RAW = params.read(ROOT / "params.yaml")
TOY = {
    "first": {"cmd": "echo one > first.txt", "params": ["seed"], "outs": ["first.txt"]},
    "second": {
        "cmd": "cat first.txt > second.txt",
        "deps": ["first.txt", "src/lekhani/stages"],
        "outs": ["second.txt"],
    },
    "wrong": {"cmd": "echo 'lekhani: mnist is not fit to train on.' >&2; exit 1", "outs": ["wrong.txt"]},
    "killed": {"cmd": "kill -9 $$", "outs": ["killed.txt"]},
    "fetch": {
        "matrix": {"dataset": "${pipeline.datasets}"},
        "cmd": "echo 'lekhani: Kaggle is away.'; exit 1",
        "outs": ["raw/${item.dataset}"],
    },
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A project with the real params.yaml and a few stages that take no time."""
    space = Workspace(tmp_path_factory.mktemp("toy") / "project")
    space.copy_pipeline()
    (space.path / "dvc.yaml").write_text(yaml.safe_dump({"vars": ["params.yaml"], "stages": TOY}))
    (space.path / ".gitignore").write_text("*.txt\n/raw\n/mlruns\n")
    space.commit("start")
    space.run("dvc", "repro", "-q", "second")
    space.commit("reproduced")
    return space


def run_stage(space: Workspace, stage: str, **more: Any) -> Any:
    with disable_run_logger():
        return retrain.run_stage.fn(space.path, stage, **more)


def test_choices_become_overrides() -> None:
    assert choices.as_overrides(RAW) == []
    assert choices.as_overrides(RAW, "full", ["mnist"], ["flow_matching", "turbo"], "openml", ["train.seed=8"]) == [
        "profile=full",
        "pipeline.datasets=[mnist]",
        "pipeline.variants=[flow_matching]",
        "pipeline.students=[turbo]",
        "data.mnist.source=openml",
        "train.seed=8",
    ]
    with pytest.raises(UsageError, match="no 'mnst'; there are: devanagari, mnist"):
        choices.as_overrides(RAW, datasets=["mnst"])


def test_choices_hold_in_a_workspace_of_their_own(toy: Workspace) -> None:
    before = (toy.path / "params.yaml").read_bytes()
    assert choices.workspace(toy.path, []) == toy.path
    given = ["profile=full", "train.seed=8", "data.mnist.path=my letters/a.zip"]
    folder = choices.workspace(toy.path, given)
    p = params.load(folder / "params.yaml")
    assert (p.profile, p.train.seed) == ("full", 8)
    with contextlib.chdir(folder):
        found = in_project(Path(p.data["mnist"].path or ""))
    assert found.resolve() == toy.path / "my letters/a.zip", "a relative path starts in the project's folder"
    assert folder.name.startswith("full-")
    assert (toy.path / "params.yaml").read_bytes() == before
    assert toy.run("git", "status", "--porcelain") == ""

    assert (folder / "second.txt").read_text() == "one\n", "what the project has made is not made again"
    assert retrain.graph_and_changes(folder)[1] == {"fetch@mnist", "wrong", "killed"}
    assert (folder / "mlruns").resolve() == toy.path / "mlruns"
    (folder / "dvc.lock").write_text("schema: '2.0'\n")
    assert choices.workspace(toy.path, given) == folder
    assert (folder / "dvc.lock").read_text() == "schema: '2.0'\n", "its own lock stays from one run to the next"


def test_worktrees_that_nobody_wants_any_more_go(toy: Workspace) -> None:
    old, new, used = (choices.workspace(toy.path, [f"train.seed={seed}"]) for seed in (11, 12, 13))
    for folder in (old, new, used):
        choices._release(folder)
    for folder in (old, used):
        os.utime(folder / "params.yaml", (0, time.time() - 15 * 86_400))
    held = os.open(used, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_SH)  # as another process does
    other = choices.workspace(toy.path, ["train.seed=14"])
    assert [one.exists() for one in (old, new, used)] == [False, True, True]
    os.close(held)
    toy.write_params(params.read(new / "params.yaml"))
    choices.workspace(toy.path, ["train.seed=14"])
    toy.run("git", "checkout", "-q", "params.yaml")
    assert [one.exists() for one in (new, used, other)] == [False, False, True], "params.yaml has the choice by now"
    assert str(old) not in toy.run("git", "worktree", "list")


def test_every_stage_runs_in_miniature_and_leaves_nothing(
    toy: Workspace, monkeypatch: pytest.MonkeyPatch, runner: "FakeRunner"
) -> None:
    def tested() -> Any:
        with disable_run_logger():
            return retrain.smoke_test.fn(toy.path, ["train.seed=8"], 2)

    cache = sorted((toy.path / ".dvc/cache").rglob("*"))
    before = toy.run("git", "worktree", "list")
    assert tested().message == f"{len(TOY)} stages run, 0 cached"
    one = runner.arguments["second"]
    assert (one["force"], one["commit"]) == (True, False)
    real = run_stage(toy, "second", force=True, commit=False)
    assert real.message == "run"
    assert sorted((toy.path / ".dvc/cache").rglob("*")) == cache
    runner.states["second"] = Failed(message="a mistake.")
    assert "second failed: a mistake." in tested().message
    assert toy.run("git", "worktree", "list") == before


def test_a_run_is_named_for_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = dict.fromkeys(("profile", "source", "datasets", "variants", "overrides", "smoke"))

    def name(given: str, **asked: Any) -> str:
        known = SimpleNamespace(name=given, parameters=nothing | asked)
        monkeypatch.setattr(retrain, "flow_run", known)
        monkeypatch.setattr(commands, "flow_run", known)
        return retrain._run_name()

    assert name("brave-otter") == "all of params.yaml"
    assert name("brave-otter", profile="quick", datasets=["mnist"], smoke=True) == "quick, mnist, smoke test"
    assert name("before the release", profile="quick") == "before the release"


def test_a_sentence_names_the_files_of_the_workspace_that_it_is_about(tmp_path: Path) -> None:
    said, folder = "mnist failed, see reports/mnist/validation.json; mend it.", tmp_path / "flows" / "quick-1"
    assert stage.with_whole_paths(said, tmp_path) == said
    assert f"see {folder}/reports/mnist/validation.json; mend" in stage.with_whole_paths(said, folder)
    assert stage.with_whole_paths(f"{folder}/reports/a", folder) == f"{folder}/reports/a"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("train.sed=8", "Could not override 'train.sed'"),
        ("pipeline.variants=[sngn]", "did you mean `sngan`"),
    ],
)
def test_a_wrong_choice_is_said_and_leaves_nothing(toy: Workspace, given: str, sentence: str) -> None:
    flows = toy.path / ".dvc/tmp/flows"
    before = sorted(flows.glob("*"))
    with pytest.raises((UsageError, params.ParamsError), match=sentence):
        choices.workspace(toy.path, [given])
    assert sorted(flows.glob("*")) == before


def test_a_stage_runs_once(toy: Workspace) -> None:
    assert run_stage(toy, "second", is_due=False).name == "Cached"
    assert run_stage(toy, "second").name == "Cached"
    assert run_stage(toy, "second", force=True).message == "run"
    toy.write_params(toy.params() | {"seed": 8})
    try:
        assert retrain.graph_and_changes(toy.path)[1] >= {"first"}
        assert run_stage(toy, "first").message == "run"
    finally:
        toy.run("git", "checkout", "-q", "params.yaml", "dvc.lock")
    assert run_stage(toy, "first").name == "Cached", "what DVC's run cache restores has not run either"


def retried(state: Any, count: int = 1) -> bool:
    return commands.is_worth_retrying(None, TaskRun(task_key="t", dynamic_key="0", run_count=count), state)


@pytest.mark.parametrize(
    ("stage", "name", "message", "tries"),
    [
        ("wrong", "Failed", "mnist is not fit to train on.", 1),
        ("fetch@mnist", "Unreachable", "Kaggle is away.", 9),
        ("killed", "Killed", "The process was killed by SIGKILL; ", 4),
        ("third", "Failed", "Stage 'third' not found", 1),
    ],
)
def test_a_stage_that_fails_says_why_and_whether_to_try_again(
    toy: Workspace, stage: str, name: str, message: str, tries: int
) -> None:
    state = run_stage(toy, stage)
    assert state.name == name
    assert message in state.message
    assert [retried(state, count) for count in range(1, 10)] == [count < tries or tries == 9 for count in range(1, 10)]


def test_a_lock_file_that_a_full_disk_cut_off_stops_nobody(toy: Workspace) -> None:
    lock = toy.path / ".dvc" / "tmp" / "rwlock"
    lock.write_text('{"write": {}, "read": {"a')
    assert "JSON structure is corrupted" in toy.run("dvc", "repro", "second", code=255)
    needs, _ = retrain.graph_and_changes(toy.path)
    assert "second" in needs
    lock.write_text('{"write": {}, "read": {}}')
    retrain.graph_and_changes(toy.path)
    assert lock.exists()
    shutil.rmtree(lock.parent)  # as in a fresh clone
    assert "second" in retrain.graph_and_changes(toy.path)[0]


def test_files_that_another_process_works_on(toy: Workspace) -> None:
    lock = {"write": {str(toy.path / "second.txt"): {"pid": os.getpid(), "cmd": "dvc repro -s second"}}, "read": {}}
    (toy.path / ".dvc/tmp/rwlock").write_text(json.dumps(lock))
    try:
        busy = run_stage(toy, "second", force=True)
        needs, due = retrain.graph_and_changes(toy.path)
    finally:
        (toy.path / ".dvc/tmp/rwlock").unlink()
    assert due == set(needs), "DVC does not say what changed meanwhile, so every stage is due"
    assert (busy.name, retried(busy)) == ("Busy", True)
    assert f"Process {os.getpid()} (dvc repro -s second) is working on the same files" in busy.message


@pytest.mark.parametrize(
    ("code", "lines", "name"),
    [
        (1, ["Scoring", "lekhani: MLflow at http://127.0.0.1:1 is away.", ""], "Unreachable"),
        (1, ["Traceback (most recent call last):", "RuntimeError: a mistake", "ERROR: exited with 1"], "Failed"),
        (1, ["lekhani: MLflow at sqlite:///mlruns/mlflow.db: disk is full."], "Failed"),
        (1, ["lekhani: out is being written by process 7 on a, since 2026; wait for its end."], "Busy"),
        (255, ["lekhani: No 'x'.", "ERROR: failed to run: lekhani fetch, exited with 2"], "Invalid"),
    ],
    ids=["a server comes back", "a mistake stays", "a file does not", "another writer ends", "wrong use"],
)
def test_the_state_of_a_failed_command(code: int, lines: list[str], name: str) -> None:
    state = commands.failed_state(commands.CommandResult(code, tuple(lines)))
    assert (state.name, retried(state)) == (name, name in {"Unreachable", "Busy"})
    assert "exited with" not in state.message, "why rather than how it ended"


def test_commands_end_with_the_flow(tmp_path: Path) -> None:
    child = "import time; open('child', 'w'); time.sleep(60)"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    ended: list[commands.CommandResult] = []

    def work() -> None:
        with disable_run_logger():
            ended.append(commands.run_command(tmp_path, "python", "-c", script))

    thread = threading.Thread(target=work)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), commands.terminating_commands():  # noqa: PT012 - the wait belongs to it
        thread.start()
        while not (tmp_path / "child").exists():
            time.sleep(0.05)
        raise KeyboardInterrupt
    thread.join(40)
    assert ended, "a pipe that the grandchild holds open shows that it lives on"
    assert time.monotonic() - start < 50
    assert commands.failed_state(ended[0]).is_cancelled(), "no reason to try again"
    with commands.terminating_commands():
        assert commands.failed_state(ended[0]).name == "Killed", "the next flow of this process starts afresh"


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> Any:
        raise KeyboardInterrupt

    assert commands.run_flow_here("retrain", lambda: Completed(message="nothing changed")) == 0
    assert capsys.readouterr().out == "retrain: nothing changed\n"
    assert commands.run_flow_here("retrain", lambda: Failed(message="no.")) == 1
    assert capsys.readouterr().err == "retrain: no.\n"
    wrong_use = ResultRecord(
        result=UsageError("no."), metadata=ResultRecordMetadata(storage_key="x", serializer=JSONSerializer())
    )
    assert commands.run_flow_here("retrain", lambda: Failed(message="no.", data=wrong_use)) == 2
    assert commands.run_flow_here("retrain", stopped) == 130


@dataclass(eq=False)
class FakeFuture:
    """A task that has run."""

    state: Any

    def wait(self) -> None:
        """It has."""


class FakeRunner:
    """Runs no stage: it notes what it was given in `arguments` and `tags`, and takes final states from `states`."""

    def __init__(self) -> None:
        self.states: dict[str, Any] = {}
        self.arguments: dict[str, dict[str, Any]] = {}
        self.tags: dict[str, set[str]] = {}

    def __getitem__(self, _: Any) -> "FakeRunner":
        return self

    def __call__(self, max_workers: int) -> "FakeRunner":
        return self

    def __enter__(self) -> "FakeRunner":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def submit(self, task: Any, arguments: dict[str, Any]) -> FakeFuture:
        stage = arguments["stage"]
        self.arguments[stage], self.tags[stage] = arguments, set(task.tags)
        done = Completed(message="run") if arguments["is_due"] else Completed(name="Cached")
        return FakeFuture(self.states.get(stage, done))

    def due(self) -> set[str]:
        return {stage for stage, arguments in self.arguments.items() if arguments["is_due"]}


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> FakeRunner:
    fake = FakeRunner()
    monkeypatch.setattr(retrain, "ThreadPoolTaskRunner", fake)
    monkeypatch.setattr(retrain, "as_completed", iter)
    monkeypatch.setattr(retrain, "gpus", list)
    return fake


NEEDS = {
    "fetch@a": set[str](),
    "judge@a": {"fetch@a"},
    "train@a-x": {"judge@a"},
    "train@a-y": {"judge@a"},
    "fetch@b": set[str](),
    "judge@b": {"fetch@b"},
}
NEEDS |= {"compare": {"train@a-x", "train@a-y", "judge@b"}}


def test_needs_run_first_and_only_what_changed_is_due(runner: FakeRunner) -> None:
    states = retrain.run_stages(Path("x"), NEEDS, {"train@a-x"}, {"fetch@b"}, 3)
    order = list(runner.arguments)
    assert sorted(order) == sorted(NEEDS)
    assert all(order.index(other) < order.index(stage) for stage, others in NEEDS.items() for other in others)
    assert set(order[:2]) == {"fetch@a", "fetch@b"}, "independent stages are submitted together"
    changed = {"train@a-x", "fetch@b", "judge@b", "compare"}
    assert {stage for stage, state in states.items() if state.name != "Cached"} == runner.due() == changed


def test_what_follows_from_a_restored_stage_is_due(runner: FakeRunner) -> None:
    # The run cache or another flow had it.
    runner.states["judge@a"] = Completed(name="Cached", message="DVC found nothing to run")
    retrain.run_stages(Path("x"), NEEDS, {"judge@a"}, set(), 2)
    assert runner.due() == {"judge@a", "train@a-x", "train@a-y", "compare"}


def test_a_failure_stops_what_needs_it_and_nothing_else(runner: FakeRunner) -> None:
    runner.states["judge@a"] = Failed(message="no memory.")
    states = retrain.run_stages(Path("x"), NEEDS, set(NEEDS), set(), 2)
    assert set(states) == {"fetch@a", "judge@a", "fetch@b", "judge@b"}
    state = retrain.run_state(states, len(NEEDS))
    assert state.is_failed()
    rest = "3 stages that need what is missing were not started"
    assert state.message == f"judge@a failed: no memory. {rest}. Nothing was registered or promoted."


def test_stages_that_train_share_gpus_in_turn(runner: FakeRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrain, "gpus", lambda: ["0", "3"])
    retrain.run_stages(Path("x"), NEEDS, set(NEEDS), set(), 2)
    gpu_of = {
        stage: arguments["environment"].get("CUDA_VISIBLE_DEVICES") for stage, arguments in runner.arguments.items()
    }
    assert sorted(gpu_of[stage] for stage in ("judge@a", "judge@b", "train@a-x", "train@a-y")) == ["0", "0", "3", "3"]
    assert (gpu_of["fetch@a"], runner.tags["fetch@a"]) == (None, set())
    assert all(runner.tags[stage] == {f"gpu-{gpu}"} for stage, gpu in gpu_of.items() if gpu)


def test_gpus_are_those_that_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert retrain.gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert retrain.gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: some (UUID: GPU-a)'\necho '  MIG 1g'\necho 'GPU 1: some (UUID: GPU-b)'\n")
    tool.chmod(0o755)
    assert retrain.gpus() == ["0", "1"]


def test_one_sentence_says_what_happened() -> None:
    run, cached = Completed(message="run"), Completed(name="Cached", message="decided before")
    promoted = Completed(name="Promoted", message="lekhani-mnist version 3 promoted")
    refused = Completed(name="Refused", message="lekhani-devanagari version 2 refused (improvement, noise)")
    assert retrain.run_state({"a": cached, "b": cached}, 2).message == "nothing changed"
    good = retrain.run_state({"a": run, "b": cached}, 2, [promoted, refused])
    assert good.message == f"1 stage run, 1 cached; {promoted.message}, {refused.message}"
    assert good.is_completed(), "a refusal is a good end"
    away = retrain.run_state({"a": run, "b": run}, 2, [Failed(message="MLflow is away.")])
    assert (away.is_failed(), away.message) == (True, "2 stages run, 0 cached; MLflow is away")
    stopped = retrain.run_state({"a": Cancelled(message="stopped together with the flow")}, 1)
    assert stopped.is_failed()


def test_a_refusal_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, str] = {}
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(promote, "create_markdown_artifact", lambda text, key: shown.update({key: text}))
    table = ("## lekhani-my_own: version 2 (dcgan) against champion 1", "", "**Refuse**: 1 of 2 checks failed (noise).")

    def gate(code: int) -> Any:
        def answer(_: Path, *words: str) -> commands.CommandResult:
            asked.append(words)
            return commands.CommandResult(code, ("Scoring it", *table))

        monkeypatch.setattr(commands, "run_command", answer)
        return promote.gate.fn(tmp_path, "my_own", check=True, version="2")

    state = gate(3)
    assert (state.name, state.is_completed()) == ("Refused", True)
    assert state.message == "lekhani-my_own version 2 would be refused (noise)"
    assert asked == [("lekhani", "promote", "--dataset", "my_own", "--check", "--version", "2")]
    assert shown == {"gate-my-own": "\n".join(table)}
    assert gate(1).is_failed()


def test_the_gate_is_asked_once_about_the_same_model_and_data(store: Path, tmp_path: Path) -> None:
    from lekhani.tracking.store import connect

    (tmp_path / "reports").mkdir()
    board = "dataset,place,variant,model_sha256,data_digest\nother,1,a,5,5\nnightly,1,b,abc,d1\nnightly,2,c,def,d1\n"
    (tmp_path / "reports/leaderboard.csv").write_text(board)
    client, name = connect(), "lekhani-nightly"
    assert not promote.is_decided(tmp_path, "nightly"), "nothing is registered"
    client.create_registered_model(name)
    for sha in ("def", "abc"):
        version = client.create_model_version(name, f"file:///{sha}", tags={"model_sha256": sha}).version
    client.set_registered_model_alias(name, "challenger", version)

    def tagged(**tags: str) -> bool:
        for key, value in tags.items():
            client.set_model_version_tag(name, version, key.replace("gate_", "gate."), value)
        return promote.is_decided(tmp_path, "nightly")

    assert not tagged(), "it is registered, and the gate has not been asked"
    assert not tagged(gate_verdict="refuse", gate_data_digest="d0"), "it was, about other data"
    assert tagged(gate_data_digest="d1")
    assert not tagged(gate_verdict="promote"), "it was to be promoted, and the alias has not moved"
    assert not tagged(promoted_over="none"), "its promotion was interrupted"
    client.delete_registered_model_alias(name, "challenger")
    client.set_registered_model_alias(name, "champion", version)
    assert tagged()


def test_kaggle_that_does_not_answer_keeps_what_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = params.resolve(RAW).data["mnist"]

    def answer(given: int | LekhaniError | None) -> Any:
        def newer(*asked: Any) -> int | None:
            assert asked == ("mnist", data, tmp_path / "data/raw/mnist")
            if isinstance(given, LekhaniError):
                raise given
            return given

        monkeypatch.setattr(fetch, "newer_version", newer)
        with disable_run_logger():
            return retrain.newer_version.fn(tmp_path, "mnist", data)

    assert (answer(4).name, answer(4).message) == ("Newer", "version 4")
    assert answer(None).name == "Cached"
    assert answer(LekhaniError("Kaggle is away.")).message == "Kaggle is away."
