"""The one training loop: it draws batches, sequences steps, keeps the average and the best, saves, and reports. Losses are the variants' own."""

import copy
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lekhani import params
from lekhani.data.spec import Bytes, Labels
from lekhani.errors import LekhaniError
from lekhani.machine import peak_memory
from lekhani.pictures import grid, to_uint8
from lekhani.train import distributed
from lekhani.train.batches import batches
from lekhani.train.checkpoint import Checkpoints
from lekhani.train.devices import takes_bf16
from lekhani.train.diagnosis import Finding, diagnose
from lekhani.train.ema import Ema
from lekhani.train.reporter import Reporter
from lekhani.variants.base import Variant

log = logging.getLogger("lekhani")

Score = Callable[[Variant, nn.Module], Mapping[str, float]]
"""Measures the generator of a variant, its average as it is now; `judge_fid`, lower is better, picks the best."""


@dataclass(frozen=True)
class Trained:
    """What training leaves: the averaged generator on the CPU, at its best moment where it was scored, and figures of the run."""

    generator: nn.Module
    variant: Variant
    images_seen: int
    steps: int
    best_step: int
    seconds: float
    images_per_second: float
    peak_memory_mb: float
    device: str
    findings: tuple[Finding, ...] = ()


class StoppedError(LekhaniError):
    """Training was asked to stop, and has saved; the same command goes on from there."""

    def __init__(self, name: str, step: int, number: int) -> None:
        super().__init__(f"{name} stopped after step {step} and saved; run the same command to go on.")
        self.exit_code = 128 + number


def train(
    build: Callable[[torch.device], Variant],
    images: Bytes,
    labels: Labels,
    *,
    images_seen: int,
    batch_size: int,
    ema_decay: float,
    seed: int,
    choice: params.Train,
    device: torch.device,
    reporter: Reporter,
    ema_start: float = 0.0,
    checkpoints: Checkpoints | None = None,
    score: Score | None = None,
) -> Trained:
    """Train what `build` makes on uint8 images [N,H,W] with int64 labels [N] until `images_seen` images were shown.

    Same arguments, same machine kind: same weights on the CPU, also when the run was killed and goes on from `checkpoints`.
    Under torchrun each process takes its share of every batch, and only the first one reports, scores and saves.
    Raises LekhaniError when a loss stops being finite, and StoppedError on Ctrl-C and SIGTERM, once the state is saved.
    """
    session = _Session(build, images, labels, images_seen, batch_size, (ema_decay, ema_start), seed, choice, device)
    session.reporter, session.checkpoints, session.score = reporter, checkpoints, score
    session.restore()
    with _signals() as asked:
        while session.run.step < session.steps:
            session.step()
            session.report()
            if session.run.step < session.steps:
                session.save(at_once=bool(asked))
                if asked:
                    distributed.leave()
                    raise StoppedError(session.variant.name, session.run.step, asked[0])
    distributed.leave()
    return session.result()


@dataclass
class _Run:
    """Where a run stands: all that is neither in the variant nor in the average, and goes into a checkpoint with them."""

    step: int = 0
    pending: list[dict[str, Tensor]] = field(default_factory=list)  # figures of the steps since the last report
    rows: list[dict[str, float]] = field(default_factory=list)
    scores: list[dict[str, float]] = field(default_factory=list)
    told: dict[str, str] = field(default_factory=dict)  # findings, by name
    best: dict[str, Tensor] | None = None  # weights of the average when it scored best
    best_step: int = 0
    seconds: float = 0.0  # of earlier sessions
    started: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))


