"""What goes wrong on an ordinary day, with real processes: after each the next run ends well and nothing is lost or
half written."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
import yaml
from prefect_server import Prefect
from services import serving
from workspace import ROOT, SCRIPTS, Workspace

pytestmark = pytest.mark.slow

STEPS = 125
TRAIN = "train@mnist-flow_matching"
RETRAINED = {TRAIN, *(f"{stage}@mnist-flow_matching" for stage in ("export", "usefulness", "evaluate")), "compare"}
DECIDED = "lekhani-mnist version 2"  # promoted or refused, as the gate finds it
GENERATOR = "models/mnist/flow_matching/generator.safetensors"
LOSSES = "reports/mnist/flow_matching/losses.csv"


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    home = Workspace(tmp_path_factory.mktemp("prefect") / "home")
    server = Prefect(home.path.parent)
    with server.serving(home):
        yield server


def joined(space: Workspace, prefect: Prefect) -> Workspace:
    """The workspace with the server in use, and with little patience."""
    prefect.join(space)
    space.environment |= {
        "PREFECT_TASKS_DEFAULT_RETRY_DELAY_SECONDS": "2",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "OMP_NUM_THREADS": "1",
    }
    return space


@pytest.fixture(scope="module")
def finished(prefect: Prefect, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A project after a good run, with a champion."""
    space = joined(Workspace(tmp_path_factory.mktemp("finished") / "project"), prefect)
    space.copy_pipeline()
    space.cut_small()
    params = space.params()
    params["train"] |= {"log_every": 1, "checkpoint_steps": 5, "device": "cpu"}
    params["profiles"]["quick"]["train"]["images_seen"]["per_class"] = STEPS * 32 // 10
    space.write_params(params)
    (space.path / "prefect.yaml").write_bytes((ROOT / "prefect.yaml").read_bytes())
    space.commit("start")
    assert "version 1 promoted" in retrain(space)
    space.commit("finished")
    return space


@pytest.fixture
def space(finished: Workspace, prefect: Prefect, tmp_path: Path) -> Workspace:
    """The same project in a folder of its own."""
    return copied(finished, prefect, tmp_path / "project")


def copied(finished: Workspace, prefect: Prefect, path: Path) -> Workspace:
    subprocess.run(["cp", "-a", str(finished.path), str(path)], check=True)
    return joined(Workspace(path), prefect)


@pytest.fixture(scope="module")
def unbroken(finished: Workspace, prefect: Prefect, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The generator of another training seed, trained at one go."""
    space = copied(finished, prefect, tmp_path_factory.mktemp("unbroken") / "project")
    reseed(space)
    space.run("lekhani", "train", "--dataset", "mnist", "--variant", "flow_matching")
    return (space.path / GENERATOR).read_bytes()


def reseed(space: Workspace) -> None:
    """Make training due, and all that follows from it."""
    params = space.params()
    params["train"]["seed"] = 8
    space.write_params(params)


def retrain(space: Workspace, *words: str, code: int = 0) -> str:
    """Run the flow to its end and return the sentence that it prints last."""
    said = space.run("python", "pipelines/retrain.py", *words, code=code)
    found: list[str] = re.findall(r"^retrain: (.+)$", said, re.MULTILINE)
    assert len(found) == 1, said
    assert "Traceback" not in said, said
    return found[0]


def family(pid: int) -> list[psutil.Process]:
    """All processes below one."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def end(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


def trainer(pid: int) -> psutil.Process:
    """The training process below a flow or a worker: Lekhani's own, not the shell or DVC around it."""
    found = [one for one in family(pid) if {"train", f"{SCRIPTS}/lekhani"} <= set(one.cmdline())]
    assert len(found) == 1, [one.cmdline() for one in family(pid)]
    return found[0]


def wait_for_steps(losses: Path, count: int, seconds: float = 300) -> None:
    """Return when the training under way has told of `count` steps."""
    deadline = time.monotonic() + seconds
    while True:
        told = len(losses.read_text().splitlines()) - 1 if losses.exists() else 0
        if count <= told < STEPS:
            return
        assert time.monotonic() < deadline, f"training does not get on: {told} steps"
        time.sleep(0.005)


def due(space: Workspace) -> set[str]:
    """The stages that DVC would run, which it can only say when dvc.lock is whole."""
    return set(json.loads(space.run("dvc", "status", "--json").splitlines()[0]))


def nothing_half_written(folder: Path) -> None:
    left = [path for path in folder.rglob(".*") if path.suffix in (".tmp", ".old")]
    assert [path for path in left if not {".git", ".dvc"} & set(path.parts)] == []


def asked(folder: Path, query: str) -> list[str]:
    """The first column of what MLflow's database answers."""
    with closing(sqlite3.connect(f"file:{folder}/mlruns/mlflow.db?mode=ro", uri=True)) as connection:
        return [str(row[0]) for row in connection.execute(query)]


def champion(folder: Path) -> str:
    (found,) = asked(folder, "select version from registered_model_aliases where alias = 'champion'")
    return found


def runs(folder: Path) -> list[str]:
    """The states of MLflow's training runs."""
    return asked(folder, "select status from runs where name = 'mnist/flow_matching' order by start_time")


def latest(prefect: Prefect) -> dict[str, Any]:
    """The flow run that started last; those that are only scheduled have not."""
    return next(run for run in prefect.runs() if run["start_time"])


# -- processes that die -----------------------------------------------------------------------------------------------


def test_the_worker_dies_with_its_flow(space: Workspace, prefect: Prefect, unbroken: bytes) -> None:
    automation = yaml.safe_load((ROOT / "pipelines/crashed.yaml").read_text())
    automation["automations"][0]["trigger"]["within"] = 75
    (space.path / "crashed.yaml").write_text(yaml.safe_dump(automation))
    space.environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] = "30"
    space.run("prefect", "automation", "create", "--from-file", "crashed.yaml")
    space.run("prefect", "work-pool", "create", "lekhani", "--type", "process")
    space.run("prefect", "--no-prompt", "deploy", "--name", "nightly-quick")
    run_it = ("prefect", "deployment", "run", "retrain/nightly-quick")
    ask = (*run_it, "--param", 'overrides=["train.seed=8"]', "--flow-run-name")
    with prefect.worker(space) as group:
        space.run(*ask, "dies")
        which = {"name": {"any_": ["dies"]}, "state": {"name": {"any_": ["Running"]}}}
        run = prefect.until("the run", 200, lambda: prefect.runs(**which))[0]
        flows = space.path / ".dvc/tmp/flows"
        folder = prefect.until("a workspace", 100, lambda: list(flows.glob("quick-*/params.yaml")))[0].parent
        wait_for_steps(folder / LOSSES, 40)
        stage = trainer(group)
        for one in family(group):
            if one != stage and "prefect" in " ".join(one.cmdline()):
                end(one)
        os.killpg(group, signal.SIGKILL)
    stage.wait(200)  # it is nobody's child any more, and ends by itself
    with prefect.worker(space):
        space.run(*ask, "goes on")
        again = prefect.ended(name={"any_": ["goes on"]})
    assert (again["state_name"], again["state"]["message"]) == ("Completed", "5 stages run, 5 cached")
    dead = prefect.runs(name={"any_": ["dies"]})[0]
    assert dead["id"] == run["id"]
    message = automation["automations"][0]["actions"][0]["message"]
    assert (dead["state_name"], dead["state"]["message"]) == ("Crashed", message)
    assert (folder / GENERATOR).read_bytes() == unbroken
    nothing_half_written(folder)
    assert set(runs(space.path)) == {"FINISHED"}
    assert champion(space.path) == "1"
    assert due(space) == set()


