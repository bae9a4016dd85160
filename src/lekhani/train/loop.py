"""The one training loop: it draws batches, calls the variant's step, averages weights, scores, saves and reports."""

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
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from lekhani import params
from lekhani.data.spec import Bytes, Labels
from lekhani.errors import LekhaniError, UsageError, first_line
from lekhani.machine import peak_memory
from lekhani.pictures import grid, to_uint8
from lekhani.train import distributed
from lekhani.train.batches import batches, on_device
from lekhani.train.checkpoint import Checkpoints
from lekhani.train.devices import takes_bf16
from lekhani.train.diagnosis import Finding, diagnose
from lekhani.train.ema import Ema
from lekhani.train.graphs import use_graphs
from lekhani.train.reporter import Reporter
from lekhani.variants.base import Variant
from lekhani.variants.optimise import any_of
from lekhani.variants.state import load_part, require_like, require_scalar, require_weights

log = logging.getLogger("lekhani")

Score = Callable[[Variant, nn.Module], Mapping[str, float]]
"""Measures a variant by its averaged generator; the lowest `judge_fid` picks the best weights."""


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """All that one training run depends on."""

    build: Callable[[torch.device], Variant]
    images: Bytes  # uint8 [N,H,W]
    labels: Labels  # int64 [N]
    images_seen: int  # the budget, repeats counted; the last batch may exceed it
    batch_size: int
    ema_decay: float
    ema_start: float = 0.0  # share of the budget
    seed: int
    settings: params.Train
    device: torch.device
    reporter: Reporter = field(default_factory=Reporter)
    checkpoints: Checkpoints | None = None
    score: Score | None = None


@dataclass(frozen=True)
class Trained:
    """The averaged generator on the CPU, from when it scored best if it was scored, and figures of the run."""

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
    """Training was stopped by a signal, and has saved; the same command goes on from there."""

    def __init__(self, name: str, step: int, number: int) -> None:
        super().__init__(f"{name} stopped after step {step} and saved; run the same command to go on.")
        self.exit_code = 128 + number


def _with_fid(scores: dict[str, float]) -> dict[str, float]:
    if "judge_fid" not in scores:
        raise ValueError("a score has no judge_fid")
    return scores


_Scalar = Annotated[Tensor, AfterValidator(require_scalar)]
_Scored = Annotated[dict[str, float], AfterValidator(_with_fid)]


class _Progress(BaseModel):
    """The part of a checkpoint that is neither in the variant nor in the average."""

    model_config = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)

    step: Annotated[int, Field(ge=0)] = 0
    pending: list[dict[str, _Scalar]] = []  # metrics of the steps since the last report
    rows: list[dict[str, float]] = []
    scores: list[_Scored] = []
    findings: dict[str, str] = {}  # sentences by name
    best: dict[str, Tensor] | None = None  # weights of the average when it scored best
    best_step: Annotated[int, Field(ge=0)] = 0
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0  # of earlier sessions

    @model_validator(mode="after")
    def _consistent(self) -> "_Progress":
        if any(row.keys() != self.pending[0].keys() for row in self.pending):
            raise ValueError("its steps have different metrics")
        if (self.best is None) == bool(self.scores):
            raise ValueError("it has scores without the best weights, or the best weights without scores")
        return self


