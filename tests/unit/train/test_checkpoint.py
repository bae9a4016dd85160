"""An interrupted run goes on as if nothing had happened; a damaged or a foreign checkpoint is reported, not used."""

import hashlib
import io
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mutations import GONE, changed, paths
from tiny_training import Run, same_weights

from lekhani.errors import LekhaniError, UsageError
from lekhani.train.checkpoint import Checkpoints
from lekhani.train.loop import Trained
from lekhani.train.reporter import CurveFiles, Reporter
from lekhani.variants import VARIANTS, Variant

MADE_WITH = {"seed": 5, "variants.dcgan.lr_g": 2e-4}


MADE_WITH_TEXT = {key: str(value) for key, value in MADE_WITH.items()}


class Exploding:
    """Code that an unpickler would run."""

    def __reduce__(self) -> Any:
        return print, ("pwned",)


def pickled(value: Any) -> bytes:
    """What torch.save writes."""
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


class AtStep(Reporter):
    """Acts when it hears of a step, and remembers the losses."""

    def __init__(self, step: int = 0, act: Callable[[], Any] = list) -> None:
        self.step, self.act = step, act
        self.losses: dict[int, float] = {}

    def metrics(self, step: int, values: Any) -> None:
        self.losses[step] = values.get("loss_d", 0.0)
        if step == self.step:
            self.act()


def die(*_: Any) -> Any:
    """As a power cut would."""
    raise KeyboardInterrupt


def scorer(*values: float) -> Callable[..., dict[str, float]]:
    rest = iter(values)
    return lambda *_: {"judge_fid": next(rest)}


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "kept", MADE_WITH)


@pytest.mark.parametrize(
    ("name", "death", "every"), [*((name, 5, 2) for name in VARIANTS), ("dcgan", 6, 2), ("wgan_gp", 2, 1)]
)
def test_a_broken_run_ends_where_an_unbroken_one_does(
    run: Run, name: str, death: int, every: int, kept: Checkpoints
) -> None:
    """It dies beside a checkpoint or just before one; after one step, wgan_gp has not trained its generator."""
    with pytest.raises(KeyboardInterrupt):
        run(name, checkpoints=kept, checkpoint_steps=every, reporter=AtStep(death, die))
    assert same_weights(run(name, checkpoints=kept), run(name))


def test_metrics_between_two_reports_survive(run: Run, kept: Checkpoints) -> None:
    unbroken, before, after = AtStep(), AtStep(), AtStep()
    run(reporter=unbroken, log_every=4)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoints=kept, checkpoint_steps=3, reporter=before, score=die, score_every=56, log_every=4)
    run(checkpoints=kept, reporter=after, log_every=4)
    assert before.losses | after.losses == unbroken.losses
    assert min(after.losses) == 8, "it went on after step 6"


def test_the_best_weights_survive(run: Run, kept: Checkpoints) -> None:
    unbroken = run(score=scorer(3.0, 1.0, 2.0, 4.0), score_every=24)
    assert unbroken.best_step == 6
    with pytest.raises(KeyboardInterrupt):
        run(checkpoints=kept, checkpoint_steps=7, reporter=AtStep(8, die), score=scorer(3.0, 1.0), score_every=24)
    resumed = run(checkpoints=kept, score=scorer(2.0, 4.0), score_every=24)
    assert resumed.best_step == 6
    assert same_weights(resumed, unbroken)


