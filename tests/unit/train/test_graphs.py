"""Recorded steps: nothing in them waits for the device or is a number that changes, and they train as others do."""

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import Run, same_weights
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lekhani import params
from lekhani.errors import LekhaniError
from lekhani.train.checkpoint import Checkpoints
from lekhani.train.graphs import Graphs, Work, use_graphs
from lekhani.train.loop import Trained
from lekhani.train.reporter import Reporter
from lekhani.variants import VARIANTS, Variant

CPU, META, CUDA = torch.device("cpu"), torch.device("meta"), torch.device("cuda")
CAPTURABLE = sorted(name for name, kind in VARIANTS.items() if kind.capturable)
WAITING = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}
WAITING |= {torch.ops.aten.masked_select.default, torch.ops.aten.unique_dim.default, torch.ops.aten._unique2.default}
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class NoWaiting(TorchDispatchMode):
    """Raises where a GPU would have to be waited for: at values and sizes that Python asks for, and between devices."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [one for one in (*args, out) if isinstance(one, Tensor)]
        masks = [one for one in args if isinstance(one, list | tuple)] if "index" in str(func) else []
        masked = any(isinstance(one, Tensor) and one.dtype == torch.bool for mask in masks for one in mask)
        if func in WAITING or masked or (func in COPIES and len({one.device for one in tensors}) > 1):
            raise AssertionError(f"{func} waits for the device")
        return out


def built(tiny: params.Variants, name: str, device: torch.device = CPU) -> Variant:
    changes: dict[str, Any] = {"dcgan": {"schedule": "cosine"}, "sngan": {"augment": ("translation", "cutout")}}
    changed = getattr(tiny, name).model_copy(update=changes.get(name, {}))
    return VARIANTS[name].build(tiny.model_copy(update={name: changed}), 28, 3, device)


def everything(variant: Variant) -> list[Tensor]:
    """Weights, statistics and moments."""
    found: list[Tensor] = []
    parts = [part for name, part in variant.state_dict().items() if name != "turns"]
    while parts:
        part = parts.pop()
        parts += part.values() if isinstance(part, dict) else []
        found += [part] if isinstance(part, Tensor) else []
    return found


def addresses(variant: Variant) -> set[int]:
    """Where all that is lies which a recorded kernel may use from outside."""
    rates = [group["lr"] for optimiser in variant.optimisers() for group in optimiser.param_groups]
    return {one.data_ptr() for one in (*everything(variant), *rates)}


def stand_in(variant: Variant) -> Callable[[Work], Work]:
    """Records by calling, and replays by calling with the numbers that Python had when it recorded."""

    def record(work: Work) -> Work:
        then = variant.progress

        def replay() -> None:
            assert there <= addresses(variant), "memory stays where it was"
            now, variant.progress = variant.progress, then
            work()
            variant.progress = now

        for _ in range(3):
            work()
        there = addresses(variant)
        return replay

    return record


def replaying(tiny: params.Variants, name: str) -> Variant:
    variant = built(tiny, name)
    torch.set_default_dtype(torch.float64)  # of learning rates, which are numbers of 64 bits without graphs
    try:
        variant.run = Graphs(variant, stand_in(variant))
    finally:
        torch.set_default_dtype(torch.float32)
    return variant


def test_all_that_can_be_is_recorded() -> None:
    assert set(VARIANTS) - set(CAPTURABLE) == {"bare_bones", "drifting"}


@pytest.mark.parametrize("name", [*CAPTURABLE, "drifting"])
def test_a_step_does_not_wait(tiny: params.Variants, name: str) -> None:
    variant = built(tiny, name)
    given = torch.rand(8, 1, 28, 28), torch.arange(8) % 3
    Graphs(variant)  # moves learning rates to the device
    variant.step(*given)  # pairs are made at the first step, outside of what is recorded

    def run(work: Callable[..., dict[str, Tensor]], *inputs: Tensor, **choices: Any) -> dict[str, Tensor]:
        with NoWaiting():
            return work(*inputs, **choices)

    variant.run = run
    for _ in range(2):
        variant.step(*given)
    if name == "drifting":
        with pytest.raises(AssertionError, match="waits"), NoWaiting():
            variant.step(*given)


class Idle(torch.optim.SGD):
    """Takes what Adam takes and does nothing, since Adam's kernel is for devices with data."""

    def __init__(self, weights: Any, lr: float, *_: Any, **__: Any) -> None:
        super().__init__(weights, lr)

    def step(self, closure: Any = None) -> None:
        """Do nothing."""


