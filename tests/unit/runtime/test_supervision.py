"""Crowds and races of tasks."""

import asyncio
import logging

import pytest

from tunnel.errors import ConnectionLost, RemoteProtocolError
from tunnel.runtime.supervision import Crowd, first_of


async def forever() -> None:
    await asyncio.Event().wait()


async def fail(error: Exception) -> None:
    raise error


async def return_at_once() -> None:
    pass


def test_one_that_fails_ends_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    async def finish() -> None:
        await asyncio.sleep(0)
        done.append("finished")

    async def scene() -> None:
        async with Crowd("visitor") as crowd:
            crowd.start(fail(ZeroDivisionError()))
            crowd.start(finish())

    asyncio.run(scene())
    assert done == ["finished"]
    assert "task failed" in caplog.text


def test_a_fault_of_the_network_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with Crowd("visitor") as crowd:
            crowd.start(fail(ConnectionLost()))

    with caplog.at_level(logging.INFO):
        asyncio.run(scene())
    assert not caplog.records


def test_what_leaves_the_block_is_passed_on_bare_and_ends_all() -> None:
    async def scene() -> None:
        async with Crowd("visitor") as crowd:
            crowd.start(forever())
            raise RemoteProtocolError("bare")

    with pytest.raises(RemoteProtocolError, match="bare"):
        asyncio.run(scene())


def test_one_cancelled_before_its_first_step_leaves_nothing_behind() -> None:
    async def scene() -> int:
        async with Crowd("visitor") as crowd:
            crowd.start(forever())
            crowd.cancel()
        return len(crowd)

    assert asyncio.run(scene()) == 0


def test_a_crowd_says_when_it_is_empty() -> None:
    async def scene() -> None:
        async with Crowd("visitor") as crowd:
            await crowd.emptied()
            crowd.start(return_at_once())
            await crowd.emptied()

    asyncio.run(asyncio.wait_for(scene(), 5))  # noqa: TID251 - the outermost bound of a test


class Guest:
    """Somebody in a crowd who needs no task, and leaves a moment after being cut."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        crowd.enter(self)

    def cut(self) -> None:
        asyncio.get_running_loop().call_soon(self._crowd.leave, self)


def test_who_needs_no_task_is_waited_for_and_cut_with_the_others() -> None:
    async def scene() -> list[int]:
        sizes = []
        async with Crowd("visitor") as crowd:
            first, _ = Guest(crowd), Guest(crowd)
            crowd.start(forever())
            sizes.append(len(crowd))
            crowd.leave(first)
            crowd.leave(first)
            sizes.append(len(crowd))
            crowd.cancel()
        return [*sizes, len(crowd)]

    assert asyncio.run(asyncio.wait_for(scene(), 5)) == [3, 2, 0]  # noqa: TID251 - as above


def test_a_race_ends_with_the_first_that_returns() -> None:
    asyncio.run(first_of(forever, return_at_once, forever))


def test_a_race_raises_what_the_first_one_raised_bare() -> None:
    with pytest.raises(ConnectionLost):
        asyncio.run(first_of(forever, lambda: fail(ConnectionLost())))


def test_a_race_that_is_cancelled_cancels_its_runners() -> None:
    async def scene() -> None:
        async with asyncio.timeout(0):
            await first_of(forever, forever)

    with pytest.raises(TimeoutError):
        asyncio.run(scene())


def test_a_deadline_after_a_race_is_a_deadline() -> None:
    """Python 3.11.2 counts the group's own cancellation for one from outside."""

    async def scene() -> None:
        await first_of(forever, return_at_once)
        async with asyncio.timeout(0):
            await forever()

    with pytest.raises(TimeoutError):
        asyncio.run(scene())
