"""An interrupted run goes on as if nothing had happened; a damaged or a foreign checkpoint is told, not used."""

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lekhani import params
from lekhani.errors import LekhaniError, UsageError
from lekhani.train.checkpoint import Checkpoints
from lekhani.train.loop import StoppedError, Trained, train
from lekhani.train.reporter import LossFile, Silent
from lekhani.variants import VARIANTS, Variant

CPU = torch.device("cpu")
K = 3
MADE_WITH = {"seed": 5, "variants.dcgan.lr_g": 2e-4}


class DiesAtStep(Silent):
    """Ends the run when it hears of a step, as a power cut would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def metrics(self, step: int, values: Any) -> None:
        if step == self.step:
            raise KeyboardInterrupt


def run(
    variants: params.Variants,
    name: str = "dcgan",
    checkpoints: Checkpoints | None = None,
    reporter: Any = None,
    score: Any = None,
    **own: Any,
) -> Trained:
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    labels = np.arange(20, dtype=np.int64) % K
    choice = params.Train(
        images_seen=params.Budget(per_class=1), **{"log_every": 1, "sample_every": 1000, "checkpoint_steps": 2, **own}
    )

    def build(device: torch.device) -> Variant:
        return VARIANTS[name].build(variants, 28, K, device)

    arguments: dict[str, Any] = {
        "images_seen": 72,
        "batch_size": 8,
        "ema_decay": 0.9,
        "seed": 5,
        "choice": choice,
        "device": CPU,
    }
    return train(
        build, images, labels, **arguments, reporter=reporter or Silent(), checkpoints=checkpoints, score=score
    )


def weights(trained: Trained) -> dict[str, torch.Tensor]:
    return dict(trained.generator.state_dict())


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_broken_run_ends_where_an_unbroken_one_does(name: str, tiny: params.Variants, tmp_path: Path) -> None:
    unbroken = weights(run(tiny, name))
    for death in (5, 6):  # beside and at a checkpoint
        kept = Checkpoints(tmp_path / f"{name}{death}", MADE_WITH)
        with pytest.raises(KeyboardInterrupt):
            run(tiny, name, kept, DiesAtStep(death))
        assert_equal(weights(run(tiny, name, kept)), unbroken)


def test_figures_between_two_reports_survive(tiny: params.Variants, tmp_path: Path) -> None:
    class Recorder(Silent):
        def __init__(self) -> None:
            self.rows: dict[int, float] = {}

        def metrics(self, step: int, values: Any) -> None:
            self.rows[step] = values["loss_d"]

    unbroken, before, after = Recorder(), Recorder(), Recorder()
    run(tiny, reporter=unbroken, log_every=4)
    kept = Checkpoints(tmp_path, MADE_WITH)

    def break_off(variant: Variant, generator: Any) -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny, checkpoints=kept, reporter=before, score=break_off, score_every=56, log_every=4, checkpoint_steps=3)
    run(tiny, checkpoints=kept, reporter=after, log_every=4)
    assert before.rows | after.rows == unbroken.rows
    assert min(after.rows) == 8, "it went on after step 6"


def test_the_best_weights_are_kept_across_a_break(tiny: params.Variants, tmp_path: Path) -> None:
    def scorer(*values: float) -> Callable[..., dict[str, float]]:
        rest = iter(values)
        return lambda *_: {"judge_fid": next(rest)}

    unbroken = run(tiny, score=scorer(3.0, 1.0, 2.0, 4.0), score_every=24)
    assert unbroken.best_step == 6
    kept = Checkpoints(tmp_path, MADE_WITH)
    with pytest.raises(KeyboardInterrupt):
        run(tiny, checkpoints=kept, reporter=DiesAtStep(8), score=scorer(3.0, 1.0), score_every=24, checkpoint_steps=7)
    resumed = run(tiny, checkpoints=kept, score=scorer(2.0, 4.0), score_every=24)
    assert resumed.best_step == 6
    assert_equal(weights(resumed), weights(unbroken))


def test_scoring_changes_no_weight(tiny: params.Variants) -> None:
    falling = iter(range(100, 0, -1))
    scored = run(tiny, score=lambda *_: {"judge_fid": float(next(falling))}, score_every=8)
    assert_equal(weights(scored), weights(run(tiny)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_save_and_end(number: signal.Signals, tiny: params.Variants, tmp_path: Path) -> None:
    class Asks(Silent):
        def metrics(self, step: int, values: Any) -> None:
            if step == 5:
                os.kill(os.getpid(), number)

    kept = Checkpoints(tmp_path, MADE_WITH)
    before = signal.getsignal(number)
    with pytest.raises(
        StoppedError, match=r"dcgan stopped after step 5 and saved; run the same command to go on"
    ) as stopped:
        run(tiny, checkpoints=kept, reporter=Asks(), checkpoint_steps=0)
    assert stopped.value.exit_code == 128 + number
    assert signal.getsignal(number) == before
    assert_equal(weights(run(tiny, checkpoints=kept)), weights(run(tiny)))


def saved(folder: Path, *steps: int) -> Checkpoints:
    kept = Checkpoints(folder, MADE_WITH, keep=3)
    for step in steps:
        kept.save(step, {"step": step, "values": torch.arange(100)})
    return kept


def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    kept = saved(tmp_path, 2, 4, 6, 8, 10)
    assert [int(path.name[:9]) for path in sorted(tmp_path.iterdir())] == [6, 8, 10]
    found = kept.load()
    assert found is not None
    assert found["step"] == 10
    kept.clear()
    assert not tmp_path.exists()
    assert kept.load() is None


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, empty])
def test_a_damaged_newest_falls_back_with_a_warning(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = saved(tmp_path, 2, 4)
    damage(sorted(tmp_path.iterdir())[-1])
    with caplog.at_level(logging.WARNING, "lekhani"):
        found = kept.load()
    assert found is not None
    assert found["step"] == 2
    assert "000000004" in caplog.text
    assert "damaged" in caplog.text


def test_all_damaged_starts_afresh(tmp_path: Path) -> None:
    kept = saved(tmp_path, 2)
    empty(next(tmp_path.iterdir()))
    assert kept.load() is None


def test_strangers_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    kept = saved(tmp_path, 2)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "mine.pt").write_text("mine")
    kept.save(4, {"step": 4})
    assert {"notes.txt", "mine.pt"} <= {path.name for path in tmp_path.iterdir()}
    assert kept.load() == {"step": 4}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"variants.dcgan.lr_g": 1e-3}, "variants.dcgan.lr_g 0.0002, and now it is 0.001"),
        ({"variants.dcgan.new": 3}, "variants.dcgan.new not set, and now it is 3"),
    ],
)
def test_a_changed_choice_is_named(changed: dict[str, Any], words: str, tmp_path: Path) -> None:
    saved(tmp_path, 2)
    with pytest.raises(UsageError, match=words.replace(".", r"\.")) as refused:
        Checkpoints(tmp_path, MADE_WITH | changed).load()
    assert str(tmp_path) in str(refused.value)
    assert "start afresh" in str(refused.value)


def test_a_run_that_lost_its_mind_is_not_saved(
    tiny: params.Variants, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls, count = VARIANTS["dcgan"], iter(range(1, 100))
    step = cls.step

    def sick(self: Variant, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        told = step(self, images, labels)
        return told | ({"loss_g": torch.tensor(float("nan"))} if next(count) == 3 else {})

    monkeypatch.setattr(cls, "step", sick)
    kept = Checkpoints(tmp_path, MADE_WITH)
    with pytest.raises(LekhaniError, match="loss_g is nan at step 3"):
        run(tiny, checkpoints=kept, log_every=100, checkpoint_steps=2)
    found = kept.load()
    assert found is not None
    assert found["run"]["step"] == 2


def test_losses_csv_loses_only_what_will_be_told_again(tmp_path: Path) -> None:
    file = LossFile(tmp_path / "losses.csv", tmp_path / "scores.csv", tmp_path / "samples")
    file.resume(0)
    for step in (1, 2, 3):
        file.metrics(step, {"loss": float(step)})
        file.scores(step, {"judge_fid": float(step)})
        file.images(step, np.zeros((2, 2), np.uint8))
    file.resume(2)
    for name in ("losses.csv", "scores.csv"):
        assert [line.split(",")[0] for line in (tmp_path / name).read_text().splitlines()] == ["step", "1", "2"]
    assert {path.stem for path in (tmp_path / "samples").iterdir()} == {"000001", "000002"}
    file.metrics(3, {"loss": 3.0})
    assert (tmp_path / "losses.csv").read_text().splitlines() == ["step,loss", "1,1", "2,2", "3,3"]
    file.resume(0)
    assert (tmp_path / "losses.csv").read_text() == ""
    assert list((tmp_path / "samples").iterdir()) == []