@pytest.mark.parametrize("name", CAPTURABLE)
def test_a_step_stays_on_its_device(tiny: params.Variants, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch's meta device, which has no values: what asks for one fails, as does what mixes devices."""
    monkeypatch.setattr(torch.optim, "Adam", Idle)
    monkeypatch.setattr(torch.optim, "AdamW", Idle)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which that device does not have
    variant = built(tiny, name, META)
    images, labels = torch.rand(8, 1, 28, 28, device=META), torch.zeros(8, dtype=torch.int64, device=META)
    if name == "turbo":
        variant.pairs.data = {"noise": images.flatten(1).half(), "labels": labels, "images": images.half()}  # type: ignore[attr-defined]
    with NoWaiting():
        for _ in range(2):
            metrics = variant.step(images, labels)
    assert {value.device.type for value in metrics.values()} == {"meta"}


@pytest.mark.parametrize("name", CAPTURABLE)
def test_replayed_steps_train_to_the_same_bits(run: Run, tiny: params.Variants, name: str) -> None:
    eager = run(build=lambda _: built(tiny, name))
    replayed = run(build=lambda _: replaying(tiny, name))
    assert same_weights(eager, replayed)
    first, second = everything(eager.variant), everything(replayed.variant)
    assert len(first) == len(second)
    assert all(map(torch.equal, first, second))
    kinds = min(2, getattr(getattr(tiny, name), "n_dis", 1))
    assert len(replayed.variant.run.graphs) == kinds, "with and without the generator's turn"  # type: ignore[attr-defined]


class Dying(Reporter):
    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if step == 6:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["wgan_gp", "flow_matching"])
def test_replayed_steps_go_on_from_a_checkpoint(run: Run, tiny: params.Variants, name: str, tmp_path: Path) -> None:
    def again(**given: Any) -> Trained:
        return run(build=lambda _: replaying(tiny, name), checkpoints=Checkpoints(tmp_path, {"name": name}), **given)

    with pytest.raises(KeyboardInterrupt):
        again(reporter=Dying(), checkpoint_steps=3)
    assert same_weights(again(), run(build=lambda _: built(tiny, name)))


def test_a_step_that_cannot_be_recorded_is_a_sentence(tiny: params.Variants) -> None:
    def record(work: Work) -> Work:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more")

    variant = built(tiny, "cgan")
    variant.run = Graphs(variant, record)
    with pytest.raises(LekhaniError, match=r"^A step of cgan cannot .* is capturing\); set train\.cuda_graphs to"):
        variant.step(torch.rand(8, 1, 28, 28), torch.zeros(8, dtype=torch.int64))


@pytest.mark.parametrize(
    ("name", "device", "world", "why"),
    [
        ("dcgan", CPU, 1, "there is no GPU"),
        ("dcgan", CUDA, 2, "one process alone"),
        ("drifting", CUDA, 1, "a step of drifting"),
        ("dcgan", CUDA, 1, None),
    ],
)
def test_where_there_are_no_graphs_one_warning_says_so(
    tiny: params.Variants,
    name: str,
    device: torch.device,
    world: int,
    why: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    variant = built(tiny, name)
    use_graphs(variant, device, world)
    assert isinstance(variant.run, Graphs) == (why is None)
    assert len(caplog.messages) == (why is not None)
    assert (why or "") in "".join(caplog.messages)


def test_the_switch_changes_nothing_without_a_gpu(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert same_weights(run(cuda_graphs=True), run())
    assert [text for text in caplog.messages if "cuda_graphs" in text] == [
        "train.cuda_graphs is left out, since there is no GPU."
    ]
