"""The same relay with one key set to several values, and what is seen of each."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from tests.integration.clients import Call, ScriptedClient
from tests.integration.hellos import hello
from tests.integration.stage import Stage, on_stage
from tests.integration.visitors import Cut, Visitor, visiting
from tunnel.settings.values import RelaySettings
from tunnel.stream import Address

K = TypeVar("K")
T = TypeVar("T")

SHORTER, LONGER = 0.2, 2.0  # seconds: two values of a deadline, far apart


async def on_each(
    settings: Mapping[K, RelaySettings], look: Callable[[Stage], Coroutine[Any, Any, T]]
) -> dict[K, T]:
    """Return what `look` sees on a relay of each of these settings."""
    seen = {}
    for value, each in settings.items():
        async with on_stage(each) as stage:
            seen[value] = await look(stage)
    return seen


async def seconds(work: Awaitable[object]) -> float:
    """Return how long something takes."""
    now = asyncio.get_running_loop().time
    begun = now()
    await work
    return now() - begun


def are_kept(took: Mapping[float, float]) -> bool:
    """Say whether it took about as long as each of the two deadlines says.

    A deadline may have begun a little before the measuring, and machines are slow at times.
    """
    between = (SHORTER + LONGER) / 2
    return SHORTER / 2 < took[SHORTER] < between < took[LONGER] < LONGER + 2


async def answered(visitor: Visitor, client: ScriptedClient) -> Call:
    """Return the client's end of a visit, on which a byte has come back now."""
    call = await client.take()
    await call.stream.send(b"a")
    assert await visitor.hear(1) == b"a"
    return call


async def visit(where: Address, client: ScriptedClient, before: bytes = b"") -> Call | None:
    """Send a visitor of the client's name, and return its call; None if none came of it."""
    calls: list[Call] = []

    async def answer() -> None:
        calls.append(await client.take())
        await calls[0].stream.send(b"a")

    async with asyncio.TaskGroup() as group:
        answering = group.create_task(answer())
        async with visiting(where, before + hello(client.name)) as visitor:
            with suppress(Cut):  # nobody is obliged to explain
                await visitor.hear(1)
        answering.cancel()
    return calls[0] if calls else None
