"""Running a test's coroutine on either loop, in debug mode."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
on_both_loops = pytest.mark.parametrize("loop", LOOPS)


def run_on(loop: str, body: Coroutine[Any, Any, None]) -> None:
    """Run to the end within 50 s."""

    async def bounded() -> None:
        async with asyncio.timeout(50):
            await body

    with asyncio.Runner(debug=True, loop_factory=LOOPS[loop]) as runner:
        runner.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until the condition holds; raises TimeoutError after 20 s."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is looked at has no event
            await asyncio.sleep(0)
