"""What waits for a generator: rows of many requests, drawn in shared batches that take turns.

A row's image depends on its noise and label alone, so it makes no difference what else is in its batch.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from lekhani.data.spec import Labels
from lekhani.errors import LekhaniError
from lekhani.inference.sampling import Steps
from lekhani.inference.session import Floats

FIRST_BATCH = 8  # images, while it is unknown how long one takes
SLICE_SECONDS = 0.25  # for a batch, so that whoever comes next need not wait for long

Result = TypeVar("Result")


class BusyError(LekhaniError):
    """Too much is waiting; it may be done `seconds` later."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = max(1, min(math.ceil(seconds), 600))


class BoundedPool:
    """Threads for calls of which at most `capacity` wait, no longer than about `max_seconds`; `what` they are about.

    Its coroutines belong to one event loop.
    """

    def __init__(self, threads: int, capacity: int, max_seconds: float, what: str = "pictures") -> None:
        self.threads, self.capacity, self.max_seconds, self.what = threads, capacity, max_seconds, what
        self.waiting = 0  # calls that have not returned
        self._seconds = 0.0  # of one call, of which the latest weigh most
        self._pool = ThreadPoolExecutor(threads, "pool")

    async def run(self, call: Callable[[], Result]) -> Result:
        """What `call` returns or raises; raises BusyError when too much waits."""
        wait = self.waiting * self._seconds / self.threads
        if self.waiting >= self.capacity or wait > self.max_seconds:
            raise BusyError(f"{self.waiting:,} {self.what} are waiting already; try again later.", wait)
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._timed, call)
        finally:
            self.waiting -= 1

    def _timed(self, call: Callable[[], Result]) -> Result:
        started = time.perf_counter()
        try:
            return call()
        finally:
            self._seconds = 0.9 * self._seconds + 0.1 * (time.perf_counter() - started)


@dataclass(eq=False)
class _Rows:
    """Rows of noise and labels that become images, the `answer`."""

    noise: Floats
    labels: Labels
    begun: int = 0  # rows that are drawn, or are being drawn
    parts: list[Floats] = field(default_factory=list)
    answer: asyncio.Future[Floats] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def left(self) -> int:
        """Rows that wait; none once the caller is gone, or an earlier batch failed."""
        return 0 if self.answer.done() else len(self.labels) - self.begun


