"""Limits and deadlines of relay.toml: two values of each make two relays behave differently."""

import asyncio
import secrets
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.choices import (
    LONGER,
    SHORTER,
    answered,
    are_kept,
    on_each,
    seconds,
)
from tests.integration.clients import ScriptedClient
from tests.integration.conftest import Run
from tests.integration.hellos import hello
from tests.integration.stage import LISTED, Stage, granted, on_stage, relay_settings
from tests.integration.visitors import (
    INTERNAL_ERROR,
    UNRECOGNIZED_NAME,
    answer_to,
    visiting,
)
from tests.unit.transport.quic.test_doorkeeper import caller, first_datagram
from tunnel.errors import Code, ConnectionLost, DialFailed
from tunnel.protocol.messages import Ping, Reject
from tunnel.settings.values import (
    GrantLimits,
    RelayLimits,
    RelaySettings,
    RelayTimeouts,
)
from tunnel.tls.identity import Identity, generate

CALM = RelayTimeouts(open_stream=LONGER, visitor_hold=LONGER)


def limited(folder: Path, identity: Identity, **limits: Any) -> RelaySettings:
    """Return settings that list one client with limits of its own."""
    clients = granted(identity, limits=GrantLimits(**limits))
    return relay_settings(folder, suffixes=LISTED, clients=clients, timeouts=CALM)


def capped(folder: Path, **limits: Any) -> RelaySettings:
    """Return settings with caps on the relay as a whole."""
    return relay_settings(folder, limits=RelayLimits(**limits), timeouts=CALM)


def timed(folder: Path, key: str, **changes: Any) -> dict[float, RelaySettings]:
    """Return settings with the shorter and with the longer value of one deadline."""
    return {
        value: relay_settings(folder, timeouts=replace(CALM, **{key: value}), **changes)
        for value in (SHORTER, LONGER)
    }


# [clients.*.limits]


def test_streams_are_counted_over_all_connections_of_a_client(tmp_path: Path, run: Run) -> None:
    identity, instance = generate(), secrets.token_bytes(16)

    async def look(stage: Stage) -> bytes:
        """Return the first thing that the second of two visitors hears."""
        one, two = [await stage.serve("h2", identity, instance=instance) for _ in range(2)]
        async with (
            visiting(stage.public, hello(one.name)) as first,
            asyncio.TaskGroup() as group,
        ):
            answering = [group.create_task(_answer(each)) for each in (one, two)]
            await first.hear(1)
            async with visiting(stage.public, hello(one.name)) as second:
                heard = await second.hear(1)
            for each in answering:
                each.cancel()
        return heard

    async def body() -> None:
        settings = {each: limited(tmp_path, identity, streams=each) for each in (1, 2)}
        assert await on_each(settings, look) == {1: INTERNAL_ERROR[:1], 2: b"a"}

    run(body())


async def _answer(client: ScriptedClient) -> None:
    while True:
        await (await client.take()).stream.send(b"a")


def test_connections_of_one_client(tmp_path: Path, run: Run) -> None:
    identity = generate()

    async def look(stage: Stage) -> Code | None:
        await stage.register("h2", identity)
        answer = await (await stage.dial("h2", identity)).register()
        return answer.reason.code if isinstance(answer, Reject) else None

    async def body() -> None:
        settings = {each: limited(tmp_path, identity, connections=each) for each in (1, 2)}
        assert await on_each(settings, look) == {1: Code.BUSY, 2: None}

    run(body())


def test_rate_slows_both_directions_together(tmp_path: Path, run: Run) -> None:
    identity = generate()

    async def look(stage: Stage) -> float:
        client = await stage.serve("h2", identity)
        first = hello(client.name)
        async with visiting(stage.public, first) as visitor:
            call = await client.take()
            assert await call.hear(len(first)) == first
            await visitor.say(bytes(20_000))
            assert await call.hear(20_000) == bytes(20_000)
            await call.stream.send(bytes(20_000))
            return await seconds(visitor.hear(20_000))

    async def body() -> None:
        settings = {each: limited(tmp_path, identity, rate=each) for each in (40_000, None)}
        took = await on_each(settings, look)
        assert took[40_000] > 0.3 > took[None]

    run(body())


# [limits]


def test_connections_of_all_clients(tmp_path: Path, run: Run) -> None:
    async def look(stage: Stage) -> Code | None:
        await stage.register()
        answer = await (await stage.dial()).register()
        return answer.reason.code if isinstance(answer, Reject) else None

    async def body() -> None:
        settings = {each: capped(tmp_path, connections=each) for each in (1, 2)}
        assert await on_each(settings, look) == {1: Code.BUSY, 2: None}

    run(body())


def test_half_open_bounds_who_has_not_registered(transport: str, run: Run, tmp_path: Path) -> None:
    async def look(stage: Stage) -> bool:
        """Say whether the fifth client that has not registered is greeted."""
        try:
            for _ in range(5):
                await (await stage.dial(transport)).greet()
        except (DialFailed, ConnectionLost):
            return False
        return True

    async def body() -> None:
        settings = {each: capped(tmp_path, half_open=each) for each in (1, 2)}
        assert await on_each(settings, look) == {1: False, 2: True}

    run(body())