# -- one machine ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200M", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can only be mounted by root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("room", [0, 400_000])
def test_a_full_disk(finished: Workspace, prefect: Prefect, small_disk: Path, room: int, unbroken: bytes) -> None:
    space = copied(finished, prefect, small_disk / "project")
    space.environment["PREFECT_HOME"] = str(small_disk.parent / "prefect")
    reseed(space)
    ballast = small_disk / "ballast"
    free = os.statvfs(small_disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - room)
    sentence = retrain(space, code=1)
    assert latest(prefect)["state"]["message"] == sentence
    assert "No space left on device" in sentence or "disk is full" in sentence
    ballast.unlink()
    nothing_half_written(space.path)
    assert TRAIN in due(space)
    assert champion(space.path) == "1"
    assert DECIDED in retrain(space)
    assert (space.path / GENERATOR).read_bytes() == unbroken
    nothing_half_written(space.path)
    assert due(space) == set()
    assert runs(space.path)[-1] == "FINISHED"
    assert "RUNNING" not in runs(space.path)


def test_two_flows_at_once_in_one_workspace(space: Workspace, prefect: Prefect, unbroken: bytes) -> None:
    reseed(space)
    with ThreadPoolExecutor(2) as flows:
        sentences = list(flows.map(lambda _: retrain(space), range(2)))
    run = [int(found[1]) if (found := re.match(r"(\d+) stages? run", sentence)) else 0 for sentence in sentences]
    assert sum(run) == len(RETRAINED), f"each stage runs once: {sentences}"
    assert (space.path / GENERATOR).read_bytes() == unbroken
    nothing_half_written(space.path)
    assert due(space) == set()
    assert runs(space.path) == ["FINISHED"] * 2, "MLflow knows a good end of every training"
    assert champion(space.path) == ("2" if f"{DECIDED} promoted" in "".join(sentences) else "1")


# -- who is told ------------------------------------------------------------------------------------------------------


class Receiver(BaseHTTPRequestHandler):
    """Keeps the messages that it is sent."""

    received: ClassVar[list[Any]] = []

    def do_POST(self) -> None:
        self.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


def documented(section: str) -> list[tuple[str, str]]:
    """The blocks of code in a section of docs/scheduling.md, with their languages."""
    text = (ROOT / "docs/scheduling.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)


def test_one_message_about_a_run_that_failed_and_none_unasked(prefect: Prefect, tmp_path: Path) -> None:
    space = joined(Workspace(tmp_path / "project"), prefect)
    space.copy_pipeline()
    space.commit("start")
    (_, block), (_, automation), (_, create) = documented("Tell someone")
    server, messages = ThreadingHTTPServer(("127.0.0.1", 0), Receiver), Receiver.received
    with serving(server):
        url = f"json://127.0.0.1:{server.server_address[1]}"  # any that the library knows will do
        space.environment |= {"SLACK_WEBHOOK_URL": url, "PREFECT_API_URL": prefect.url}
        ours = block.replace("http://127.0.0.1:4200/api", prefect.url)
        printed = space.run("bash", "-euc", ours).split()[-1]
        wrong = retrain(space, "-S", "train.sed=8", code=2)
        (space.path / "automation.yaml").write_text(automation.replace("00000000-0000-0000-0000-000000000000", printed))
        space.run("bash", "-euc", create)
        assert messages == [], "nothing is sent unless it is asked for"

        retrain(space, "-S", "train.sed=8", code=2)
        prefect.until("a message", 60, lambda: messages)
        space.run("python", "pipelines/promote.py", code=1)  # another flow
        time.sleep(5)
        assert len(messages) == 1
        assert (messages[0]["title"], messages[0]["message"]) == ("retrain Failed", wrong)
