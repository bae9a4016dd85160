"""One thread at work with a bounded queue before it, which batches what many clients want drawn.

A row's image depends on its noise and label alone, so it makes no difference what else is in its batch.
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

Work = Callable[[Callable[[], None]], Any]


class BusyError(LekhaniError):
    """Too much is waiting; it may be done `seconds` later."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = max(1, min(math.ceil(seconds), 600))


@dataclass(eq=False)
class _Job:
    """A request that waits for its `answer`."""

    answer: asyncio.Future[Any] = field(init=False, default_factory=lambda: asyncio.get_running_loop().create_future())

    def finish(self, result: Any) -> None:
        if not self.answer.done():
            self.answer.set_result(result)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


@dataclass(eq=False)
class _Single(_Job):
    """A function that runs by itself."""

    work: Work

    def check_wanted(self) -> None:
        """Raise when the client is gone."""
        if self.answer.done():
            raise LekhaniError("Nobody waits for it any more.")


@dataclass(eq=False)
class _Rows(_Job):
    """Rows of noise and labels that become images."""

    noise: Floats
    labels: Labels
    begun: int = 0  # rows that are drawn, or are being drawn
    parts: list[Bytes] = field(default_factory=list)


class WorkQueue:
    """One thread and the work that waits for it. All methods belong to one event loop.

    Work has a cost, in images. At most `capacity` images wait, no longer than about `max_seconds`.
    """

    def __init__(self, capacity: int, max_seconds: float) -> None:
        self.capacity, self.max_seconds = capacity, max_seconds
        self.waiting = 0  # images of requests that have no answer yet
        self.images_per_second = math.inf  # until measured
        self._jobs: deque[_Job] = deque()
        self._not_empty = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(1, "generator")
        self._worker: asyncio.Task[None] | None = None

    async def run(self, work: Work, cost: int = 1) -> Any:
        """What `work` returns or raises; raises BusyError when too much waits.

        `work` gets a function to call now and then, which raises once the caller was cancelled.
        """
        return await self._answer(_Single(work), cost)

    async def close(self) -> None:
        """Finish what waits, then stop."""
        self._closing = True
        self._not_empty.set()
        if self._worker:
            await self._worker
        self._thread.shutdown()

    async def _answer(self, job: _Job, cost: int) -> Any:
        """Queue the job and wait; cancelling that takes it out of the queue."""
        wait, own = self.waiting / self.images_per_second, cost / self.images_per_second
        if own > self.max_seconds:
            raise BusyError(
                f"That would take about {own:.0f} seconds, and {self.max_seconds:g} is the most; ask for less at once.",
                wait,
            )
        if self.waiting + cost > self.capacity or wait + own > self.max_seconds:
            raise BusyError(f"{self.waiting:,} images are waiting already; try again later.", wait)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        self._jobs.append(job)
        self._not_empty.set()
        self.waiting += cost
        try:
            return await job.answer
        finally:
            self.waiting -= cost

    async def _work(self) -> None:
        while self._jobs or not self._closing:
            if self._jobs:
                await self._step()
            else:
                self._not_empty.clear()
                await self._not_empty.wait()

    async def _step(self) -> None:
        """Do the next job."""
        job = self._jobs.popleft()
        if isinstance(job, _Single) and not job.answer.done():
            try:
                job.finish(await self._in_thread(job.work, job.check_wanted))
            except Exception as error:  # for the caller, who may know what to do with it
                job.fail(error)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


class Batcher(WorkQueue):
    """A queue that also batches the rows of several requests.

    `draw` makes images uint8 [N,H,W] of noise float32 [N, noise_dim] and labels int64 [N], at most `batch_size` at a
    time; `on_batch` hears of the size of each batch.
    """

    def __init__(
        self,
        draw: Callable[[Floats, Labels], Bytes],
        batch_size: int,
        capacity: int,
        max_seconds: float,
        on_batch: Callable[[int], object] = lambda _: None,
    ) -> None:
        super().__init__(capacity, max_seconds)
        self.draw, self.batch_size, self.on_batch = draw, batch_size, on_batch
        self._drawn = self._spent = 0.0  # rows and seconds, of which the latest weigh most

    async def images(self, noise: Floats, labels: Labels) -> Bytes:
        """Images uint8 [N,H,W] of these rows; raises BusyError when too much waits."""
        images: Bytes = await self._answer(_Rows(noise, labels), len(labels))
        return images

    async def _step(self) -> None:
        """Draw the next batch of rows, or do the next job of another kind."""
        if not isinstance(self._jobs[0], _Rows):
            await super()._step()
            return
        batch = self._next_batch()
        if not batch:
            return
        started = time.perf_counter()
        try:
            noise = np.concatenate([rows.noise[part] for rows, part in batch])
            labels = np.concatenate([rows.labels[part] for rows, part in batch])
            images = await self._in_thread(self.draw, noise, labels)
        except Exception as error:  # for the callers
            for rows, _ in batch:
                rows.fail(error)
            return
        self._measure(len(labels), time.perf_counter() - started)
        self.on_batch(len(labels))
        start = 0
        for rows, part in batch:
            stop = start + part.stop - part.start
            rows.parts.append(images[start:stop])
            start = stop
            if part.stop == len(rows.labels):
                rows.finish(np.concatenate(rows.parts))

    def _next_batch(self) -> list[tuple[_Rows, slice]]:
        """Rows of the next requests, up to the batch size or the next job of another kind."""
        batch: list[tuple[_Rows, slice]] = []
        room = self.batch_size
        while room and self._jobs and isinstance(rows := self._jobs[0], _Rows):
            self._jobs.popleft()
            if rows.answer.done():  # cancelled, or failed with an earlier batch
                continue
            part = slice(rows.begun, min(rows.begun + room, len(rows.labels)))
            batch.append((rows, part))
            rows.begun, room = part.stop, room - (part.stop - part.start)
        # A long request goes behind those that came in the meantime.
        self._jobs.extend(rows for rows, _ in batch if rows.begun < len(rows.labels))
        return batch

    def _measure(self, rows: int, seconds: float) -> None:
        if 2 * rows >= self.batch_size:  # few rows take longer each, and a full queue is drawn in full batches
            self._drawn, self._spent = 0.9 * self._drawn + rows, 0.9 * self._spent + seconds
            self.images_per_second = self._drawn / self._spent