class Batcher:
    """A generator in a thread of its own, for all requests. Its coroutines belong to one event loop.

    `draw` makes images float32 [N,1,H,W] of noise float32 [N, noise_dim] and labels int64 [N], at most `batch_size` at
    a time; `on_batch` hears of the size of each batch. At most `capacity` images wait, no longer than about
    `max_seconds`.
    """

    def __init__(
        self,
        draw: Callable[[Floats, Labels], Floats],
        batch_size: int,
        capacity: int,
        max_seconds: float,
        on_batch: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.draw, self.batch_size, self.on_batch = draw, batch_size, on_batch
        self.capacity, self.max_seconds = capacity, max_seconds
        self.waiting = 0  # images of requests that have no answer yet
        self.images_per_second = math.inf  # until measured
        self._drawn = self._spent = 0.0  # rows and seconds, of which the latest weigh most
        self._rows: list[_Rows] = []
        self._thread = ThreadPoolExecutor(1, "generator")
        self._worker: asyncio.Task[None] | None = None

    async def images(self, noise: Floats, labels: Labels) -> Floats:
        """Images float32 [N,1,H,W] of these rows; raises BusyError when too much waits."""
        with self._admitted(len(labels)):
            return await self._images(noise, labels)

    async def run(self, steps: Steps[Result], images: int) -> Result:
        """What `steps` return, which will keep about so many images; raises BusyError when too much waits.

        What happens between two drawings runs in another thread, so it delays nobody else's.
        """
        with self._admitted(images):
            wanted, result = await asyncio.to_thread(_advance, steps, None)
            while wanted is not None:
                drawn = await self._images(*wanted)
                wanted, result = await asyncio.to_thread(_advance, steps, drawn)
            return result  # type: ignore[return-value]

    @contextmanager
    def _admitted(self, images: int) -> Iterator[None]:
        # Requests share the batches equally, so a small one does not wait for all of a large one.
        ahead = sum(min(rows.left, images) for rows in self._rows)
        most = self.max_seconds * self.images_per_second
        if images > most:
            seconds = f"about {images / self.images_per_second:.0f} seconds, and {self.max_seconds:g} is the most"
            raise BusyError(f"That would take {seconds}; ask for less at once.", ahead / self.images_per_second)
        if (excess := max(self.waiting + images - self.capacity, ahead + images - most)) > 0:
            seconds_until_room = excess / self.images_per_second
            raise BusyError(f"{self.waiting:,} images are waiting already; try again later.", seconds_until_room)
        self.waiting += images
        try:
            yield
        finally:
            self.waiting -= images

    async def _images(self, noise: Floats, labels: Labels) -> Floats:
        """Wait for these rows; being cancelled takes them out of the queue."""
        rows = _Rows(noise, labels)
        self._rows.append(rows)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await rows.answer

    async def _work(self) -> None:
        while batch := self._next_batch():
            started = time.perf_counter()
            try:
                noise = np.concatenate([rows.noise[part] for rows, part in batch])
                labels = np.concatenate([rows.labels[part] for rows, part in batch])
                images = await asyncio.get_running_loop().run_in_executor(self._thread, self.draw, noise, labels)
            except Exception as error:  # for the callers
                for rows, _ in batch:
                    if not rows.answer.done():
                        rows.answer.set_exception(error)
                continue
            self._measure(len(labels), time.perf_counter() - started)
            self.on_batch(len(labels))
            _hand_out(images, batch)

    def _next_batch(self) -> list[tuple[_Rows, slice]]:
        """An equal share of each waiting request, as many rows as can be drawn in a short time."""
        room, shares = self._room(), dict.fromkeys(self._rows, 0)
        while room and (hungry := [rows for rows, taken in shares.items() if rows.left > taken]):
            share = max(1, room // len(hungry))
            for rows in hungry[:room]:
                more = min(share, rows.left - shares[rows])
                shares[rows], room = shares[rows] + more, room - more
        batch = [(rows, slice(rows.begun, rows.begun + taken)) for rows, taken in shares.items() if taken]
        for rows, part in batch:
            rows.begun = part.stop
        # Whoever got nothing comes first next time.
        self._rows = sorted((rows for rows in shares if rows.left), key=lambda rows: shares[rows] > 0)
        return batch

    def _room(self) -> int:
        if math.isinf(self.images_per_second):
            return min(self.batch_size, FIRST_BATCH)
        return int(min(self.batch_size, max(1, SLICE_SECONDS * self.images_per_second)))

    def _measure(self, rows: int, seconds: float) -> None:
        if 2 * rows >= self._room():  # few rows take longer each, and a full queue is drawn in full batches
            self._drawn, self._spent = 0.9 * self._drawn + rows, 0.9 * self._spent + seconds
            self.images_per_second = self._drawn / self._spent


def _advance(steps: Steps[Result], images: Floats | None) -> tuple[tuple[Floats, Labels] | None, Result | None]:
    """What the steps want drawn next, or None and their result."""
    try:
        return (next(steps) if images is None else steps.send(images)), None
    except StopIteration as done:  # cannot be raised in a coroutine
        return None, done.value


def _hand_out(images: Floats, batch: list[tuple[_Rows, slice]]) -> None:
    start = 0
    for rows, part in batch:
        stop = start + part.stop - part.start
        rows.parts.append(images[start:stop])
        start = stop
        if part.stop == len(rows.labels) and not rows.answer.done():
            rows.answer.set_result(np.concatenate(rows.parts))
