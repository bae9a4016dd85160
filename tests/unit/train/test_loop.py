"""The loop: the same seed gives the same bytes, and variants, reporters and scores get what they are promised."""

import csv
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_training import Run, same_weights
from torch import Tensor, nn

from lekhani import params
from lekhani.errors import LekhaniError
from lekhani.pictures import Picture
from lekhani.train.batches import batches
from lekhani.train.devices import pick_device
from lekhani.train.ema import Ema
from lekhani.train.loop import fixed_inputs, sample, speed_up
from lekhani.train.reporter import CurveFiles, Reporter
from lekhani.variants import Variant


class Recorder(Reporter):
    """Remembers all it hears."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.grids: list[tuple[int, Picture]] = []

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.rows.append((step, dict(values)))

    def images(self, step: int, grid: Picture) -> None:
        self.grids.append((step, grid))


class FakeVariant(Variant):
    """Remembers the batches that it is given; its loss at each step is what `losses` says. Images are 2x2."""

    name = "fake"
    conditional = True
    noise_dim = 2

    def __init__(self, losses: Callable[[int], float] = float) -> None:
        self.losses = losses
        self.net = nn.Sequential(nn.Linear(2, 4), nn.Sigmoid(), nn.Unflatten(1, (1, 2, 2)))
        self.given: list[tuple[Tensor, Tensor, float]] = []

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.given.append((images, labels, self.progress))
        return {"loss": torch.tensor(self.losses(len(self.given)))}

    def generator(self) -> nn.Module:
        return FakeGenerator(self.net)

    def _parts(self) -> dict[str, Any]:
        return {"net": self.net}


class FakeGenerator(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return self.net(noise)  # type: ignore[no-any-return]


# --- the same again ---


def test_the_seed_alone_decides_the_weights(run: Run) -> None:
    first = run()
    torch.rand(7)  # whatever happened before must not matter
    assert same_weights(run(log_every=1000, sample_every=8), first), "nor how often it reports"
    falling = iter(range(100, 0, -1))
    assert same_weights(run(score=lambda *_: {"judge_fid": next(falling)}, score_every=8), first), "nor scores"
    assert not same_weights(run(seed=6), first)


# --- batches ---


def test_each_pass_shows_every_image_once() -> None:
    passes = np.concatenate(list(islice(batches(10, 4, seed=1), 25))).reshape(10, 10)
    assert (np.sort(passes, axis=1) == np.arange(10)).all()
    assert len({tuple(one) for one in passes.tolist()}) > 5, "each pass has an order of its own"
    large = list(islice(batches(3, 7, seed=1), 9))
    assert np.bincount(np.concatenate(large)).tolist() == [21, 21, 21]
    assert {len(one) for one in large} == {7}, "a batch is full even when it is larger than the data"


# --- the average ---


def test_the_average_against_hand_computed_values() -> None:
    live = nn.Linear(1, 1, bias=False)
    live.register_buffer("mean", torch.zeros(1))
    live.weight.data.fill_(1.0)
    ema = Ema(live, decay=0.25)
    expected = 1.0
    for step, value in enumerate((3.0, -2.0, 5.0, 7.0), start=1):
        live.weight.data.fill_(value)
        ema.update()
        decay = min(0.25, (1 + step) / (10 + step))  # 2/11, then 0.25 from step 2 on
        expected = decay * expected + (1 - decay) * value
        assert float(ema.average.weight) == pytest.approx(expected)
    live.mean.fill_(5.0)
    ema.update()
    assert float(ema.average.mean) == 5.0, "buffers are copied"
    assert live.training
    assert not ema.average.training


def test_the_average_is_the_result_and_copies_until_its_start(run: Run) -> None:
    def is_live(start: float) -> bool:
        trained = run(ema_start=start)
        assert not trained.generator.training
        live = trained.variant.generator().state_dict()
        return all(torch.equal(value, live[key]) for key, value in trained.generator.state_dict().items())

    assert not is_live(0.0)
    assert is_live(0.99)


# --- what the loop hands out ---


def test_a_variant_is_given_images_between_0_and_1_with_their_labels(run: Run) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (20, 28, 28), np.uint8), np.arange(20, dtype=np.int64) % 3
    fake = FakeVariant()
    trained = run(build=lambda _: fake, images=images, labels=labels, images_seen=41)
    assert (trained.steps, trained.images_seen) == (6, 48), "the budget is reached, at most one batch beyond it"
    label_of = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for batch, batch_labels, _ in fake.given:
        assert batch.shape == (8, 1, 28, 28)
        assert batch.dtype == torch.float32
        assert batch_labels.dtype == torch.int64
        for image, label in zip((batch[:, 0] * 255).round().to(torch.uint8), batch_labels.tolist(), strict=True):
            assert label_of[image.numpy().tobytes()] == label
    assert [progress for *_, progress in fake.given] == pytest.approx([i / 6 for i in range(6)])


def test_fewer_images_than_a_batch(run: Run) -> None:
    fake = FakeVariant()
    few = {"images": np.zeros((5, 2, 2), np.uint8), "labels": np.arange(5)}
    trained = run(build=lambda _: fake, **few, images_seen=12)
    assert {len(images) for images, *_ in fake.given} == {5}
    assert (trained.steps, trained.images_seen) == (3, 15)


def test_reporters_hear_means_and_see_grids(run: Run) -> None:
    recorder = Recorder()
    run(build=lambda _: FakeVariant(), reporter=recorder, images_seen=40, log_every=2, sample_every=16)
    assert [(step, values["images_seen"], values["loss"]) for step, values in recorder.rows] == [
        (2, 16, 1.5),
        (4, 32, 3.5),
        (5, 40, 5.0),
    ]
    for _, values in recorder.rows:
        assert set(values) == {"images_seen", "loss", "images_per_second", "seconds_left"}
        assert values["images_per_second"] > 0
    assert recorder.rows[-1][1]["seconds_left"] == 0
    assert [step for step, _ in recorder.grids] == [2, 4, 5]
    for _, grid in recorder.grids:
        assert grid.shape == (33 * 3 - 1, 3 * 3 - 1), "33 rows of 3 classes, 2 pixels each, with a gap"
        assert grid.dtype == np.uint8


@pytest.mark.parametrize(("k", "rows", "columns"), [(10, 10, 10), (46, 4, 23)])
def test_sample_grids_show_classes_in_order(k: int, rows: int, columns: int) -> None:
    class Shade(nn.Module):
        def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
            return (labels / 255)[:, None, None, None].expand(-1, 1, 2, 2)

    noise, labels = fixed_inputs(5, k, seed=3)
    assert torch.equal(noise, fixed_inputs(5, k, seed=3)[0])
    shown = sample(Shade(), noise, labels)
    assert shown.shape == (rows * 3 - 1, columns * 3 - 1)
    assert shown[0, ::3].tolist() == list(range(columns))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_loss_that_is_not_finite_stops_training(run: Run, value: float) -> None:
    recorder, fake = Recorder(), FakeVariant(lambda step: value if step == 3 else 0.0)
    with pytest.raises(LekhaniError, match=r"loss is -?(nan|inf) at step 3; lower the learning rate of fake"):
        run(build=lambda _: fake, reporter=recorder, images_seen=800, log_every=2)
    assert len(fake.given) == 4
    assert [step for step, _ in recorder.rows] == [2], "what is not finite is not logged"


def test_cuda_without_a_gpu_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LekhaniError, match=r"train\.device is `cuda`"):
        pick_device("cuda")
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto").type == "cuda"


# --- reporters ---


def test_losses_csv_and_sample_pngs(tmp_path: Path) -> None:
    file = CurveFiles(tmp_path / "deep")
    file.resume(0)
    speed = {"images_per_second": 64.0, "seconds_left": 2.5}
    file.metrics(20, {"images_seen": 640, "loss": 1 / 3, **speed})
    rows = list(csv.reader((tmp_path / "deep" / "losses.csv").open()))
    assert rows == [["step", "images_seen", "loss"], ["20", "640", "0.333333"]], "a killed run keeps its curve"
    file.metrics(40, {"images_seen": 12_000_000, "loss": 1e-9, **speed})
    file.images(40, np.arange(12, dtype=np.uint8).reshape(3, 4))
    file.close()
    rows = list(csv.reader((tmp_path / "deep" / "losses.csv").open()))
    assert [float(value) for value in rows[2]] == [40, 12_000_000, 1e-9]
    speeds = (tmp_path / "deep" / "speed.csv").read_text().splitlines()
    assert speeds[:2] == ["step,images_seen,images_per_second", "20,640,64"]
    with Image.open(tmp_path / "deep" / "samples" / "000040.png") as image:
        np.testing.assert_array_equal(np.asarray(image)[::2, ::2], np.arange(12).reshape(3, 4))


def test_losses_csv_on_a_full_disk(tmp_path: Path, full_disk: Callable[[], AbstractContextManager[None]]) -> None:
    file = CurveFiles(tmp_path)
    file.resume(0)
    with pytest.raises(LekhaniError, match=r"Could not write .*losses\.csv"), full_disk():
        file.metrics(1, {"images_seen": 32, "loss": 1.0, "images_per_second": 64.0})
    with pytest.raises(LekhaniError, match=r"Could not write .*000001\.png"), full_disk():
        file.images(1, np.zeros((4, 4), np.uint8))
    assert list((tmp_path / "samples").iterdir()) == []


# --- precision and compilation ---


@pytest.mark.parametrize(
    ("precision", "capable", "half"),
    [("auto", True, True), ("auto", False, False), ("fp32", True, False), ("bf16", False, True)],
)
def test_half_precision_where_it_pays(
    monkeypatch: pytest.MonkeyPatch, tiny: params.Variants, precision: str, capable: bool, half: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": capable})
    cpu, variant = torch.device("cpu"), FakeVariant()
    speed_up(variant, params.Train.model_validate({"images_seen": {"per_class": 1}, "precision": precision}), cpu)
    with variant.autocast:
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if half else torch.float32)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_networks_learn_the_same(run: Run) -> None:
    plain, compiled = (
        run("cgan", compile=on, precision="fp32", images_seen=24).generator.state_dict() for on in (False, True)
    )
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, atol=1e-3, rtol=1e-2)
