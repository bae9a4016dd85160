"""Requests share batches, get what each would get alone, and are refused or cancelled in time."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from lekhani.data.spec import Labels
from lekhani.errors import LekhaniError
from lekhani.inference.sampling import Steps
from lekhani.inference.session import Floats
from lekhani.serve.batching import Batcher, BoundedPool, BusyError


class FakeGenerator:
    """Draws each row from its noise and label, and records the batches; waits while `blocked`."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.blocked = False

    def __call__(self, noise: Floats, labels: Labels) -> Floats:
        while self.blocked:
            time.sleep(0.001)
        self.batches.append(len(labels))
        if (labels == 99).any():
            raise ValueError("no such label")
        return (10 * labels + noise[:, 0]).astype(np.float32)[:, None, None, None]


def rows(*values: int) -> tuple[Floats, Labels]:
    return np.array(values, np.float32)[:, None] % 10, np.array(values, np.int64) // 10


def drive(scenario: Callable[[Batcher, FakeGenerator], Awaitable[None]], **limits: Any) -> None:
    async def run() -> None:
        generator = FakeGenerator()
        batcher = Batcher(generator, **{"batch_size": 4, "capacity": 100, "max_seconds": 60.0, **limits})
        async with asyncio.timeout(20):
            await scenario(batcher, generator)
        assert batcher.waiting == 0

    asyncio.run(run())


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.001)


async def held(batcher: Batcher, generator: FakeGenerator, images: int) -> "asyncio.Task[Floats]":
    """A request for so many images, which is not answered before the generator is unblocked."""
    generator.blocked = True
    request = asyncio.create_task(batcher.images(*rows(*[11] * images)))
    await until(lambda: batcher.waiting == images)
    return request


def test_waiting_requests_share_a_batch_and_get_their_own_images() -> None:
    async def scenario(batcher: Batcher, generator: FakeGenerator) -> None:
        generator.blocked = True
        requests = [[11], [21, 22], [31], [41, 42, 43, 44, 45, 46], [51]]
        waiting = [asyncio.create_task(batcher.images(*rows(*values))) for values in requests]
        await until(lambda: batcher.waiting == 11)
        generator.blocked = False
        for values, images in zip(requests, await asyncio.gather(*waiting), strict=True):
            assert images.ravel().tolist() == values
        assert max(generator.batches) == 4, "as many as fit, and no more"
        assert len(generator.batches) <= 4
        assert sum(generator.batches) == 11

    drive(scenario)


def test_a_long_request_lets_short_ones_pass() -> None:
    async def scenario(batcher: Batcher, generator: FakeGenerator) -> None:
        long = await held(batcher, generator, 40)
        short = asyncio.create_task(batcher.images(*rows(21)))
        await until(lambda: batcher.waiting == 41)
        generator.blocked = False
        assert (await short).item() == 21
        assert not long.done()
        assert len(await long) == 40

    drive(scenario)


def test_too_much_is_refused_with_the_time_until_there_is_room() -> None:
    async def scenario(batcher: Batcher, generator: FakeGenerator) -> None:
        first = await held(batcher, generator, 98)
        batcher.images_per_second = 2.0
        with pytest.raises(BusyError, match="98 images are waiting already; try again later") as refused:
            await batcher.images(*rows(*[21] * 12))
        assert refused.value.seconds == 5
        generator.blocked = False
        await first
        assert len(await batcher.images(*rows(*[21] * 12))) == 12, "there is room again"

    drive(scenario)


def test_what_would_take_too_long_is_refused_and_a_small_request_beside_it_is_not() -> None:
    async def scenario(batcher: Batcher, generator: FakeGenerator) -> None:
        batcher.images_per_second = 2.0
        with pytest.raises(BusyError, match=r"about 10 seconds, and 5 is the most; ask for less at once"):
            await batcher.images(*rows(*[11] * 20))
        large = await held(batcher, generator, 10)
        batcher.images_per_second = 2.0
        with pytest.raises(BusyError, match="10 images are waiting already") as refused:
            await batcher.images(*rows(*[21] * 8))
        assert refused.value.seconds == 3
        small = asyncio.create_task(batcher.images(*rows(21)))
        await until(lambda: batcher.waiting == 11)
        generator.blocked = False
        assert (await small).item() == 21
        assert len(await large) == 10

    drive(scenario, max_seconds=5.0)


def test_a_batch_takes_no_longer_than_a_slice() -> None:
    async def scenario(batcher: Batcher, generator: FakeGenerator) -> None:
        batcher.images_per_second = 12.0  # three in a slice of a quarter of a second
        await batcher.images(*rows(*[11] * 10))
        assert generator.batches[0] == 3

    drive(scenario, batch_size=64)


def test_steps_share_batches_and_let_others_draw_in_between() -> None:
    def endless() -> Steps[None]:
        while True:
            yield rows(*[31] * 4)

    def twice() -> Steps[list[float]]:
        first = yield rows(11, 12)
        second = yield rows(13)
        return [*first.ravel().tolist(), *second.ravel().tolist()]

    async def scenario(batcher: Batcher, generator: FakeGenerator) -> None:
        working = asyncio.create_task(batcher.run(endless(), 1))
        assert await batcher.run(twice(), 3) == [11, 12, 13]
        assert (await batcher.images(*rows(41))).item() == 41
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        drawn = sum(generator.batches)
        assert (await batcher.images(*rows(41))).item() == 41
        assert sum(generator.batches) <= drawn + 1 + 4, "what was cancelled is not drawn any more"

    drive(scenario)


def test_an_error_reaches_its_callers_alone() -> None:
    def failing() -> Steps[None]:
        yield rows(11)
        raise LekhaniError("no such glyph")

    async def scenario(batcher: Batcher, generator: FakeGenerator) -> None:
        with pytest.raises(ValueError, match="no such label"):
            await batcher.images(*rows(990))
        with pytest.raises(LekhaniError, match="no such glyph"):
            await batcher.run(failing(), 1)
        assert (await batcher.images(*rows(11))).item() == 11

    drive(scenario)


def test_a_pool_refuses_what_would_wait_too_long_and_says_how_long() -> None:
    async def run() -> None:
        pool, go = BoundedPool(1, 2, 60.0), threading.Event()
        waiting = [asyncio.create_task(pool.run(go.wait)) for _ in range(2)]
        await until(lambda: pool.waiting == 2)
        with pytest.raises(BusyError, match="2 pictures are waiting already; try again later"):
            await pool.run(go.wait)
        go.set()
        assert await asyncio.gather(*waiting) == [True, True]
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda: 1 // 0)
        assert pool.waiting == 0

    asyncio.run(run())
