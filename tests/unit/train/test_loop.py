"""The loop: the same seed gives the same bytes, everyone hears what happens, and models do learn."""

import csv
import math
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
from torch import Tensor, nn

from lekhani import params
from lekhani.data.spec import Bytes, Labels
from lekhani.errors import LekhaniError
from lekhani.export.weights import save_weights
from lekhani.pictures import Picture
from lekhani.train.batches import batches
from lekhani.train.devices import pick_device
from lekhani.train.ema import Ema
from lekhani.train.loop import Trained, fixed_inputs, sample, speed_up, train
from lekhani.train.reporter import Fanout, LossFile
from lekhani.variants import VARIANTS, Variant
from lekhani.variants.flow_matching import FlowMatching

K = 3
CPU = torch.device("cpu")


class Recorder:
    """Remembers all it hears."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.grids: list[tuple[int, Picture]] = []
        self.scored: list[tuple[int, dict[str, float]]] = []
        self.resumed: list[int] = []
        self.closed = 0

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.rows.append((step, dict(values)))

    def images(self, step: int, grid: Picture) -> None:
        self.grids.append((step, grid))

    def scores(self, step: int, values: Mapping[str, float]) -> None:
        self.scored.append((step, dict(values)))

    def resume(self, step: int) -> None:
        self.resumed.append(step)

    def close(self) -> None:
        self.closed += 1


class Stub(Variant):
    """Notes what it is given; its loss is what `losses` says."""

    name = "stub"
    conditional = True
    noise_dim = 2

    def __init__(self, losses: Callable[[int], float] = float) -> None:
        self.losses = losses
        self.net = nn.Linear(2, 4)
        self.given: list[tuple[Tensor, Tensor, float]] = []

    @classmethod
    def build(cls, choice: params.Variants, image_size: int, n_classes: int, device: torch.device) -> "Stub":
        return cls()

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.given.append((images, labels, self.progress))
        return {"loss": torch.tensor(self.losses(len(self.given)))}

    def generator(self) -> nn.Module:
        return Picture4(self.net)

    def _parts(self) -> dict[str, Any]:
        return {"net": self.net}


class Picture4(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return self.net(noise).reshape(-1, 1, 2, 2).sigmoid()  # type: ignore[no-any-return]


@pytest.fixture
def data() -> tuple[Bytes, Labels]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (20, 28, 28), np.uint8), np.arange(20, dtype=np.int64) % K


def run(
    build: Callable[[torch.device], Variant], data: tuple[Bytes, Labels], reporter: Any = None, **choices: Any
) -> Trained:
    own = {
        key: choices.pop(key)
        for key in list(choices)
        if key in params.Train.model_fields and key not in {"images_seen", "seed"}
    }
    choice = params.Train(images_seen=params.Budget(per_class=1), **{"log_every": 2, "sample_every": 1000, **own})
    settings: dict[str, Any] = {"images_seen": 24, "batch_size": 8, "ema_decay": 0.9, "seed": 5}
    return train(build, *data, **{**settings, **choices}, choice=choice, device=CPU, reporter=reporter or Recorder())


# --- the same again ---


@pytest.mark.parametrize("name", list(VARIANTS))
def test_the_same_seed_gives_the_same_bytes(
    name: str, tiny: params.Variants, data: tuple[Bytes, Labels], tmp_path: Path
) -> None:
    def weights(seed: int, file: str) -> bytes:
        torch.rand(seed + len(file))  # whatever happened before must not matter
        trained = run(lambda device: VARIANTS[name].build(tiny, 28, K, device), data, seed=seed)
        save_weights(trained.generator, tmp_path / file)
        return (tmp_path / file).read_bytes()

    first = weights(5, "a")
    assert weights(5, "again") == first
    assert weights(6, "b") != first


def test_reporting_more_often_changes_no_weight(tiny: params.Variants, data: tuple[Bytes, Labels]) -> None:
    often, rarely = (
        run(
            lambda device: VARIANTS["dcgan"].build(tiny, 28, K, device), data, log_every=every, sample_every=8 * every
        ).generator.state_dict()
        for every in (1, 1000)
    )
    assert all(torch.equal(often[key], rarely[key]) for key in often)


# --- batches ---


def test_each_pass_shows_every_image_once() -> None:
    indices = np.concatenate(list(islice(batches(10, 4, seed=1), 25)))
    passes = indices.reshape(10, 10)
    assert (np.sort(passes, axis=1) == np.arange(10)).all()
    assert len({tuple(one) for one in passes.tolist()}) > 5, "each pass has an order of its own"


def test_every_batch_is_full_even_when_larger_than_the_data() -> None:
    drawn = list(islice(batches(3, 7, seed=1), 9))
    assert {len(one) for one in drawn} == {7}
    assert np.bincount(np.concatenate(drawn)).tolist() == [21, 21, 21]


def test_batches_depend_on_the_seed_alone() -> None:
    first, again, other = (np.concatenate(list(islice(batches(50, 8, seed), 5))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


# --- the average ---


def test_the_average_against_hand_computed_values() -> None:
    live = nn.Linear(1, 1, bias=False)
    live.weight.data.fill_(1.0)
    ema = Ema(live, decay=0.25)
    expected = 1.0
    for step, value in enumerate((3.0, -2.0, 5.0, 7.0), start=1):
        live.weight.data.fill_(value)
        ema.update()
        decay = min(0.25, (1 + step) / (10 + step))  # 2/11, then 0.25 from step 2 on
        expected = decay * expected + (1 - decay) * value
        assert float(ema.average.weight) == pytest.approx(expected)
    assert not ema.average.weight.requires_grad
    assert live.weight.item() == 7.0


def test_the_warm_up_caps_a_high_decay() -> None:
    live = nn.Linear(1, 1, bias=False)
    live.weight.data.fill_(1.0)
    ema = Ema(live, decay=0.999)
    live.weight.data.fill_(0.0)
    for _ in range(3):
        ema.update()
    assert float(ema.average.weight) == pytest.approx(2 / 11 * 3 / 12 * 4 / 13)


def test_buffers_are_copied_and_the_average_stays_in_evaluation() -> None:
    live = nn.BatchNorm1d(2)
    ema = Ema(live, 0.9)
    live(torch.randn(8, 2) + 5)
    ema.update()
    assert torch.equal(ema.average.running_mean, live.running_mean)
    assert int(ema.average.num_batches_tracked) == 1
    assert live.training
    assert not ema.average.training


def test_training_ships_the_average(tiny: params.Variants, data: tuple[Bytes, Labels]) -> None:
    trained = run(lambda device: VARIANTS["flow_matching"].build(tiny, 28, K, device), data)
    live = trained.variant.generator().state_dict()
    assert any(not torch.equal(value, live[key]) for key, value in trained.generator.state_dict().items())
    assert not trained.generator.training


# --- what the loop hands out ---


def test_a_variant_is_given_images_between_0_and_1_with_their_labels(data: tuple[Bytes, Labels]) -> None:
    stub = Stub()
    trained = run(lambda _: stub, data, images_seen=41)
    assert (trained.steps, trained.images_seen) == (6, 48), "the budget is reached, at most one batch beyond it"
    assert len(stub.given) == 6
    by_bytes = {image.tobytes(): label for image, label in zip(*data, strict=True)}
    for images, labels, _ in stub.given:
        assert images.shape == (8, 1, 28, 28)
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        for image, label in zip(images, labels.tolist(), strict=True):
            assert by_bytes[(image[0] * 255).round().to(torch.uint8).numpy().tobytes()] == label
    assert [progress for *_, progress in stub.given] == pytest.approx([i / 6 for i in range(6)])
    assert trained.device == "cpu"
    assert trained.images_per_second == pytest.approx(48 / trained.seconds)
    assert trained.peak_memory_mb > 50


def test_fewer_images_than_a_batch(data: tuple[Bytes, Labels]) -> None:
    stub = Stub()
    trained = run(lambda _: stub, (data[0][:5], data[1][:5]), images_seen=12)
    assert {len(images) for images, *_ in stub.given} == {5}
    assert (trained.steps, trained.images_seen) == (3, 15)


def test_reporters_hear_means_and_see_grids(data: tuple[Bytes, Labels]) -> None:
    recorder = Recorder()
    run(lambda _: Stub(), data, recorder, images_seen=40, log_every=2, sample_every=16)
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
    assert recorder.closed == 0, "whoever made a reporter closes it"
    for _, grid in recorder.grids:
        assert grid.shape == (33 * 3 - 1, 3 * 3 - 1), "33 rows of 3 classes, 2 pixels each, with a gap"
        assert grid.dtype == np.uint8


@pytest.mark.parametrize(("k", "rows", "columns"), [(10, 10, 10), (16, 6, 16), (46, 4, 23)])
def test_sample_grids_show_classes_in_order(k: int, rows: int, columns: int) -> None:
    class Shade(nn.Module):
        def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
            return (labels / 255)[:, None, None, None].expand(-1, 1, 2, 2)

    noise, labels = fixed_inputs(5, k, seed=3)
    assert noise.shape == (len(labels), 5)
    assert torch.equal(noise, fixed_inputs(5, k, seed=3)[0])
    assert not torch.equal(noise, fixed_inputs(5, k, seed=4)[0])
    shown = sample(Shade(), noise, labels)
    assert shown.shape == (rows * 3 - 1, columns * 3 - 1)
    assert shown[0, ::3].tolist() == list(range(columns))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_no_number_stops_training(data: tuple[Bytes, Labels], value: float) -> None:
    recorder, stub = Recorder(), Stub(lambda step: value if step == 3 else 0.0)
    with pytest.raises(LekhaniError, match=r"loss is -?(nan|inf) at step 3; lower the learning rate of stub"):
        run(lambda _: stub, data, recorder, images_seen=800)
    assert len(stub.given) == 4
    assert [step for step, _ in recorder.rows] == [2], "what is no number is not logged"


def test_cuda_without_a_gpu_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LekhaniError, match=r"train\.device is `cuda`"):
        pick_device("cuda")
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto").type == pick_device("cuda").type == "cuda"
    assert pick_device("cpu").type == "cpu"


# --- reporters ---


def test_losses_csv_and_sample_pngs(tmp_path: Path) -> None:
    file = LossFile(tmp_path / "deep" / "losses.csv", tmp_path / "deep" / "scores.csv", tmp_path / "samples")
    file.resume(0)
    file.metrics(20, {"images_seen": 640, "loss": 1 / 3})
    rows = list(csv.reader((tmp_path / "deep" / "losses.csv").open()))
    assert rows == [["step", "images_seen", "loss"], ["20", "640", "0.333333"]], "a killed run keeps its curve"
    file.metrics(40, {"images_seen": 12_000_000, "loss": 1e-9})
    file.images(40, np.arange(12, dtype=np.uint8).reshape(3, 4))
    file.close()
    (row,) = list(csv.DictReader((tmp_path / "deep" / "losses.csv").open()))[1:]
    assert float(row["images_seen"]) == 12_000_000
    assert float(row["loss"]) == 1e-9
    with Image.open(tmp_path / "samples" / "000040.png") as image:
        np.testing.assert_array_equal(np.asarray(image)[::2, ::2], np.arange(12).reshape(3, 4))


def test_losses_csv_on_a_full_disk(tmp_path: Path, full_disk: Callable[[], AbstractContextManager[None]]) -> None:
    file = LossFile(tmp_path / "losses.csv", tmp_path / "scores.csv", tmp_path / "samples")
    file.resume(0)
    with pytest.raises(LekhaniError, match=r"Could not write .*losses\.csv"), full_disk():
        file.metrics(1, {"loss": 1.0})
    with pytest.raises(LekhaniError, match=r"Could not write .*000001\.png"), full_disk():
        file.images(1, np.zeros((4, 4), np.uint8))
    assert list((tmp_path / "samples").iterdir()) == []


def test_fanout_tells_everyone() -> None:
    recorders = Recorder(), Recorder()
    fanout = Fanout(recorders)
    fanout.metrics(1, {"a": 2.0})
    fanout.images(1, np.zeros((2, 2), np.uint8))
    fanout.close()
    for recorder in recorders:
        assert recorder.rows == [(1, {"a": 2.0})]
        assert len(recorder.grids) == recorder.closed == 1


# --- learning ---


def test_flow_matching_learns_a_handful_of_images(tiny: params.Variants) -> None:
    images = np.zeros((8, 28, 28), np.uint8)
    for i in range(8):
        images[i, 4:24, 2 + 3 * i : 5 + 3 * i] = 255
    recorder = Recorder()
    choice = tiny.flow_matching.model_copy(update={"lr": 1e-2, "label_dropout": 0.0})
    run(
        lambda device: FlowMatching(choice, 28, 8, device),
        (images, np.arange(8, dtype=np.int64)),
        recorder,
        images_seen=150 * 8,
        log_every=10,
    )
    losses = [values["loss"] for _, values in recorder.rows]
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize(
    ("precision", "capable", "half"),
    [("auto", True, True), ("auto", False, False), ("fp32", True, False), ("bf16", False, True)],
)
def test_half_precision_where_it_pays(
    monkeypatch: pytest.MonkeyPatch, tiny: params.Variants, precision: str, capable: bool, half: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": capable})
    variant = VARIANTS["mlp_gan"].build(tiny, 28, K, CPU)
    speed_up(variant, params.Train.model_validate({"images_seen": {"per_class": 1}, "precision": precision}), CPU)
    with variant.autocast:
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if half else torch.float32)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_networks_learn_the_same(tiny: params.Variants, data: tuple[Bytes, Labels]) -> None:
    plain, compiled = (
        run(lambda device: VARIANTS["cgan"].build(tiny, 28, K, device), data, compile=on, precision="fp32")
        for on in (False, True)
    )
    for (name, one), (other_name, other) in zip(
        plain.generator.state_dict().items(), compiled.generator.state_dict().items(), strict=True
    ):
        assert name == other_name
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-2)
