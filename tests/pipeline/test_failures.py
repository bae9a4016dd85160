"""What goes wrong on an ordinary day, with real processes: after each the next run ends well and nothing is lost or
half written."""

import json
import os
import re
import signal
import sqlite3
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fake_sites
import numpy as np
import psutil
import pytest
import yaml
from prefect_server import Prefect
from services import free_port, mlflow_server, serving
from workspace import ROOT, SCRIPTS, Workspace

pytestmark = pytest.mark.slow

STEPS = 125
TRAIN = "train@mnist-flow_matching"
RETRAINED = {TRAIN, *(f"{stage}@mnist-flow_matching" for stage in ("export", "usefulness", "evaluate")), "compare"}
DECIDED = "lekhani-mnist version 2"  # promoted or refused, as the gate finds it
GENERATOR = "models/mnist/flow_matching/generator.safetensors"
LOSSES = "checkpoints/mnist/flow_matching/losses.csv"


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


def reseed(space: Workspace, **changes: Any) -> None:
    """Make training due, and all that follows from it."""
    params = space.params()
    params["train"]["seed"] = 8
    space.write_params(params | changes)


def retrain(space: Workspace, *words: str, code: int = 0) -> str:
    """Run the flow to its end and return the sentence that it prints last."""
    said = space.run("python", "pipelines/retrain.py", *words, code=code)
    found: list[str] = re.findall(r"^retrain: (.+)$", said, re.MULTILINE)
    assert len(found) == 1, said
    assert "Traceback" not in said, said
    return found[0]


