"""The loops on which a whole relay has to work, and the folder in which it lives."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

Run = Callable[[Coroutine[Any, Any, None]], None]

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
DEADLINE = 50.0  # seconds for one test


def runner(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
    deadline: float = DEADLINE,
    *,
    debug: bool = True,
) -> Run:
    """Return what runs a test on one kind of loop; an error that nobody handled fails it."""
    faults: list[str] = []

    async def watched(body: Coroutine[Any, Any, None]) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: faults.append(repr(context)))
        async with asyncio.timeout(deadline):
            await body

    def run(body: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(debug=debug, loop_factory=loop_factory) as loop:
            loop.run(watched(body))
        assert faults == []

    return run


@pytest.fixture(params=LOOPS)
def run_on_each(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine on asyncio's loop, then on uvloop's."""
    return runner(LOOPS[request.param])


@pytest.fixture
def run() -> Run:
    """Run a coroutine on the loop that the relay itself prefers."""
    return runner(uvloop.new_event_loop)


@pytest.fixture
def run_for_long() -> Run:
    """Run a coroutine that has thousands of things to do, each of which debug mode would note."""
    return runner(uvloop.new_event_loop, deadline=100.0, debug=False)


@pytest.fixture(params=["quic", "h2"])
def transport(request: pytest.FixtureRequest) -> str:
    """Name each transport that carries clients."""
    word: str = request.param
    return word
