"""Batches: shared by whoever waits, equal to what each would get alone, bounded, and free of those who left."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from lekhani.data.spec import Bytes, Labels
from lekhani.inference.session import Floats
from lekhani.serve.batching import Batcher, BusyError


class Painter:
    """Draws each row as its noise and label say, and remembers the batches; waits while `shut`."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.shut = False

    def __call__(self, noise: Floats, labels: Labels) -> Bytes:
        while self.shut:
            time.sleep(0.001)
        self.batches.append(len(labels))
        if (labels == 99).any():
            raise ValueError("no such label")
        return (10 * labels[:, None, None] + noise[:, :1, None]).astype(np.uint8)


def rows(*values: int) -> tuple[Floats, Labels]:
    return np.array(values, np.float32)[:, None] % 10, np.array(values, np.int64) // 10


def drive(scenario: Callable[[Batcher, Painter], Awaitable[None]], **limits: Any) -> None:
    async def run() -> None:
        painter = Painter()
        batcher = Batcher(painter, **{"size": 4, "most": 100, "patience": 60.0, **limits})
        async with asyncio.timeout(20):
            await scenario(batcher, painter)
            painter.shut = False
            await batcher.close()
        assert batcher.waiting == 0

    asyncio.run(run())


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.001)


def test_who_waits_shares_the_next_batch_and_gets_its_own_rows() -> None:
    async def scenario(batcher: Batcher, painter: Painter) -> None:
        painter.shut = True
        asked = [[11], [21, 22], [31], [41, 42, 43, 44, 45, 46], [51]]
        waiting = [asyncio.create_task(batcher.rows(*rows(*values))) for values in asked]
        await until(lambda: batcher.waiting == 11)
        painter.shut = False
        for values, images in zip(asked, await asyncio.gather(*waiting), strict=True):
            assert images[:, 0, 0].tolist() == values
        assert max(painter.batches) == 4, "as many as fit, and no more"
        assert len(painter.batches) <= 4
        assert sum(painter.batches) == 11

    drive(scenario)


def test_a_long_job_lets_short_ones_pass() -> None:
    async def scenario(batcher: Batcher, painter: Painter) -> None:
        painter.shut = True
        long = asyncio.create_task(batcher.rows(*rows(*[11] * 40)))
        await until(lambda: batcher.waiting == 40)
        short = asyncio.create_task(batcher.rows(*rows(21)))
        await until(lambda: batcher.waiting == 41)
        painter.shut = False
        assert (await short)[0, 0, 0] == 21
        assert not long.done()
        assert len(await long) == 40

    drive(scenario)


def test_too_much_is_refused_with_a_time_to_come_again() -> None:
    async def scenario(batcher: Batcher, painter: Painter) -> None:
        painter.shut = True
        first = asyncio.create_task(batcher.rows(*rows(*[11] * 10)))
        await until(lambda: batcher.waiting == 10)
        with pytest.raises(BusyError, match=r"10 images wait to be drawn already; try again later") as refused:
            await batcher.rows(*rows(21))
        assert refused.value.seconds >= 1
        painter.shut = False
        await first
        assert len(await batcher.rows(*rows(21))) == 1, "there is room again"

    drive(scenario, most=10)


def test_what_could_not_be_done_in_time_is_refused_at_once() -> None:
    async def scenario(batcher: Batcher, painter: Painter) -> None:
        batcher.rows_per_second = 2.0
        with pytest.raises(BusyError, match=r"about 10 seconds, and 5 is the most; ask for less at once"):
            await batcher.rows(*rows(*[11] * 20))

    drive(scenario, patience=5.0)


def test_who_left_costs_nothing() -> None:
    async def scenario(batcher: Batcher, painter: Painter) -> None:
        painter.shut = True
        first = asyncio.create_task(batcher.rows(*rows(11)))
        gone = asyncio.create_task(batcher.rows(*rows(21, 22, 23)))
        stays = asyncio.create_task(batcher.rows(*rows(31)))
        await until(lambda: batcher.waiting == 5)
        await asyncio.sleep(0.05)  # the first batch is at work, and holds all of them or the first alone
        gone.cancel()
        await until(lambda: batcher.waiting == 2)
        late = asyncio.create_task(batcher.rows(*rows(41)))
        await until(lambda: batcher.waiting == 3)
        late.cancel()
        painter.shut = False
        assert ((await first)[0, 0, 0], (await stays)[0, 0, 0]) == (11, 31)
        await until(lambda: batcher.waiting == 0)
        assert sum(painter.batches) <= 5, "the one that left before its turn was never drawn"

    drive(scenario)


def test_work_that_nobody_waits_for_ends() -> None:
    async def scenario(batcher: Batcher, painter: Painter) -> None:
        rounds = [0]

        def endless(still_wanted: Callable[[], None]) -> None:
            while True:
                rounds[0] += 1
                still_wanted()
                time.sleep(0.001)

        working = asyncio.create_task(batcher.alone(endless))
        await until(lambda: rounds[0] > 3)
        working.cancel()
        assert (await batcher.rows(*rows(11)))[0, 0, 0] == 11

    drive(scenario)


def test_an_error_goes_to_those_it_concerns_and_work_goes_on() -> None:
    async def scenario(batcher: Batcher, painter: Painter) -> None:
        with pytest.raises(ValueError, match="no such label"):
            await batcher.rows(*rows(990))
        with pytest.raises(ZeroDivisionError):
            await batcher.alone(lambda _: 1 // 0)
        assert await batcher.alone(lambda _: "done") == "done"
        assert (await batcher.rows(*rows(11)))[0, 0, 0] == 11

    drive(scenario)


def test_closing_finishes_what_waits() -> None:
    async def scenario(batcher: Batcher, painter: Painter) -> None:
        painter.shut = True
        waiting = [asyncio.create_task(batcher.rows(*rows(11, 12, 13))) for _ in range(5)]
        await until(lambda: batcher.waiting == 15)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        painter.shut = False
        await closing
        assert all(len(images) == 3 for images in await asyncio.gather(*waiting))

    drive(scenario)
