"""Two processes on halves of a batch do what one does on the whole, keep equal weights, and stop and go on together."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lekhani import params
from lekhani.errors import LekhaniError
from lekhani.train import distributed
from lekhani.train.checkpoint import Checkpoints
from lekhani.train.loop import Trainer, TrainerConfig
from lekhani.variants import VARIANTS

ROWS = 10  # of a batch, so five for each of two processes
STEPS = 12
EXACT = ("flow_matching", "draw", "r3gan")  # without batch statistics; turbo divides by the variance of a batch
Weights = list[Tensor]


class NoiseOfWholeBatch(TorchFunctionMode):
    """Draws random numbers for a whole batch, the same in every process, and gives each process those of its rows.

    It keeps float64 where a step asks for float32, since Adam makes much of the rounding of tiny gradients.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random, self.ranks = torch.Generator().manual_seed(seed), distributed.ranks()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "").removesuffix("_like")
        if name == "float":
            return args[0].double()
        found = func(*args, **(kwargs or {}))
        if name not in ("randn", "rand", "randint", "bernoulli"):
            return found
        shape = list(found.shape)
        axis = shape.index(ROWS // self.ranks.world)
        shape[axis] = ROWS
        whole = (torch.randn if name == "randn" else torch.rand)(shape, generator=self.random)
        own = whole.index_select(axis, torch.arange(self.ranks.rank, ROWS, self.ranks.world))
        if name == "bernoulli":
            return (own < args[0]).to(found)
        return (args[0] + own * (args[1] - args[0])).floor().to(found) if name == "randint" else own.to(found)


def train(
    tiny: params.Variants,
    name: str,
    whole_noise: bool = True,
    folder: str | None = None,
    signals: Mapping[str, int] | None = None,
) -> Weights:
    """All weights that optimisers have after STEPS steps, then those of the average.

    `signals` come in their steps; every fifth step is saved.
    """
    torch.set_default_dtype(torch.float64 if whole_noise else torch.float32)
    settings = params.Train(
        images_seen=params.Budget(per_class=1), log_every=5, sample_every=10_000, checkpoint_steps=5, precision="fp32"
    )
    config = TrainerConfig(
        build=lambda device: VARIANTS[name].build(tiny, 28, 3, device),
        images=np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8),
        labels=np.arange(40, dtype=np.int64) % 3,
        images_seen=STEPS * ROWS,
        batch_size=ROWS,
        ema_decay=0.5,
        seed=3,
        settings=settings,
        device=torch.device("cpu"),
        checkpoints=Checkpoints(Path(folder), {}) if folder else None,
    )
    trainer = Trainer(config)
    step = trainer.step

    def watched_step() -> None:
        number = trainer.progress.step
        if signals and str(number + 1) in signals:
            signal.raise_signal(signals[str(number + 1)])
        with NoiseOfWholeBatch(number) if whole_noise else nullcontext():
            step()

    trainer.step = watched_step  # type: ignore[method-assign]
    average = trainer.fit().generator.parameters()
    torch.set_default_dtype(torch.float32)
    optimised = [w for one in trainer.variant.optimisers() for group in one.param_groups for w in group["params"]]
    return [weight.detach().clone() for weight in (*optimised, *average)]


def pair(tiny: params.Variants, jobs: Sequence[Sequence[dict[str, Any]]], *out: Path) -> list[tuple[int, str]]:
    """The exit code and stderr of two processes that train together; each has its jobs, keywords of `train`, and file.

    A file holds the weights of each job, in order.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, tiny.model_dump_json(), json.dumps(own), str(path)],
            env={**shared, "OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, (own, path) in enumerate(zip(jobs, out, strict=True))
    ]
    try:
        said = [process.communicate(timeout=100)[1] for process in processes]
        return [(process.returncode, err) for process, err in zip(processes, said, strict=True)]
    finally:
        for process in processes:
            process.kill()


def assert_same(found: Weights, expected: Weights) -> None:
    """But for the order of additions in float64."""
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.fixture
def harder(tiny: params.Variants) -> params.Variants:
    """Turns, clipping and augmentation; and drifting, once its encoder is trained, waits for nine images of a class.

    One process has those a step before the other.
    """
    r3gan = {"n_dis": 2, "clip_norm": 0.5, "augment": ("translation", "brightness")}
    drifting = {"encoder_share": 0.1, "real_per_class": 9}
    return tiny.model_copy(
        update={
            "r3gan": tiny.r3gan.model_copy(update=r3gan),
            "drifting": tiny.drifting.model_copy(update=drifting),
        }
    )


def test_two_processes_match_one_and_keep_equal_weights(harder: params.Variants, tmp_path: Path) -> None:
    jobs = [{"name": name, "whole_noise": True} for name in EXACT]
    jobs += [{"name": name, "whole_noise": False} for name in VARIANTS if name != "bare_bones"]
    ended = pair(harder, [jobs, jobs], tmp_path / "0.pt", tmp_path / "1.pt")
    assert [code for code, _ in ended] == [0, 0], ended
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for job, one, other in zip(jobs, first, second, strict=True):
        assert all(map(torch.equal, one, other)), f"{job}: the processes have different weights"
    for name, both in zip(EXACT, first, strict=False):
        assert_same(both, train(harder, name, True))


def test_both_end_when_one_is_killed_or_asked_to_stop_and_both_go_on(tiny: params.Variants, tmp_path: Path) -> None:
    job = {"name": "flow_matching"}
    own = [{**job, "folder": str(tmp_path / name)} for name in ("first", "second")]  # as on two hosts
    out = tmp_path / "0.pt", tmp_path / "1.pt"
    (survived, said), (killed, _) = pair(tiny, [[own[0]], [{**own[1], "signals": {6: signal.SIGKILL}}]], *out)
    assert (survived, killed) == (1, -signal.SIGKILL)
    assert "Another process of this training is gone" in said
    for code, said in pair(tiny, [[own[0]], [{**own[1], "signals": {8: signal.SIGTERM}}]], *out):
        assert code == 128 + signal.SIGTERM
        assert "goes on from step 5 of 12" in said
        assert "flow_matching stopped after step 8 and saved" in said
    assert [path.name[:9] for path in sorted((tmp_path / "first").iterdir())] == ["000000005", "000000008"]
    assert not (tmp_path / "second").exists(), "the first process alone saves"
    assert [code for code, _ in pair(tiny, [[own[0]], [own[1]]], *out)] == [0, 0]
    first, second = (torch.load(path, weights_only=True)[0] for path in out)
    assert all(map(torch.equal, first, second))
    assert_same(first, train(tiny, **job))


def test_a_variant_without_optimisers_trains_alone(tiny: params.Variants) -> None:
    variant = VARIANTS["bare_bones"].build(tiny, 28, 3, torch.device("cpu"))
    with pytest.raises(LekhaniError, match="trains in one process"):
        distributed.share_weights(variant, distributed.Ranks(0, 2))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    shutdown, distributed.shutdown = distributed.shutdown, lambda: None  # one connection for all trainings
    settings, jobs = params.Variants.model_validate_json(sys.argv[1]), json.loads(sys.argv[2])
    try:
        found = [train(settings, **job) for job in jobs]
    except LekhaniError as error:
        logging.info("%s", error)
        sys.exit(error.exit_code)
    torch.save(found, sys.argv[3])
    shutdown()
