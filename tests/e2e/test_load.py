"""A thousand visitors at once through one client, and what they leave behind."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise, product
from statistics import median

import pytest

from tests.e2e.swarm import Reception, Visitor, Way, all_of, echoing, part_from, way_to
from tests.e2e.targets import pattern
from tests.e2e.world import TRANSPORTS, Client, Process, Relay, World
from tests.variants import ASKED
from tunnel.protocol.direct import SPARES_LIMIT
from tunnel.runtime.loop import run

VISITORS = 1000  # as many as a session has streams
BULK_BYTES = 64 << 10
REFUSAL_TIMEOUT = 5.0 + 1.5  # [timeouts] open_stream, and what a busy machine adds
AT_ONCE = 100  # of those who only come and go
GROWTH_MAX_BYTES = 12 << 20
LEAK_MIN_BYTES = 512 << 10  # half a KiB for each visitor of a round
LATEST = 4  # rounds that are looked at: what one of them takes is luck
ROUNDS_MAX = 10
LEAVE_TIMEOUT = 20.0  # seconds; on a busy machine the last visitors take a while
LOOPS_OWN = 1  # uvloop opens /dev/null with the first connection that it closes

pytestmark = [
    pytest.mark.timeout(120),  # ten seconds on an idle machine with two cores
    pytest.mark.alone,  # memory is measured, and half of the work is the test's own
]

ONE_WAY = ("quic", "passthrough")
OTHER_WAYS = [
    pytest.param(transport, certificate, marks=pytest.mark.slow)
    for transport, certificate in product(TRANSPORTS, ("passthrough", "self-signed"))
    if (transport, certificate) != ONE_WAY
]
each_way = pytest.mark.parametrize(("transport", "certificate"), [ONE_WAY, *OTHER_WAYS])


@dataclass(frozen=True)
class Scene:
    """A relay and a client of it, and the way that visitors take to an echoing service."""

    relay: Relay
    client: Client
    way: Way

    @property
    def processes(self) -> tuple[Process, Process]:
        """Both processes under test."""
        return self.relay.process, self.client.process


@asynccontextmanager
async def scene_of(world: World, transport: str, certificate: str) -> AsyncIterator[Scene]:
    """Start everything, over the given transport; HTTP/2 has its pool of 4 by default."""
    async with echoing() as target:
        relay = world.relay(extra=f"[limits]\nvisitors_per_address = {2 * VISITORS}")
        client = world.client(
            relay,
            target=target,
            options=f'transport = "{transport}"',
            endpoint=f'certificate = "{certificate}"',
        )
        is_passed_through = certificate == "passthrough"
        yield Scene(relay, client, way_to(relay, client, is_passed_through=is_passed_through))


async def exchange_patterns(visitors: list[Visitor]) -> None:
    """Send a pattern of its own through each visitor, all at once, and compare the echoes."""

    async def exchange(number: int, visitor: Visitor) -> None:
        sent = pattern(BULK_BYTES, number)
        assert await visitor.exchange(sent) == sent

    async with asyncio.TaskGroup() as group:
        for number, visitor in enumerate(visitors):
            group.create_task(exchange(number, visitor))


async def knocks(way: Way, count: int, within: float) -> list[Reception]:
    """Return how visitors were received who all came at once."""
    async with asyncio.timeout(within), asyncio.TaskGroup() as group:
        coming = [group.create_task(way.knock()) for _ in range(count)]
    return [each.result() for each in coming]


@pytest.mark.slow
@each_way
def test_a_thousand_visitors_are_served_at_once_and_no_more(
    world: World, transport: str, certificate: str
) -> None:
    async def body() -> None:
        async with scene_of(world, transport, certificate) as scene:
            visitors = await all_of(scene.way, VISITORS)
            received = await knocks(scene.way, 5, REFUSAL_TIMEOUT)
            assert received == [Reception.ALERTED] * 5
            async with asyncio.TaskGroup() as group:
                group.create_task(exchange_patterns(visitors))
                late = group.create_task(knocks(scene.way, 5, 60))
            assert late.result() == [Reception.ALERTED] * 5
            assert all(process.popen.poll() is None for process in scene.processes)
            await part_from(visitors)

    run(body())


@pytest.mark.parametrize(
    ("transport", "certificate"),
    [("quic", "passthrough"), pytest.param("h2", "self-signed", marks=pytest.mark.slow)],
)
def test_who_waits_for_a_place_gets_the_one_that_is_freed(
    world: World, transport: str, certificate: str
) -> None:
    async def body() -> None:
        async with scene_of(world, transport, certificate) as scene:
            visitors = await all_of(scene.way, VISITORS)
            async with asyncio.TaskGroup() as group:
                coming = group.create_task(knocks(scene.way, 10, REFUSAL_TIMEOUT))
                await asyncio.sleep(1)
                await part_from(visitors[:10])
            assert coming.result() == [Reception.SERVED] * 10
            await part_from(visitors[10:])

    run(body())


@each_way
def test_visitors_leave_neither_descriptors_nor_memory_behind(
    world: World, transport: str, certificate: str
) -> None:
    async def body() -> None:
        async with scene_of(world, transport, certificate) as scene:
            spares = SPARES_LIMIT if ASKED.direct else 0  # that may wait by then
            own = LOOPS_OWN + spares
            descriptors = [process.descriptors() + own for process in scene.processes]
            resting: list[tuple[int, ...]] = []
            while not is_settled(resting) and len(resting) < ROUNDS_MAX:
                resting.append(await size_at_rest(scene, descriptors))
            assert is_settled(resting), resting
            growth = [after - before for before, after in zip(resting[0], resting[-1], strict=True)]
            assert max(growth) <= GROWTH_MAX_BYTES, resting

    run(body())


async def size_at_rest(scene: Scene, descriptors: Sequence[int]) -> tuple[int, ...]:
    """Return the memory of both processes after a round of visitors, in bytes."""
    await come_and_go(scene.way)
    await until_left(scene, descriptors)
    return tuple(process.rss_bytes() for process in scene.processes)


def is_settled(resting: Sequence[Sequence[int]]) -> bool:
    """Say whether most of the latest rounds have left next to nothing behind in either process.

    The allocator takes memory in steps, smaller and smaller ones; what leaks is in most rounds.
    """
    return len(resting) > LATEST and all(
        median(after - before for before, after in pairwise(sizes)) <= LEAK_MIN_BYTES
        for sizes in zip(*resting[-LATEST - 1 :], strict=True)
    )


async def come_and_go(way: Way) -> None:
    """Let a thousand visitors come, say a word and leave, a hundred at a time."""
    places = asyncio.Semaphore(AT_ONCE)

    async def visit() -> None:
        async with places:
            await (await way.visit()).leave()

    async with asyncio.TaskGroup() as group:
        for _ in range(VISITORS):
            group.create_task(visit())


async def until_left(scene: Scene, descriptors: Sequence[int]) -> None:
    """Wait until the processes have no more descriptors than these; fails if they keep them."""
    deadline = time.monotonic() + LEAVE_TIMEOUT
    while True:
        counts = [process.descriptors() for process in scene.processes]
        if all(count <= most for count, most in zip(counts, descriptors, strict=True)):
            return
        assert time.monotonic() < deadline, f"{counts} descriptors are open, not {descriptors}"
        await asyncio.sleep(0.05)
