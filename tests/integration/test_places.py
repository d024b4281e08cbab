"""Visitors that wait for a place, and places that come free."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from tests.integration.conftest import Run
from tests.integration.hellos import hello
from tests.integration.stage import LISTED, granted, on_stage, relay_settings
from tests.integration.visitors import visiting
from tunnel.settings.values import GrantLimits, RelaySettings, RelayTimeouts
from tunnel.tls.identity import Identity, generate


def for_one(folder: Path, identity: Identity, streams: int) -> RelaySettings:
    """Return settings that list one client with so many places."""
    clients = granted(identity, limits=GrantLimits(streams=streams))
    return relay_settings(folder, suffixes=LISTED, clients=clients)


def test_a_visitor_waits_until_another_leaves(transport: str, run: Run, tmp_path: Path) -> None:
    identity = generate()

    async def body() -> None:
        async with on_stage(for_one(tmp_path, identity, 1)) as stage:
            client = await stage.serve(transport, identity)
            first = hello(client.name)
            async with visiting(stage.public, first) as early:
                call = await client.take()
                async with visiting(stage.public, first) as late, asyncio.TaskGroup() as group:
                    second = group.create_task(client.take())
                    await call.stream.send(b"early")
                    assert await early.hear(5) == b"early"
                    assert not second.done()
                    early.finish()
                    await call.hear_all()
                    await call.stream.finish()
                    assert await early.hear_all() == b""
                    await (await second).stream.send(b"late")
                    assert await late.hear(4) == b"late"

    run(body())


def test_no_place_is_lost_however_visits_end(transport: str, run: Run, tmp_path: Path) -> None:
    identity, places = generate(), 3

    async def body() -> None:
        async with on_stage(for_one(tmp_path, identity, places)) as stage:
            client = await stage.serve(transport, identity)
            first = hello(client.name)
            for number in range(4 * places):
                async with visiting(stage.public, first) as visitor:
                    call = await client.take()
                    if number % 3 == 0:
                        visitor.reset()
                    elif number % 3 == 1:
                        call.stream.abort()
                    else:
                        await call.stream.send(b"a")
                        call.stream.abort()
            async with AsyncExitStack() as guests:
                for _ in range(places):
                    guest = await guests.enter_async_context(visiting(stage.public, first))
                    call = await client.take()
                    await call.stream.send(b"served")
                    assert await guest.hear(6) == b"served"

    run(body())


def test_a_link_whose_client_died_while_a_visitor_waited_is_not_used(
    run: Run, tmp_path: Path
) -> None:
    identity = generate()

    async def body() -> None:
        async with on_stage(for_one(tmp_path, identity, 1)) as stage:
            old = await stage.serve("h2", identity)
            first = hello(old.name)
            async with visiting(stage.public, first) as early:
                call = await old.take()
                await call.stream.send(b"early")
                assert await early.hear(5) == b"early"
                async with visiting(stage.public, first) as late:
                    new = await stage.serve("quic", identity)
                    call.stream.abort()
                    await early.ended()
                    other = await new.take()
                    assert await other.hear(len(first)) == first
                    await other.stream.send(b"late")
                    assert await late.hear(4) == b"late"

    run(body())


def test_bytes_either_way_keep_an_idle_visitor(run: Run, tmp_path: Path) -> None:
    patience = 0.4

    async def body() -> None:
        timeouts = RelayTimeouts(idle_visitor=patience)
        async with on_stage(relay_settings(tmp_path, timeouts=timeouts)) as stage:
            client = await stage.serve()
            now = asyncio.get_running_loop().time
            first = hello(client.name)
            async with visiting(stage.public, first) as visitor:
                call = await client.take()
                assert await call.hear(len(first)) == first
                begun = now()
                while now() < begun + 3 * patience:
                    await call.stream.send(b"down")
                    assert await visitor.hear(4) == b"down"
                    await asyncio.sleep(patience / 4)
                    await visitor.say(b"up")
                    assert await call.hear(2) == b"up"
                    await asyncio.sleep(patience / 4)
                await visitor.ended()

    run(body())