class _Session:
    """One training run from its start, or from its checkpoint, to its end."""

    reporter: Reporter
    checkpoints: Checkpoints | None
    score: Score | None

    def __init__(
        self,
        build: Callable[[torch.device], Variant],
        images: Bytes,
        labels: Labels,
        images_seen: int,
        batch_size: int,
        ema: tuple[float, float],
        seed: int,
        choice: params.Train,
        device: torch.device,
    ) -> None:
        self.here = distributed.join(device)
        torch.manual_seed(seed)
        torch.set_flush_denormal(True)  # a step over subnormal numbers is many times slower and no better
        self.choice, self.device, self.seed = choice, device, seed
        self.variant = build(device)
        self.ema, self.ema_start = Ema(self.variant.generator(), ema[0]), ema[1]
        distributed.share_gradients(self.variant, self.here)
        speed_up(self.variant, choice, device)
        self.pixels = torch.from_numpy(images).to(device)
        self.classes = torch.from_numpy(labels).to(device)
        self.batch_size = min(batch_size, len(images)) // self.here.world * self.here.world
        if not self.batch_size:
            raise LekhaniError(
                f"A batch is smaller than the {self.here.world} processes that are to share it; raise batch_size or start fewer."
            )
        self.steps = max(1, math.ceil(images_seen / self.batch_size))
        noise, sample_labels = fixed_inputs(self.variant.noise_dim, int(labels.max()) + 1, seed)
        self.noise, self.sample_labels = noise.to(device), sample_labels.to(device)
        self.run = _Run()

    def restore(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        state = self.checkpoints.load() if self.checkpoints else None
        if state is not None:
            self.variant.load_state_dict(state["variant"])
            self.ema.load_state_dict(state["ema"])
            self.run = _Run(**state["run"])
            log.info("%s goes on from step %d of %d.", self.variant.name, self.run.step, self.steps)
        if self.here.rank:  # every process its own noise; the first has the same as when it is alone
            torch.manual_seed(self.seed + self.here.rank + self.here.world * self.run.step)
        elif state is not None:
            torch.set_rng_state(state["random"])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.rows = self._rows()
        self.reporter.resume(self.run.step)
        self.saved = self.run.started = time.perf_counter()

    def step(self) -> None:
        """Show the next batch, or this process's share of it."""
        chosen = next(self.rows)
        self.variant.progress = self.run.step / self.steps
        self.run.pending.append(
            self.variant.step(self.pixels[chosen].unsqueeze(1).float().div_(255), self.classes[chosen])
        )
        if self.run.step >= self.ema_start * self.steps:
            self.ema.update()
        else:
            self.ema.copy()
        self.run.step += 1

    def _rows(self) -> Iterator[Tensor]:
        """Row numbers of each batch from here on, on the device: many batches come over at once, since each crossing waits for the device."""
        order = islice(batches(len(self.pixels), self.batch_size, self.seed), self.run.step, None)
        while True:
            yield from torch.from_numpy(
                np.stack(list(islice(order, 64)))[:, self.here.rank :: self.here.world].copy()
            ).to(self.device)

    def report(self) -> None:
        """Tell figures, scores, samples and findings when their time has come."""
        run, choice = self.run, self.choice
        seen, last = run.step * self.batch_size, run.step == self.steps
        figures = run.step % choice.log_every == 0 or last
        if figures:
            self._tell_figures(seen)
        if not self.here.leads:
            return
        scores = self.score is not None and choice.score_every > 0 and (self._passed(choice.score_every) or last)
        if self.score and scores:
            self._keep_best(self.score, seen)
        if figures or scores:
            self._tell_findings()
        if self._passed(choice.sample_every) or last:
            self.reporter.images(run.step, sample(self.ema.average, self.noise, self.sample_labels))

    def save(self, at_once: bool) -> None:
        """Write a checkpoint, when it is time or `at_once`."""
        every = self.choice.checkpoint_steps
        due = time.perf_counter() - self.saved > self.choice.checkpoint_seconds or (
            every and self.run.step % every == 0
        )
        if not self.checkpoints or not self.here.leads or not (due or at_once):
            return
        _check_finite(self.variant.name, self.run)
        self.run.seconds = self._seconds()
        self.run.started = time.perf_counter()
        state = {
            "variant": self.variant.state_dict(),
            "ema": self.ema.state_dict(),
            "run": self.run.state_dict(),
            "random": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        self.checkpoints.save(self.run.step, state)
        self.saved = time.perf_counter()

    def result(self) -> Trained:
        """What is left when all steps are done."""
        run, seconds, total = self.run, self._seconds(), self.steps * self.batch_size
        if run.best is not None:
            self.ema.average.load_state_dict(run.best)
        return Trained(
            generator=self.ema.average.cpu(),
            variant=self.variant,
            images_seen=total,
            steps=self.steps,
            best_step=run.best_step if run.best is not None else self.steps,
            seconds=seconds,
            images_per_second=total / seconds,
            peak_memory_mb=_peak_memory_mb(self.device),
            device=str(self.device),
            findings=tuple(Finding(name, sentence) for name, sentence in run.told.items()),
        )

    def _seconds(self) -> float:
        """Seconds of training so far, over all sessions."""
        return self.run.seconds + time.perf_counter() - self.run.started

    def _passed(self, every: int) -> bool:
        """True when the last batch carried the images seen beyond a multiple of `every`."""
        seen = self.run.step * self.batch_size
        return seen // every > (seen - self.batch_size) // every

    def _tell_figures(self, seen: int) -> None:
        _check_finite(self.variant.name, self.run)
        means = _means(self.run.pending)  # the only place that waits for the device
        self.run.pending.clear()
        self.run.rows.append(means)
        speed = seen / self._seconds()
        left = (self.steps * self.batch_size - seen) / speed
        self.reporter.metrics(
            self.run.step, {"images_seen": seen, **means, "images_per_second": speed, "seconds_left": left}
        )

    def _tell_findings(self) -> None:
        """Say what the curves and the scores tell by now, each thing once."""
        run = self.run
        for finding in diagnose(run.rows, run.scores):
            if finding.name not in run.told:
                run.told[finding.name] = finding.sentence
                log.warning("%s at step %d: %s", self.variant.name, run.step, finding.sentence)

    def _keep_best(self, score: Score, seen: int) -> None:
        """Score the average as it is, and keep its weights when they are the best so far."""
        run, found = self.run, dict(score(self.variant, self.ema.average))
        if run.best is None or found["judge_fid"] < min(earlier["judge_fid"] for earlier in run.scores):
            run.best, run.best_step = copy.deepcopy(self.ema.average.state_dict()), run.step
        run.scores.append(found)
        self.reporter.scores(run.step, {"images_seen": seen, **found})


def speed_up(variant: Variant, choice: params.Train, device: torch.device) -> None:
    """Half precision where the device is made for it, and compiled networks where that was asked for."""
    variant.autocast = torch.autocast(device.type, torch.bfloat16) if takes_bf16(choice, device) else nullcontext()
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    if choice.compile:
        for network in variant.networks():
            network.compile()


def _check_finite(name: str, run: _Run) -> None:
    """Find the first step whose figures are not finite."""
    if not run.pending:
        return
    table = torch.stack([torch.stack([value.float() for value in row.values()]) for row in run.pending])
    if bool(torch.isfinite(table).all()):
        return
    row, column = (~torch.isfinite(table)).nonzero()[0].tolist()
    key, step = list(run.pending[0])[column], run.step - len(run.pending) + 1 + row
    raise LekhaniError(
        f"{key} is {table[row, column].item()} at step {step}; lower the learning rate of {name} in params.yaml or set clip_norm, and train again."
    )


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Yields a list that holds the signal, once Ctrl-C or SIGTERM has come; a second Ctrl-C interrupts at once."""
    asked: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, which alone may listen
        yield asked
        return
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fixed_inputs(noise_dim: int, n_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise and labels of the sample grid: the classes in order, as often as fills about a hundred cells."""
    labels = torch.arange(n_classes).repeat(max(1, 100 // n_classes))
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(labels), noise_dim, generator=generator), labels


@torch.no_grad()
def sample(generator: nn.Module, noise: Tensor, labels: Tensor) -> npt.NDArray[np.uint8]:
    """A grid of what `generator` makes of the fixed inputs, uint8 [H,W]."""
    n_classes = int(labels.max()) + 1
    return grid(to_uint8(generator(noise, labels).float().cpu().numpy()), columns=n_classes if n_classes <= 16 else 23)


def _means(rows: list[dict[str, Tensor]]) -> dict[str, float]:
    stacked = torch.stack([torch.stack([value.float() for value in row.values()]) for row in rows]).mean(0).tolist()
    return dict(zip(rows[0], stacked, strict=True))


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_memory() / 2**20
