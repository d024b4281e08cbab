"""Blocking work beside the loop."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from tunnel.acme.worker import Worker
from tunnel.errors import IssueFailed


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What holds blocking work up until it is set, at the latest at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def test_what_the_work_returns_comes_back() -> None:
    async def body() -> None:
        assert await Worker("test").run(lambda: 6 * 7) == 42

    asyncio.run(body())


def test_what_the_work_raises_is_raised_where_it_was_awaited() -> None:
    def work() -> None:
        raise IssueFailed("no")

    async def body() -> None:
        with pytest.raises(IssueFailed, match="no"):
            await Worker("test").run(work)

    asyncio.run(body())


def test_the_loop_goes_on_while_work_blocks(gate: threading.Event) -> None:
    async def body() -> None:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(Worker("test").run(gate.wait))
            group.create_task(_set_soon(gate))
        assert waiting.result()

    asyncio.run(body())


def test_two_pieces_of_work_never_run_at_once() -> None:
    running: list[int] = []
    seen: list[int] = []

    def work() -> None:
        running.append(1)
        seen.append(len(running))
        running.pop()

    async def body() -> None:
        worker = Worker("test")
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(worker.run(work))

    asyncio.run(body())
    assert seen == [1] * 20


def test_work_that_nobody_waits_for_any_more_still_ends_before_the_next_begins(
    gate: threading.Event,
) -> None:
    order: list[str] = []

    async def body() -> None:
        worker, began = Worker("test"), asyncio.Event()
        loop = asyncio.get_running_loop()

        def first() -> None:
            loop.call_soon_threadsafe(began.set)
            gate.wait()
            order.append("first")

        async with asyncio.TaskGroup() as group:
            abandoned = group.create_task(worker.run(first))
            await began.wait()
            abandoned.cancel()
            group.create_task(_set_soon(gate))
            await worker.run(lambda: order.append("second"))

    asyncio.run(body())
    assert order == ["first", "second"]


def test_blocked_work_does_not_hold_up_the_end_of_the_loop(gate: threading.Event) -> None:
    async def body() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await Worker("test").run(gate.wait)

    asyncio.run(body())
    assert not gate.is_set()


async def _set_soon(gate: threading.Event) -> None:
    await asyncio.sleep(0)
    gate.set()
