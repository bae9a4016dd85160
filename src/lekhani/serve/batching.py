"""Many small calls in one run: whoever waits while the generator is at work shares its next batch.

A row's image depends on its noise and label alone, so what shares a batch with it makes no difference.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lekhani.data.spec import Bytes, Labels
from lekhani.errors import LekhaniError
from lekhani.inference.session import Floats


class BusyError(LekhaniError):
    """Too much waits already; `seconds` later it may have been done."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = max(1, min(math.ceil(seconds), 600))


@dataclass(eq=False)
class _Job:
    """A request: either rows of noise and labels that become `images`, or `work` that runs alone."""

    answer: asyncio.Future[Any]
    noise: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))
    labels: Labels = field(default_factory=lambda: np.empty(0, np.int64))
    work: Callable[[Callable[[], None]], Any] | None = None
    begun: int = 0  # rows that are drawn, or are being drawn
    parts: list[Bytes] = field(default_factory=list)

    def still_wanted(self) -> None:
        """Raise when nobody waits any more."""
        if self.answer.done():
            raise LekhaniError("Nobody waits for it any more.")


class Batcher:
    """One thread at work, and what waits for it. All methods belong to one event loop.

    `draw` makes images uint8 [N,H,W] of noise float32 [N, noise_dim] and labels int64 [N]. At most `most` rows wait, no longer than about
    `patience` seconds; `on_batch` hears of the size of each batch.
    """

    def __init__(
        self,
        draw: Callable[[Floats, Labels], Bytes],
        size: int,
        most: int,
        patience: float,
        on_batch: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.draw, self.size, self.most, self.patience, self.on_batch = draw, size, most, patience, on_batch
        self.waiting = 0  # rows of requests that have no answer yet
        self.rows_per_second = math.inf  # until measured
        self._drawn = self._spent = 0.0  # rows and seconds, of which the latest weigh most
        self._jobs: deque[_Job] = deque()
        self._some = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(1, "draw")
        self._worker: asyncio.Task[None] | None = None

    async def rows(self, noise: Floats, labels: Labels) -> Bytes:
        """Images uint8 [N,H,W] of these rows; raises BusyError when too much waits. Cancelling it takes it out of the queue."""
        images: Bytes = await self._answered(_Job(self._future(), noise, labels), len(labels))
        return images

    async def alone(self, work: Callable[[Callable[[], None]], Any], cost: int = 1) -> Any:
        """What `work` returns or raises, run in the thread between two batches; it counts as `cost` rows.

        It is given a function to call now and then, which ends it by an exception once nobody waits for its result any more.
        """
        return await self._answered(_Job(self._future(), work=work), cost)

    async def close(self) -> None:
        """Finish what waits, then stop."""
        self._closing = True
        self._some.set()
        if self._worker:
            await self._worker
        self._thread.shutdown()

    def _future(self) -> "asyncio.Future[Any]":
        return asyncio.get_running_loop().create_future()

    async def _answered(self, job: _Job, cost: int) -> Any:
        seconds = (self.waiting + cost) / self.rows_per_second
        if self.waiting + cost > self.most or seconds > self.patience:
            wait = self.waiting / self.rows_per_second
            if seconds - wait > self.patience:
                raise BusyError(
                    f"That would take about {seconds - wait:.0f} seconds, and {self.patience:g} is the most; ask for less at once.",
                    wait,
                )
            raise BusyError(f"{self.waiting:,} images wait to be drawn already; try again later.", wait)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        self._jobs.append(job)
        self._some.set()
        self.waiting += cost
        try:
            return await job.answer
        finally:
            self.waiting -= cost

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._jobs or not self._closing:
            if not self._jobs:
                self._some.clear()
                await self._some.wait()
                continue
            batch = self._next()
            if not batch:
                continue
            started, first = time.perf_counter(), batch[0][0]
            try:
                if first.work:
                    result = await loop.run_in_executor(self._thread, first.work, first.still_wanted)
                    if not first.answer.done():
                        first.answer.set_result(result)
                    continue
                noise, labels = (
                    np.concatenate([getattr(job, name)[part] for job, part in batch]) for name in ("noise", "labels")
                )
                images = await loop.run_in_executor(self._thread, self.draw, noise, labels)
            except Exception as error:  # it is the caller's, who may know what to do with it
                for job, _ in batch:
                    if not job.answer.done():
                        job.answer.set_exception(error)
                continue
            self._measure(len(labels), time.perf_counter() - started)
            self.on_batch(len(labels))
            self._hand_out(batch, images)

    def _next(self) -> list[tuple[_Job, slice]]:
        """What runs next: one job alone, or rows of several."""
        batch: list[tuple[_Job, slice]] = []
        room = self.size
        while self._jobs and room:
            job = self._jobs[0]
            if job.work and batch:
                break
            self._jobs.popleft()
            if job.answer.done():  # cancelled, or failed with an earlier batch
                continue
            if job.work:
                return [(job, slice(0))]
            part = slice(job.begun, min(job.begun + room, len(job.labels)))
            batch.append((job, part))
            job.begun, room = part.stop, room - (part.stop - part.start)
        # A long job goes behind those that came meanwhile.
        self._jobs.extend(job for job, _ in batch if job.begun < len(job.labels))
        return batch

    def _hand_out(self, batch: list[tuple[_Job, slice]], images: Bytes) -> None:
        start = 0
        for job, part in batch:
            stop = start + part.stop - part.start
            job.parts.append(images[start:stop])
            start = stop
            if part.stop == len(job.labels) and not job.answer.done():
                job.answer.set_result(np.concatenate(job.parts))

    def _measure(self, rows: int, seconds: float) -> None:
        if 2 * rows >= self.size:  # few rows take longer each, and who waits is drawn in full batches
            self._drawn, self._spent = 0.9 * self._drawn + rows, 0.9 * self._spent + seconds
            self.rows_per_second = self._drawn / self._spent
