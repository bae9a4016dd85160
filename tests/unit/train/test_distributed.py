"""Two processes on halves of a batch do what one does on the whole, and stop together."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lekhani import params
from lekhani.errors import LekhaniError
from lekhani.train import distributed
from lekhani.train.loop import Trainer, TrainerConfig
from lekhani.variants.gan import DiscriminatorLoss, Gan


class SharedNoiseGan(Gan):
    """A GAN without batch statistics whose noise comes from the images: it does not depend on how a batch is shared."""

    name = "shared_noise_gan"
    conditional = False

    def __init__(self) -> None:
        settings = params.Gan(noise_dim=16, clip_norm=0.5, n_dis=2, lr_g=1e-3, lr_d=1e-3)
        d = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1), nn.Flatten(0))
        super().__init__(settings, FakeGenerator(), d, torch.device("cpu"))

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "randn", lambda *shape, **_: images.flatten(1) * 3 - 1)
            return super().step(images, labels)

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor) -> DiscriminatorLoss:
        real = real.detach().requires_grad_()
        on_real, on_fake = self.d(real), self.d(fake)
        (slope,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)  # second derivatives too
        loss = nn.functional.softplus(on_fake - on_real).mean() + slope.square().sum((1, 2, 3)).mean()
        return DiscriminatorLoss(loss, on_real, on_fake)

    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.softplus(-self.d(fake)).mean()


class FakeGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 16))

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return self.net(noise).reshape(-1, 1, 4, 4).sigmoid()  # type: ignore[no-any-return]


def trained(stopped: bool = False) -> dict[str, Tensor]:
    settings = params.Train(images_seen=params.Budget(per_class=1), log_every=5, sample_every=10_000, precision="fp32")
    config = TrainerConfig(
        build=lambda _: SharedNoiseGan(),
        images=np.random.default_rng(0).integers(0, 256, (40, 4, 4), np.uint8),
        labels=np.zeros(40, np.int64),
        images_seen=20 * 8,
        batch_size=8,
        ema_decay=0.5,
        seed=3,
        settings=settings,
        device=torch.device("cpu"),
    )
    trainer = Trainer(config)
    if stopped:
        step = trainer.step

        def step_once_told() -> None:
            step()
            if trainer.progress.step == 7:
                os.kill(os.getpid(), signal.SIGTERM)

        trainer.step = step_once_told  # type: ignore[method-assign]
    return dict(trainer.fit().generator.state_dict())


def pair(*words: list[str]) -> list[tuple[int, str]]:
    """The exit code and stderr of two processes of one training, started with these words."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, *own],
            env={**shared, "OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, own in enumerate(words)
    ]
    try:
        said = [process.communicate(timeout=240)[1] for process in processes]
        return [(process.returncode, err) for process, err in zip(processes, said, strict=True)]
    finally:
        for process in processes:
            process.kill()


def test_two_processes_match_one(tmp_path: Path) -> None:
    ended = pair(*([str(tmp_path / f"{rank}.pt")] for rank in (0, 1)))
    assert [code for code, _ in ended] == [0, 0], ended
    alone, *ranks = trained(), *(torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for weights in ranks:
        for name, value in alone.items():
            torch.testing.assert_close(weights[name], value, atol=1e-4, rtol=0)
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in alone)


def test_a_signal_to_one_process_stops_both(tmp_path: Path) -> None:
    for _, said in pair([str(tmp_path / "0.pt")], [str(tmp_path / "1.pt"), "stopped"]):
        assert "shared_noise_gan stopped after step 10 and saved" in said, "the next step after a report"


def test_a_variant_without_optimisers_trains_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SharedNoiseGan, "optimisers", lambda self: [])
    with pytest.raises(LekhaniError, match="trains in one process"):
        distributed.share_weights(SharedNoiseGan(), distributed.Ranks(0, 2))


if __name__ == "__main__":
    torch.save(trained("stopped" in sys.argv), sys.argv[1])