class Trainer:
    """One training run from its start, or from its newest checkpoint, to its end.

    The same config on the same kind of machine gives the same weights on the CPU, also when the run was killed and goes
    on from a checkpoint. Under torchrun each process takes its share of every batch, and only the first one reports,
    scores and saves.
    """

    def __init__(self, config: TrainerConfig) -> None:
        self.config, self.settings, self.device = config, config.settings, config.device
        self.ranks = distributed.init(config.device)
        torch.manual_seed(config.seed)
        torch.set_flush_denormal(True)  # a step over subnormal numbers is many times slower and no better
        self.variant = config.build(config.device)
        self.ema = Ema(self.variant.generator(), config.ema_decay)
        distributed.share_weights(self.variant, self.ranks)
        speed_up(self.variant, config.settings, config.device)
        if config.settings.cuda_graphs:
            use_graphs(self.variant, config.device, self.ranks.world)
        self.images = torch.from_numpy(config.images).to(config.device)
        self.labels = torch.from_numpy(config.labels).to(config.device)
        world = self.ranks.world
        self.batch_size = min(config.batch_size, len(config.images)) // world * world
        if not self.batch_size:
            raise LekhaniError(f"A batch is smaller than its {world} processes; raise batch_size or start fewer.")
        self.steps = max(1, math.ceil(config.images_seen / self.batch_size))
        noise, labels = fixed_inputs(self.variant.noise_dim, int(config.labels.max()) + 1, config.seed)
        self.sample_noise, self.sample_labels = noise.to(config.device), labels.to(config.device)
        self.progress = _Progress()

    def fit(self) -> Trained:
        """Train until the budget is spent.

        Raises LekhaniError when a loss stops being finite, and StoppedError on Ctrl-C and SIGTERM, once it has saved.
        """
        self.restore()
        with _signals() as received:
            while self.progress.step < self.steps:
                self.step()
                self.report()
                if self.progress.step < self.steps:
                    stopping = self._stopping(bool(received))
                    self.save(now=stopping)
                    if stopping:
                        distributed.shutdown()
                        raise StoppedError(self.variant.name, self.progress.step, (received or [signal.SIGTERM])[0])
        distributed.shutdown()
        return self._result()

    def _stopping(self, told: bool) -> bool:
        """Whether to stop here; processes that train together agree, since one alone would wait for ever."""
        on_gpu = self.ranks.world > 1 and self.device.type == "cuda"  # where asking waits for all that is running
        return (not on_gpu or self.progress.step % self.settings.log_every == 0) and any_of(told, self.device)

    def restore(self) -> None:
        """Go on from the newest checkpoint, if there is one, on whatever device it was saved."""
        checkpoints = self.config.checkpoints
        state = distributed.of_first(checkpoints.load) if checkpoints else None  # other hosts have no such file
        if checkpoints and state is not None:
            try:
                self._take(state)
            except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                raise UsageError(
                    f"{checkpoints.folder} holds an unfinished run that this version of Lekhani cannot go on with "
                    f"({first_line(error)}); remove {checkpoints.folder} to start afresh."
                ) from error
            log.info("%s goes on from step %d of %d.", self.variant.name, self.progress.step, self.steps)
        self._restore_random(state)
        self.rows = self._rows()
        self.config.reporter.resume(self.progress.step)
        self.saved = self.started = time.perf_counter()

    def _take(self, state: dict[str, Any]) -> None:
        """Take the state of a checkpoint, if it is one of such a run; raises ValueError and the like otherwise."""
        if (
            not {"variant", "ema", "run", "random"}
            <= state.keys()
            <= {"variant", "ema", "run", "random", "random_cuda"}
        ):
            raise ValueError(f"it has the parts {', '.join(map(str, state))}")
        self.variant.load_state_dict(state["variant"])
        load_part("ema", self.ema, state["ema"])
        progress = _Progress(**state["run"])
        averaged = max(0, progress.step - math.ceil(self.config.ema_start * self.steps))
        if progress.step > self.steps or progress.best_step > progress.step or self.ema.steps != averaged:
            found = f"step {progress.step} of {self.steps}, best {progress.best_step}, averaged {self.ema.steps}"
            raise ValueError(f"its counts of steps do not fit each other: {found}")
        if progress.best is not None:
            require_weights("best", self.ema.average, progress.best)
        require_like("random", state["random"], torch.get_rng_state())
        if self.device.type == "cuda" and "random_cuda" in state:
            require_like("random_cuda", state["random_cuda"], torch.cuda.get_rng_state(self.device))
        self.progress = progress

    def _restore_random(self, state: dict[str, Any] | None) -> None:
        cuda = self.device.type == "cuda"
        moved = state is not None and ("random_cuda" in state) != cuda
        if moved:
            log.warning(
                "The checkpoint of %s was saved on another kind of device, so its random numbers start anew: "
                "the result will differ from that of an unbroken run.",
                self.variant.name,
            )
        if self.ranks.rank or moved:  # every process its own noise; the first has the same as when it is alone
            torch.manual_seed(self.config.seed + self.ranks.rank + self.ranks.world * self.progress.step)
        elif state is not None:
            torch.set_rng_state(state["random"])
            if cuda:
                torch.cuda.set_rng_state(state["random_cuda"], self.device)

    def step(self) -> None:
        """Train on the next batch, or on this process's share of it."""
        chosen = next(self.rows)
        self.variant.progress = self.progress.step / self.steps
        images = self.images[chosen].unsqueeze(1).float().div_(255)
        self.progress.pending.append(self.variant.step(images, self.labels[chosen]))
        if self.progress.step >= self.config.ema_start * self.steps:
            self.ema.update()
        else:
            self.ema.copy()
        self.progress.step += 1

    def _rows(self) -> Iterator[Tensor]:
        """Row numbers of each batch from here on, int64 on the device."""
        order = islice(batches(len(self.images), self.batch_size, self.config.seed), self.progress.step, None)
        return on_device((rows[self.ranks.rank :: self.ranks.world] for rows in order), self.device)

    def report(self) -> None:
        """Report metrics, scores, samples and findings when they are due."""
        step, last = self.progress.step, self.progress.step == self.steps
        with_metrics = step % self.settings.log_every == 0 or last
        if with_metrics:
            self._report_metrics()
        if not self.ranks.is_main:
            return
        score_every = self.settings.score_every
        if self.config.score and score_every and (self._passed(score_every) or last):
            self._score(self.config.score)
            self._report_findings()
        elif with_metrics:
            self._report_findings()
        if self._passed(self.settings.sample_every) or last:
            self.config.reporter.images(step, sample(self.ema.average, self.sample_noise, self.sample_labels))

    def save(self, now: bool) -> None:
        """Write a checkpoint, when it is due or at once."""
        every = self.settings.checkpoint_steps
        overdue = time.perf_counter() - self.saved > self.settings.checkpoint_seconds
        due = overdue or (every and self.progress.step % every == 0)
        if not self.config.checkpoints or not self.ranks.is_main or not (due or now):
            return
        self._check_finite()
        self.progress.seconds = self._seconds()
        self.started = time.perf_counter()
        state = {
            "variant": self.variant.state_dict(),
            "ema": self.ema.state_dict(),
            "run": vars(self.progress),
            "random": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        self.config.checkpoints.save(self.progress.step, state)
        self.saved = time.perf_counter()

    def _result(self) -> Trained:
        progress, seconds, total = self.progress, self._seconds(), self.steps * self.batch_size
        on_gpu = self.device.type == "cuda"
        if progress.best is not None:
            self.ema.average.load_state_dict(progress.best)
        return Trained(
            generator=self.ema.average.cpu(),
            variant=self.variant,
            images_seen=total,
            steps=self.steps,
            best_step=progress.best_step if progress.best is not None else self.steps,
            seconds=seconds,
            images_per_second=total / seconds,
            peak_memory_mb=(torch.cuda.max_memory_allocated(self.device) if on_gpu else peak_memory()) / 2**20,
            device=str(self.device),
            findings=tuple(Finding(name, sentence) for name, sentence in progress.findings.items()),
        )

    def _seconds(self) -> float:
        """Seconds of training so far, over all sessions."""
        return self.progress.seconds + time.perf_counter() - self.started

    def _passed(self, every: int) -> bool:
        """True when the last batch carried the images seen beyond a multiple of `every`."""
        seen = self.progress.step * self.batch_size
        return seen // every > (seen - self.batch_size) // every

    def _report_metrics(self) -> None:
        table = self._check_finite().mean(0).tolist()  # the only place that waits for the device
        means = dict(zip(self.progress.pending[0], table, strict=True))
        self.progress.pending.clear()
        self.progress.rows.append(means)
        seen = self.progress.step * self.batch_size
        speed = seen / self._seconds()
        left = (self.steps * self.batch_size - seen) / speed
        values = {"images_seen": seen, **means, "images_per_second": speed, "seconds_left": left}
        self.config.reporter.metrics(self.progress.step, values)

    def _report_findings(self) -> None:
        """Log what the curves and the scores show by now, each thing once."""
        for finding in diagnose(self.progress.rows, self.progress.scores):
            if finding.name not in self.progress.findings:
                self.progress.findings[finding.name] = finding.sentence
                log.warning("%s at step %d: %s", self.variant.name, self.progress.step, finding.sentence)

    def _score(self, score: Score) -> None:
        """Score the average as it is, and keep its weights when they are the best so far."""
        progress, found = self.progress, dict(score(self.variant, self.ema.average))
        if progress.best is None or found["judge_fid"] < min(earlier["judge_fid"] for earlier in progress.scores):
            progress.best, progress.best_step = copy.deepcopy(self.ema.average.state_dict()), progress.step
        progress.scores.append(found)
        self.config.reporter.scores(progress.step, {"images_seen": progress.step * self.batch_size, **found})

    def _check_finite(self) -> Tensor:
        """Pending metrics, float32 [steps, metrics]; a LekhaniError for the first one that is not finite."""
        pending = self.progress.pending
        if not pending:
            return torch.empty(0)
        if any(row.keys() != pending[-1].keys() for row in pending):  # those of a checkpoint and those of today
            problem = f"The checkpoint of {self.variant.name} has other metrics than its steps have now"
            raise UsageError(f"{problem}; remove its folder below checkpoints/ to start afresh.")
        rows = [torch.stack([value.float() for value in row.values()]) for row in pending]
        table = torch.stack([row.to(rows[-1].device) for row in rows])  # those of a checkpoint are on the CPU
        if not bool(torch.isfinite(table).all()):
            row, column = (~torch.isfinite(table)).nonzero()[0].tolist()
            step = self.progress.step - len(pending) + 1 + row
            raise LekhaniError(
                f"{list(pending[0])[column]} is {table[row, column].item()} at step {step}; lower the learning rate of "
                f"{self.variant.name} in params.yaml or set clip_norm, and train again."
            )
        return table


def speed_up(variant: Variant, settings: params.Train, device: torch.device) -> None:
    """Half precision where the settings and the device allow it, and compiled networks where the settings say so."""
    variant.autocast = torch.autocast(device.type, torch.bfloat16) if takes_bf16(settings, device) else nullcontext()
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    if settings.compile:
        for network in variant.networks():
            network.compile()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Yields a list that holds the signal, once Ctrl-C or SIGTERM has come; a second one interrupts at once."""
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # only the main thread may handle signals
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fixed_inputs(noise_dim: int, n_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise float32 [N, noise_dim] and labels int64 [N] of the sample grid: about a hundred cells, classes in order."""
    labels = torch.arange(n_classes).repeat(max(1, 100 // n_classes))
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(labels), noise_dim, generator=generator), labels


@torch.no_grad()
def sample(generator: nn.Module, noise: Tensor, labels: Tensor) -> npt.NDArray[np.uint8]:
    """A grid of the images that `generator` makes of the fixed inputs, uint8 [H,W]."""
    n_classes = int(labels.max()) + 1
    return grid(to_uint8(generator(noise, labels).float().cpu().numpy()), columns=n_classes if n_classes <= 16 else 23)