@contextmanager
def started(space: Workspace, name: str = "flow", *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """The flow in the background; what it says goes to a file beside the workspace, and what is left of it ends with
    the block."""
    with (space.path.parent / f"{name}.log").open("wb") as log:
        flow = subprocess.Popen(
            [str(SCRIPTS / "python"), "pipelines/retrain.py", *words],
            cwd=space.path,
            env=space.environment,
            stdout=log,
            stderr=log,
        )
        try:
            yield flow
        finally:
            for one in family(flow.pid):
                end(one)
            flow.kill()
            flow.wait(30)


def said(space: Workspace, flow: "subprocess.Popen[bytes]", name: str = "flow") -> str:
    """The last line of a flow in the background, once it has ended well."""
    code = flow.wait(500)
    text = (space.path.parent / f"{name}.log").read_text()
    assert code == 0, text
    return text.splitlines()[-1].removeprefix("retrain: ")


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
    left = [
        path
        for path in folder.rglob(".*")
        if path.suffix in (".tmp", ".old") and ".git" not in path.parts and ".dvc" not in path.parts
    ]
    assert left == []


def asked(database: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def champion(folder: Path) -> str:
    (found,) = asked(
        folder / "mlruns/mlflow.db", "select version from registered_model_aliases where alias = 'champion'"
    )
    return str(found[0])


def runs(folder: Path) -> list[str]:
    """The states of MLflow's training runs."""
    return [
        status
        for (status,) in asked(
            folder / "mlruns/mlflow.db",
            "select status from runs where name like 'mnist/flow_matching%' order by start_time",
        )
    ]


def latest(prefect: Prefect) -> dict[str, Any]:
    """The flow run that started last; those that are only scheduled have not."""
    return next(run for run in prefect.runs() if run["start_time"])


def all_is_well(space: Workspace, sentence: str, trainings: int = 2) -> None:
    """A flow that said `sentence` has left everything up to date and whole, and MLflow knows a good end of every
    training."""
    nothing_half_written(space.path)
    assert due(space) == set()
    assert runs(space.path) == ["FINISHED"] * trainings
    assert trainings == 1 or DECIDED in sentence
    assert champion(space.path) == ("2" if f"{DECIDED} promoted" in sentence else "1")
    assert not (space.path / "checkpoints/mnist/flow_matching").exists()


# -- the outside world ------------------------------------------------------------------------------------------------


PATCHED = """
import os, sys
if "fetch" in sys.orig_argv or "pipelines/retrain.py" in sys.orig_argv:
    import kagglesdk.kaggle_env as kaggle
    kaggle._env_to_endpoint[kaggle.KaggleEnv.PROD] = os.environ["FAKE_KAGGLE"]
    from lekhani.data.sources import transfer
    transfer.MIN_WAIT = transfer.MAX_WAIT = 0.1
"""


def archive(prepared: Path) -> bytes:
    """Prepared images as Kaggle's copy of MNIST packs them."""
    images, labels = np.load(prepared / "images.npy"), np.load(prepared / "labels.npy")
    order, members = np.random.default_rng(0).permutation(len(labels)), dict[str, bytes]()
    images, labels = images[order], labels[order]
    for prefix, part in (("train", slice(0, 1000)), ("t10k", slice(1000, 1500))):
        members[f"{prefix}-images.idx3-ubyte"] = (
            struct.pack(">IIII", 0x803, len(labels[part]), 28, 28) + images[part].tobytes()
        )
        members[f"{prefix}-labels.idx1-ubyte"] = (
            struct.pack(">II", 0x801, len(labels[part])) + labels[part].astype(np.uint8).tobytes()
        )
    return fake_sites.packed(members)


def test_kaggle_has_a_bad_day(space: Workspace, prefect: Prefect, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(PATCHED)
    site = fake_sites.FakeKaggle()
    site.archives["hojjatk/mnist-dataset", 1] = archive(space.path / "data/prepared/mnist")
    paths = [str(tmp_path / "site"), space.environment.get("PYTHONPATH", "")]
    space.environment |= {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "HOME": str(tmp_path),
        "KAGGLE_API_TOKEN": fake_sites.TOKEN,
    }
    params = space.params()
    params["data"]["mnist"]["source"] = "kaggle"
    space.write_params(params)
    with site.running():
        space.environment["FAKE_KAGGLE"] = site.url
        site.faults["GetDataset"] = [fake_sites.status(500)] * 2
        site.faults["DownloadDataset"] = [fake_sites.status(500)] * 7  # more than the stage itself has patience for
        sentence = retrain(space)
        assert (site.count("GetDataset"), site.count("DownloadDataset")) == (4, 8)
        assert prefect.tasks(latest(prefect))["fetch@mnist"] == "Completed"
        fetched = space.json("data/raw/mnist/source.json")
        assert (fetched["name"], fetched["version"]) == ("kaggle", 1)

        site.always["GetDataset"] = fake_sites.status(500)
        assert retrain(space) == "nothing changed", "what is here stays"
        all_is_well(space, sentence)


def test_data_that_are_not_fit(space: Workspace, prefect: Prefect) -> None:
    before, params = (space.path / GENERATOR).read_bytes(), space.params()
    space.write_params(
        params | {"validation": params["validation"] | {"class_balance": "error", "min_per_class": 100000}}
    )
    sentence = retrain(space, code=1)
    assert sentence.startswith(
        "validate@mnist failed: mnist is not fit to train on: Classes with fewer than 100000 images"
    )
    assert sentence.endswith("Nothing was registered or promoted.")
    run = latest(prefect)
    assert (run["state_name"], run["state"]["message"]) == ("Failed", sentence)
    shown = prefect.until("the report", 30, lambda: prefect.artifacts(run).get("validation-mnist"))
    assert "100000" in shown
    assert "100000" in (space.path / "reports/mnist/validation.md").read_text()
    assert not {TRAIN, "judge@mnist"} & set(prefect.tasks(run))
    assert (space.path / GENERATOR).read_bytes() == before
    assert champion(space.path) == "1"
    assert "validate@mnist" in due(space)
    nothing_half_written(space.path)
    space.write_params(params)
    assert retrain(space) == "nothing changed"
    all_is_well(space, "", trainings=1)


def test_mlflow_is_away_for_a_while(space: Workspace, prefect: Prefect, tmp_path: Path) -> None:
    store, port = tmp_path / "store", free_port()
    store.mkdir()
    space.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
    reseed(space)

    def server() -> Any:
        return mlflow_server(store, port, f"sqlite:///{store}/mlflow.db", str(store / "artifacts"))

    with started(space) as flow:
        with server():
            wait_for_steps(space.path / LOSSES, 20)
        run = latest(prefect)
        prefect.until("a task that waits", 300, lambda: "AwaitingRetry" in prefect.tasks(run).values())
        with server():
            sentence = said(space, flow)
    assert sentence == "5 stages run, 5 cached; lekhani-mnist version 1 promoted"
    assert latest(prefect)["state"]["message"] == sentence
    database = store / "mlflow.db"
    steps = asked(database, "select distinct step from metrics where key = 'train/loss' order by step")
    assert [step for (step,) in steps] == list(range(1, STEPS + 1))
    assert asked(database, "select count(*) from metrics where key = 'eval/fid'") == [(1,)]
    assert {status for (status,) in asked(database, "select status from runs")} == {"FINISHED"}
    assert due(space) == set()
    nothing_half_written(space.path)


# -- processes that die -----------------------------------------------------------------------------------------------


def test_a_training_that_is_killed_goes_on(space: Workspace, prefect: Prefect, unbroken: bytes) -> None:
    reseed(space)
    with started(space) as flow:
        wait_for_steps(space.path / LOSSES, 40)
        end(trainer(flow.pid))
        run = latest(prefect)
        sentence = said(space, flow)
    assert sentence.startswith(f"5 stages run, 5 cached; {DECIDED}")
    told = (space.path.parent / "flow.log").read_text()
    assert "flow_matching goes on from step" in told
    assert "killed by SIGKILL" in told
    assert (space.path / GENERATOR).read_bytes() == unbroken
    assert prefect.tasks(run)[TRAIN] == "Completed"
    all_is_well(space, sentence)


def test_the_worker_dies_with_its_flow(space: Workspace, prefect: Prefect, unbroken: bytes) -> None:
    automation = yaml.safe_load((ROOT / "pipelines/crashed.yaml").read_text())
    automation["automations"][0]["trigger"]["within"] = 75
    (space.path / "crashed.yaml").write_text(yaml.safe_dump(automation))
    space.environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] = "30"
    space.run("prefect", "automation", "create", "--from-file", "crashed.yaml")
    space.run("prefect", "work-pool", "create", "lekhani", "--type", "process")
    space.run("prefect", "--no-prompt", "deploy", "--name", "nightly-quick")
    ask = (
        "prefect",
        "deployment",
        "run",
        "retrain/nightly-quick",
        "--param",
        'overrides=["train.seed=8"]',
        "--param",
        "smoke=false",
        "--flow-run-name",
    )
    with prefect.worker(space) as group:
        space.run(*ask, "dies")
        run = prefect.until(
            "the run", 200, lambda: prefect.runs(name={"any_": ["dies"]}, state={"name": {"any_": ["Running"]}})
        )[0]
        folder = prefect.until("a workspace", 100, lambda: list(space.path.glob(".dvc/tmp/flows/quick-*/params.yaml")))[
            0
        ].parent
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
    assert (dead["state_name"], dead["state"]["message"]) == (
        "Crashed",
        automation["automations"][0]["actions"][0]["message"],
    )
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
    if (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=200M", "tmpfs", str(disk)], capture_output=True, check=False
        ).returncode
        != 0
    ):
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
    assert champion(space.path) == "1"
    sentence = retrain(space)
    assert f"{len(RETRAINED)} stages run" in sentence
    assert DECIDED in sentence
    assert (space.path / GENERATOR).read_bytes() == unbroken
    nothing_half_written(space.path)
    assert due(space) == set()
    assert runs(space.path)[-1] == "FINISHED"
    assert "RUNNING" not in runs(space.path)


def test_two_flows_at_once_in_one_workspace(space: Workspace, prefect: Prefect, unbroken: bytes) -> None:
    reseed(space)
    with started(space, "one") as one, started(space, "two") as two:
        sentences = said(space, one, "one"), said(space, two, "two")
    run = [int(found[1]) if (found := re.match(r"(\d+) stages? run", sentence)) else 0 for sentence in sentences]
    assert sum(run) == len(RETRAINED), f"each stage runs once: {sentences}"
    assert (space.path / GENERATOR).read_bytes() == unbroken
    all_is_well(space, "".join(sentences))


# -- who is told ------------------------------------------------------------------------------------------------------


class Receiver:
    """Whom messages go to: a server on a loopback port that keeps what it is sent."""

    def __init__(self) -> None:
        received: list[Any] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing on stderr."""

        self.received, self.server = received, ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @contextmanager
    def running(self) -> Iterator["Receiver"]:
        with serving(self.server):
            yield self


def documented(section: str) -> list[tuple[str, str]]:
    """The blocks of code in a section of docs/scheduling.md, with their languages."""
    text = (ROOT / "docs/scheduling.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)


def test_one_message_about_a_run_that_failed_and_none_unasked(prefect: Prefect, tmp_path: Path) -> None:
    space = joined(Workspace(tmp_path / "project"), prefect)
    space.copy_pipeline()
    space.commit("start")
    (_, block), (_, automation), (_, create) = documented("Tell someone")
    with Receiver().running() as receiver:
        url = f"json://127.0.0.1:{receiver.server.server_address[1]}"  # any that the library knows will do
        space.environment |= {"SLACK_WEBHOOK_URL": url, "PREFECT_API_URL": prefect.url}
        ours = block.replace("http://127.0.0.1:4200/api", prefect.url)
        printed = space.run("bash", "-euc", ours).split()[-1]
        wrong = retrain(space, "-S", "train.sed=8", code=2)
        (space.path / "automation.yaml").write_text(automation.replace("00000000-0000-0000-0000-000000000000", printed))
        space.run("bash", "-euc", create)
        assert receiver.received == [], "nothing is sent unless it is asked for"

        retrain(space, "-S", "train.sed=8", code=2)
        prefect.until("a message", 60, lambda: receiver.received)
        space.run("python", "pipelines/promote.py", code=1)  # another flow
        time.sleep(5)
        assert len(receiver.received) == 1
        assert (receiver.received[0]["title"], receiver.received[0]["message"]) == ("retrain Failed", wrong)