def test_a_run_whose_loss_is_not_finite_is_not_saved(
    run: Run, kept: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, count = VARIANTS["dcgan"].step, iter(range(1, 100))

    def nan_at_third(self: Variant, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return step(self, images, labels) | ({"loss_g": torch.tensor(float("nan"))} if next(count) == 3 else {})

    monkeypatch.setattr(VARIANTS["dcgan"], "step", nan_at_third)
    with pytest.raises(LekhaniError, match="loss_g is nan at step 3"):
        run(checkpoints=kept, log_every=100, checkpoint_steps=2)
    found = kept.load()
    assert found is not None
    assert found["run"]["step"] == 2


# --- other devices and other versions ---


def stop_at_5(run: Run, kept: Checkpoints) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(checkpoints=kept, checkpoint_steps=2, reporter=AtStep(5, die), log_every=1)


def test_a_checkpoint_of_a_gpu_goes_on_without_one(
    run: Run, kept: Checkpoints, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as on_gpu:  # what torch.save writes for a tensor on the first GPU
        on_gpu.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        save = Checkpoints.save
        on_gpu.setattr(
            Checkpoints,
            "save",
            lambda self, step, state: save(self, step, state | {"random_cuda": torch.zeros(16, dtype=torch.uint8)}),
        )
        stop_at_5(run, kept)
    with caplog.at_level(logging.INFO, "lekhani"):
        first = run(checkpoints=kept)
    assert "dcgan goes on from step 4 of 9" in caplog.text
    assert "another kind of device, so its random numbers start anew" in caplog.text
    assert all(bool(torch.isfinite(value).all()) for value in first.generator.parameters())


CHANGES: dict[str, Callable[[Any], Any]] = {
    "gone": lambda value: GONE,
    "none": lambda value: None,
    "text": lambda value: "x",
    "negative": lambda value: -1,
    "fraction": lambda value: 1.5,
    "huge": lambda value: 10**30,
    "list": lambda value: [],
    "empty": lambda value: {},
    "renamed": lambda value: {f"x{key}": one for key, one in value.items()} if isinstance(value, dict) else {1: 2},
    "more": lambda value: {**value, "more": torch.zeros(1)} if isinstance(value, dict) else [value],
    "half": lambda value: value.half() if isinstance(value, torch.Tensor) else torch.zeros(3),
    "double": lambda value: value.double() if isinstance(value, torch.Tensor) else True,
    "wider": lambda value: (
        torch.cat([value, value]) if isinstance(value, torch.Tensor) and value.ndim else torch.ones(2)
    ),
    "reshaped": lambda value: value.reshape(1, *value.shape) if isinstance(value, torch.Tensor) else (),
    "scalar": lambda value: torch.tensor(0.5),
    "nan": lambda value: value * float("nan") if isinstance(value, torch.Tensor) else float("nan"),
    "sparse": lambda value: value.to_sparse() if isinstance(value, torch.Tensor) else b"x",
}


def refused_or_the_same(run: Run, kept: Checkpoints, name: str, state: Any, whole: Trained) -> None:
    """What comes of a changed checkpoint: one sentence, or the very weights of an unbroken run."""
    kept.clear()
    kept.save(4, state)
    said = ""
    try:
        ended = run(name, checkpoints=kept)
    except LekhaniError as error:
        said = str(error)
    assert said or same_weights(ended, whole), "silently other weights"
    assert "\n" not in said, said
    assert len(said) < 700, said


def broken(run: Run, kept: Checkpoints, name: str) -> tuple[Any, Trained]:
    """The state after step 4 of a run that has scored, and how it ends when it goes on."""
    died, score = AtStep(6, die), scorer(3.0)
    with pytest.raises(KeyboardInterrupt):
        run(name, checkpoints=kept, checkpoint_steps=2, reporter=died, score=score, score_every=24, log_every=3)
    state = kept.load()
    assert state is not None
    return state, run(name, checkpoints=kept)


ADAM = ("variant", "optimiser_d")
NAMED = [
    *(("variant", name) for name in ("g", "d", "optimiser_g", "optimiser_d", "turns")),
    *((*ADAM, key) for key in ("state", "param_groups")),
    *((*ADAM, "state", 0), (*ADAM, "state", 0, "exp_avg"), (*ADAM, "state", 0, "step")),
    *(("variant", "turns", key) for key in ("taken", "last")),
    *(("variant",), ("ema",), ("run",), ("random",), ("ema", "average"), ("ema", "steps")),
    *(("run", key) for key in ("step", "pending", "rows", "scores", "best", "best_step", "seconds", "findings")),
]


def test_a_checkpoint_that_is_not_of_this_run_is_a_sentence(run: Run, kept: Checkpoints) -> None:
    state, whole = broken(run, kept, "dcgan")
    for number, path in enumerate(NAMED):
        for change in list(CHANGES.values())[number % 4 :: 4]:
            refused_or_the_same(run, kept, "dcgan", changed(state, path, change), whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dcgan", "sngan", "bare_bones", "draw", "drifting", "turbo"])
def test_no_entry_of_a_checkpoint_can_be_another_one(run: Run, kept: Checkpoints, name: str) -> None:
    state, whole = broken(run, kept, name)
    every = list(paths(state))
    for number, path in enumerate(every[:: 1 + len(every) // 200]):
        for change in list(CHANGES.values())[number % 7 :: 7]:
            refused_or_the_same(run, kept, name, changed(state, path, change), whole)


def test_a_checkpoint_of_another_version_says_how_to_start_afresh(run: Run, kept: Checkpoints) -> None:
    state, _ = broken(run, kept, "dcgan")
    kept.save(99, changed(state, ("variant", "d"), lambda value: GONE))
    with pytest.raises(UsageError, match=r"cannot go on with \(.*\); remove .*kept to start afresh\.$"):
        run(checkpoints=kept)


# --- the files ---


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


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:-100], lambda content: content[:800] + bytes([content[800] ^ 1]) + content[801:]],
    ids=["truncated", "a flipped bit"],
)
def test_a_damaged_newest_falls_back_with_a_warning(
    damage: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = saved(tmp_path, 2, 4)
    oldest, newest = sorted(tmp_path.iterdir())
    newest.write_bytes(damage(newest.read_bytes()))
    with caplog.at_level(logging.WARNING, "lekhani"):
        found = kept.load()
    assert found is not None
    assert found["step"] == 2
    assert f"{newest} is damaged" in caplog.text
    oldest.write_bytes(b"")
    assert kept.load() is None


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"x" * 999, pickled([]), pickled({}), pickled({"made_with": [], "state": {}}), pickled(torch.zeros(2))]
    + [pickled({"made_with": {"seed": one}, "state": {}}) for one in (5, None)]
    + [pickled({"made_with": MADE_WITH_TEXT, "state": one}) for one in (None, [], {1: 2})]
    + [pickle.dumps({"made_with": MADE_WITH_TEXT, "state": Exploding()})],
    ids=map(str, range(13)),
)
def test_a_forged_file_falls_back_with_a_warning(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its digest is right, and what it holds is not."""
    kept = saved(tmp_path, 2)
    (tmp_path / f"000000009-{hashlib.sha256(content).hexdigest()[:16]}.pt").write_bytes(content)
    found = kept.load()
    assert found is not None
    assert found["step"] == 2
    assert "is damaged" in caplog.text
    assert "pwned" not in caplog.text


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    kept = saved(tmp_path, 2)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "mine.pt").write_text("mine")
    kept.save(4, {"step": 4})
    assert {"notes.txt", "mine.pt"} <= {path.name for path in tmp_path.iterdir()}
    assert kept.load() == {"step": 4}


def reported(step: int) -> dict[str, float]:
    return {"images_seen": 10 * step, "loss": step, "images_per_second": 5, "seconds_left": 9}


def test_losses_csv_loses_only_what_will_be_reported_again(tmp_path: Path) -> None:
    file = CurveFiles(tmp_path)
    file.resume(0)
    for step in (1, 2, 3):
        file.metrics(step, reported(step))
        file.scores(step, {"judge_fid": float(step)})
        file.images(step, np.zeros((2, 2), np.uint8))
    file.resume(2)
    for name in ("losses.csv", "scores.csv", "speed.csv"):
        assert [line.split(",")[0] for line in (tmp_path / name).read_text().splitlines()] == ["step", "1", "2"]
    assert {path.stem for path in (tmp_path / "samples").iterdir()} == {"000001", "000002"}
    file.metrics(3, reported(3))
    assert (tmp_path / "losses.csv").read_text().splitlines() == ["step,images_seen,loss", "1,10,1", "2,20,2", "3,30,3"]
