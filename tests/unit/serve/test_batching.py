"""Requests share batches, get what each would get alone, and are refused or cancelled in time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from lekhani.data.spec import Bytes, Labels
from lekhani.inference.session import Floats
from lekhani.serve.batching import Batcher, BusyError


class FakeGenerator:
    """Draws each row from its noise and label, and records the batches; waits while `blocked`."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.blocked = False

    def __call__(self, noise: Floats, labels: Labels) -> Bytes:
        while self.blocked:
            time.sleep(0.001)
        self.batches.append(len(labels))
        if (labels == 99).any():
            raise ValueError("no such label")
        return (10 * labels[:, None, None] + noise[:, :1, None]).astype(np.uint8)


def rows(*values: int) -> tuple[Floats, Labels]:
    return np.array(values, np.float32)[:, None] % 10, np.array(values, np.int64) // 10


def drive(scenario: Callable[[Batcher, FakeGenerator], Awaitable[None]], **limits: Any) -> None:
    async def run() -> None:
        generator = FakeGenerator()
        batcher = Batcher(generator, **{"batch_size": 4, "capacity": 100, "max_seconds": 60.0, **limits})
        async with asyncio.timeout(20):
            await scenario(batcher, generator)
            generator.blocked = False
            await batcher.close()
        assert batcher.waiting == 0

    asyncio.run(run())


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.001)


def test_waiting_requests_share_a_batch_and_get_their_own_images() -> None:
    async def scenario(batcher: Batcher, generator: FakeGenerator) -> None:
        generator.blocked = True
        requests = [[11], [21, 22], [31], [41, 42, 43, 44, 45, 46], [51]]
        waiting = [asyncio.create_task(batcher.images(*rows(*values))) for values in requests]
        await until(lambda: batcher.waiting == 11)
        generator.blocked = False
        for values, images in zip(requests, await asyncio.gather(*waiting), strict=True):
            assert images[:, 0, 0].tolist() == values
        assert max(generator.batches) == 4, "as many as fit, and no more"
        assert len(generator.batches) <= 4
        assert sum(generator.batches) == 11

    drive(scenario)


def test_a_long_request_lets_short_ones_pass() -> None:
    async def scenario(batcher: Batcher, generator: FakeGenerator) -> None:
        generator.blocked = True
        long = asyncio.create_task(batcher.images(*rows(*[11] * 40)))
        await until(lambda: batcher.waiting == 40)
        short = asyncio.create_task(batcher.images(*rows(21)))
        await until(lambda: batcher.waiting == 41)
        generator.blocked = False
        assert (await short)[0, 0, 0] == 21
        assert not long.done()
        assert len(await long) == 40

    drive(scenario)


def test_too_much_is_refused_with_a_time_to_try_again() -> None:
    async def scenario(batcher: Batcher, generator: FakeGenerator) -> None:
        generator.blocked = True
        first = asyncio.create_task(batcher.images(*rows(*[11] * 10)))
        await until(lambda: batcher.waiting == 10)
        with pytest.raises(BusyError, match="10 images are waiting already; try again later") as refused:
            await batcher.images(*rows(21))
        assert refused.value.seconds >= 1
        generator.blocked = False
        await first
        assert len(await batcher.images(*rows(21))) == 1, "there is room again"

    drive(scenario, capacity=10)


def test_a_request_that_would_take_too_long_is_refused_at_once() -> None:
    async def scenario(batcher: Batcher, generator: FakeGenerator) -> None:
        batcher.images_per_second = 2.0
        with pytest.raises(BusyError, match=r"about 10 seconds, and 5 is the most; ask for less at once"):
            await batcher.images(*rows(*[11] * 20))

    drive(scenario, max_seconds=5.0)


def test_cancelled_work_ends() -> None:
    async def scenario(batcher: Batcher, generator: FakeGenerator) -> None:
        rounds = [0]

        def endless(check_wanted: Callable[[], None]) -> None:
            while True:
                rounds[0] += 1
                check_wanted()
                time.sleep(0.001)

        working = asyncio.create_task(batcher.run(endless))
        await until(lambda: rounds[0] > 3)
        working.cancel()
        assert (await batcher.images(*rows(11)))[0, 0, 0] == 11

    drive(scenario)


def test_an_error_reaches_its_callers_alone() -> None:
    async def scenario(batcher: Batcher, generator: FakeGenerator) -> None:
        with pytest.raises(ValueError, match="no such label"):
            await batcher.images(*rows(990))
        with pytest.raises(ZeroDivisionError):
            await batcher.run(lambda _: 1 // 0)
        assert await batcher.run(lambda _: "done") == "done"
        assert (await batcher.images(*rows(11)))[0, 0, 0] == 11

    drive(scenario)
