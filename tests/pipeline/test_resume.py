"""A training process that is killed at any moment ends, when it is started again, with the bytes of an unbroken one."""

import random
import signal
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import psutil
import pytest
import yaml
from safetensors.numpy import load_file
from training import finish, refusal, rows, start, wait_for_rows, workspace

KILLS = 3


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = workspace(tmp_path_factory.mktemp("unbroken"))
    finish(folder)
    return folder / "models" / "mnist" / "dcgan" / "generator.safetensors"


def test_killed_again_and_again(unbroken: Path, tmp_path: Path) -> None:
    folder, rng = workspace(tmp_path / "killed"), random.Random()  # any moment will do, so there is no seed
    deaths = []
    for kill in range(KILLS):
        process = start(folder)
        wait_for_rows(process, folder, 40 * kill + rng.randint(8, 40))
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, "it was over before it was killed"
        deaths.append(rows(folder))
    told = finish(folder)
    assert "goes on from step" in told
    assert (folder / "models" / "mnist" / "dcgan" / "generator.safetensors").read_bytes() == unbroken.read_bytes(), (
        f"killed after steps {deaths}"
    )
    losses = (folder / "reports" / "mnist" / "dcgan" / "losses.csv").read_text().splitlines()
    assert [int(line.split(",")[0]) for line in losses[1:]] == list(range(1, 151)), "each step is told once"
    assert not (folder / "checkpoints" / "mnist" / "dcgan").exists()


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_asked_to_stop(number: signal.Signals, code: int, unbroken: Path, tmp_path: Path) -> None:
    folder = workspace(tmp_path / "stopped")
    process = start(folder)
    wait_for_rows(process, folder, 20)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code
    assert "run the same command to go on" in told
    assert "Traceback" not in told
    finish(folder)
    assert (folder / "models" / "mnist" / "dcgan" / "generator.safetensors").read_bytes() == unbroken.read_bytes()


def test_a_changed_param_is_refused_by_name(tmp_path: Path) -> None:
    folder = workspace(tmp_path / "changed")
    process = start(folder)
    wait_for_rows(process, folder, 10)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    choices = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    choices["profiles"]["quick"]["variants"]["dcgan"]["lr_g"] = 1e-3
    (folder / "params.yaml").write_text(yaml.safe_dump(choices), encoding="utf-8")
    assert "variants.dcgan.lr_g 0.0004, and now it is 0.001" in refusal(folder)


def test_training_starts_from_weights_of_an_earlier_one(unbroken: Path, tmp_path: Path) -> None:
    folder = workspace(tmp_path / "warm")
    choices = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    settings = choices["profiles"]["quick"]["variants"]["dcgan"]
    settings |= {"lr_g": 1e-9, "start_from": str(unbroken)}  # so that no step moves a weight by much
    choices["profiles"]["quick"]["train"]["images_seen"] = {"per_class": 12, "at_least": 1}
    (folder / "params.yaml").write_text(yaml.safe_dump(choices), encoding="utf-8")
    finish(folder)
    before, after = load_file(unbroken), load_file(folder / "models" / "mnist" / "dcgan" / "generator.safetensors")
    assert all(
        np.allclose(after[name], before[name], atol=1e-6) for name in before if name.endswith(("weight", "bias"))
    )

    for wrong in ({"channels": 16}, {"start_from": "missing.safetensors"}):
        choices["profiles"]["quick"]["variants"]["dcgan"] = settings | wrong
        (folder / "params.yaml").write_text(yaml.safe_dump(choices), encoding="utf-8")
        assert "variants.dcgan.start_from" in refusal(folder)


@pytest.mark.slow
def test_two_processes_go_on_after_one_is_killed(tmp_path: Path) -> None:
    folder = workspace(tmp_path / "two")
    choices = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    choices["tracking"]["backend"] = "mlflow"
    choices["profiles"]["quick"]["train"]["images_seen"]["per_class"] = 240
    (folder / "params.yaml").write_text(yaml.safe_dump(choices), encoding="utf-8")
    store = f"sqlite:///{folder}/mlflow.db"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "lekhani", "train", "--dataset", "mnist", "--variant", "dcgan"]
    process = start(folder, command=command, MLFLOW_TRACKING_URI=store)
    wait_for_rows(process, folder, 20)
    (second,) = (one for one in psutil.Process(process.pid).children() if one.environ().get("RANK") == "1")
    second.kill()
    process.communicate(timeout=120)
    assert process.returncode == 1
    told = finish(folder, command=command, MLFLOW_TRACKING_URI=store)
    assert told.count("goes on from step") == 2
    losses = (folder / "reports" / "mnist" / "dcgan" / "losses.csv").read_text().splitlines()
    assert [int(line.split(",")[0]) for line in losses[1:]] == list(range(1, 61))
    assert (folder / "models" / "mnist" / "dcgan" / "generator.safetensors").exists()
    assert not (folder / "checkpoints" / "mnist" / "dcgan").exists()
    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert run.info.status == "FINISHED"
    assert sorted(one.step for one in client.get_metric_history(run.info.run_id, "train/loss_d")) == list(range(1, 61))