def test_above_half_open_a_client_has_to_prove_its_address(tmp_path: Path, run: Run) -> None:
    async def retries(stage: Stage) -> int:
        """Return how often a client is sent away to come again while one handshake is open."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(first_datagram(caller()), stage.agents)
        connection: Any = (await stage.dial("quic")).connection
        return int(connection.engine._retry_count)

    async def body() -> None:
        settings = {each: capped(tmp_path, half_open=each) for each in (1, 2)}
        assert await on_each(settings, retries) == {1: 1, 2: 0}

    run(body())


def test_visitors_per_address(tmp_path: Path, run: Run) -> None:
    async def look(stage: Stage) -> bytes:
        async with visiting(stage.public, hello("nobody.example")[:9]):
            return await answer_to(stage.public, hello("nobody.example"))

    async def body() -> None:
        settings = {each: capped(tmp_path, visitors_per_address=each) for each in (1, 2)}
        assert await on_each(settings, look) == {1: b"", 2: UNRECOGNIZED_NAME}

    run(body())


# [timeouts]


def test_client_hello_has_to_be_whole_in_time(tmp_path: Path, run: Run) -> None:
    async def look(stage: Stage) -> float:
        async with visiting(stage.public, hello("nobody.example")[:9]) as visitor:
            return await seconds(visitor.ended())

    async def body() -> None:
        assert are_kept(await on_each(timed(tmp_path, "client_hello"), look))

    run(body())


def test_register_has_to_be_done_in_time(transport: str, run: Run, tmp_path: Path) -> None:
    async def look(stage: Stage) -> float:
        client = await stage.dial(transport)
        await client.greet()
        return await seconds(client.answer())

    async def body() -> None:
        assert are_kept(await on_each(timed(tmp_path, "register"), look))

    run(body())


def test_open_stream_is_how_long_a_visitor_waits_for_a_place(tmp_path: Path, run: Run) -> None:
    identity = generate()
    clients = granted(identity, limits=GrantLimits(streams=1))

    async def look(stage: Stage) -> float:
        client = await stage.serve("h2", identity)
        async with visiting(stage.public, hello(client.name)) as visitor:
            await answered(visitor, client)
            return await seconds(answer_to(stage.public, hello(client.name), LONGER + 2))

    async def body() -> None:
        assert are_kept(await on_each(timed(tmp_path, "open_stream", clients=clients), look))

    run(body())


def test_visitor_hold_is_how_long_one_waits_for_a_client(tmp_path: Path, run: Run) -> None:
    async def look(stage: Stage) -> float:
        client = await stage.serve()
        await client.serve(visitors=False)
        return await seconds(answer_to(stage.public, hello(client.name), LONGER + 2))

    async def body() -> None:
        assert are_kept(await on_each(timed(tmp_path, "visitor_hold"), look))

    run(body())


def test_linger_is_how_long_the_other_half_may_be_silent(tmp_path: Path, run: Run) -> None:
    async def look(stage: Stage) -> float:
        client = await stage.serve()
        async with visiting(stage.public, hello(client.name)) as visitor:
            await answered(visitor, client)
            visitor.finish()
            return await seconds(visitor.ended())

    async def body() -> None:
        assert are_kept(await on_each(timed(tmp_path, "linger"), look))

    run(body())


def test_idle_visitor_is_how_long_both_may_be_silent(tmp_path: Path, run: Run) -> None:
    async def look(stage: Stage) -> float:
        client = await stage.serve()
        async with visiting(stage.public, hello(client.name)) as visitor:
            await answered(visitor, client)
            return await seconds(visitor.ended())

    async def body() -> None:
        assert are_kept(await on_each(timed(tmp_path, "idle_visitor"), look))

    run(body())


def test_idle_visitor_may_be_off(tmp_path: Path, run: Run) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path, timeouts=CALM)) as stage:
            client = await stage.serve()
            async with visiting(stage.public, hello(client.name)) as visitor:
                await answered(visitor, client)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(2 * SHORTER):
                        await visitor.ended()

    run(body())


def test_heartbeat_is_announced_and_kept(tmp_path: Path, run: Run) -> None:
    async def look(stage: Stage) -> tuple[float, float]:
        client = await stage.dial()
        welcome = await client.register()
        assert not isinstance(welcome, Reject)
        return welcome.heartbeat, await seconds(client.hear(Ping))

    async def body() -> None:
        settings = {
            value: relay_settings(tmp_path, timeouts=replace(CALM, heartbeat=value))
            for value in (1.0, 3.0)
        }
        seen = await on_each(settings, look)
        assert [announced for announced, _ in seen.values()] == [1.0, 3.0]
        assert seen[1.0][1] < 2.0 < seen[3.0][1]  # each is varied by a fifth

    run(body())
