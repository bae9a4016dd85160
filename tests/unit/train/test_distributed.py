"""Two processes on halves of a batch do what one does on the whole."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lekhani import params
from lekhani.errors import LekhaniError
from lekhani.train import distributed
from lekhani.train.loop import train
from lekhani.train.reporter import Silent
from lekhani.variants.gan import Gan, Verdict

STEPS, BATCH = 20, 8


class Toy(Gan):
    """A GAN without batch statistics whose noise comes from the images, so that a batch's random numbers do not depend on how it is shared."""

    name = "toy"
    conditional = False

    def __init__(self) -> None:
        choice = params.Gan(noise_dim=16, clip_norm=0.5, n_dis=2, lr_g=1e-3, lr_d=1e-3)
        d = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1), nn.Flatten(0))
        super().__init__(choice, _Paints(), d, torch.device("cpu"))

    @classmethod
    def build(cls, choice: params.Variants, image_size: int, n_classes: int, device: torch.device) -> "Toy":
        return cls()

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        before = torch.randn
        torch.randn = lambda *shape, **_: images.flatten(1) * 3 - 1  # type: ignore[assignment]
        try:
            return super().step(images, labels)
        finally:
            torch.randn = before

    def judge(self, real: Tensor, fake: Tensor, labels: Tensor) -> Verdict:
        real = real.detach().requires_grad_()
        on_real, on_fake = self.d(real), self.d(fake)
        (slope,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)  # second derivatives too
        loss = nn.functional.softplus(on_fake - on_real).mean() + slope.square().sum((1, 2, 3)).mean()
        return Verdict(loss, on_real, on_fake)

    def forge(self, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.softplus(-self.d(fake)).mean()


class _Paints(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 16))

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return self.net(noise).reshape(-1, 1, 4, 4).sigmoid()  # type: ignore[no-any-return]


def trained() -> dict[str, Tensor]:
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4), np.uint8)
    choice = params.Train(images_seen=params.Budget(per_class=1), log_every=5, sample_every=10_000, precision="fp32")
    arguments: dict[str, Any] = {
        "images_seen": STEPS * BATCH,
        "batch_size": BATCH,
        "ema_decay": 0.5,
        "seed": 3,
        "choice": choice,
    }
    return dict(
        train(
            lambda _: Toy(), images, np.zeros(40, np.int64), **arguments, device=torch.device("cpu"), reporter=Silent()
        ).generator.state_dict()
    )


def test_two_processes_match_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path / f"{rank}.pt")],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in (0, 1)
    ]
    try:
        assert [process.wait(timeout=240) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    alone, *ranks = trained(), *(torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for weights in ranks:
        for name, value in alone.items():
            torch.testing.assert_close(weights[name], value, atol=1e-4, rtol=0)
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in alone)


def test_alone_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.ranks() == distributed.Ranks(0, 1)
    assert distributed.ranks().leads


def test_a_variant_without_optimisers_trains_alone() -> None:
    class Own(Toy):
        def optimisers(self) -> list[torch.optim.Optimizer]:
            return []

    with pytest.raises(LekhaniError, match="trains in one process"):
        distributed.share_gradients(Own(), distributed.Ranks(0, 2))


if __name__ == "__main__":
    torch.save(trained(), sys.argv[1])
