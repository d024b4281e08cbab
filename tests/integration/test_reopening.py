"""A visitor whom one connection fails goes on over another, as long as nothing came back."""

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.integration.clients import ScriptedClient
from tests.integration.conftest import Run
from tests.integration.hellos import hello
from tests.integration.stage import LISTED, Stage, granted, on_stage, relay_settings
from tests.integration.visitors import (
    INTERNAL_ERROR,
    UNRECOGNIZED_NAME,
    Cut,
    Visitor,
    answer_to,
    visiting,
)
from tunnel.errors import Code, StreamReset
from tunnel.settings.values import RelayTimeouts
from tunnel.tls.identity import generate


async def pool(stage: Stage, transport: str, size: int) -> list[ScriptedClient]:
    """Return the connections of one client, all serving."""
    identity, instance = generate(), secrets.token_bytes(16)
    return [await stage.serve(transport, identity, instance=instance) for _ in range(size)]


async def answered_by(visitor: Visitor, client: ScriptedClient, said: bytes) -> None:
    """Assert that the visitor's stream comes to this client, with all that was said so far."""
    call = await client.take()
    assert await call.hear(len(said)) == said
    await call.stream.send(b"answer")
    assert await visitor.hear(6) == b"answer"


async def refusing(clients: list[ScriptedClient], code: Code) -> list[ScriptedClient]:
    """Let whichever client is called first refuse; return the others."""
    async with asyncio.TaskGroup() as group:
        takes = {group.create_task(each.take()): each for each in clients}
        done, pending = await asyncio.wait(takes, return_when=asyncio.FIRST_COMPLETED)
        for take in pending:
            take.cancel()
    [first] = done
    first.result().stream.abort(code)
    return [each for each in clients if each is not takes[first]]


@pytest.mark.parametrize("code", [Code.NOT_SERVING, Code.DRAINING, Code.BUSY])
def test_a_refused_stream_is_opened_elsewhere(
    code: Code, transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            clients = await pool(stage, transport, 2)
            first = hello(clients[0].name)
            async with visiting(stage.public, first) as visitor:
                [other] = await refusing(clients, code)
                await answered_by(visitor, other, first)

    run(body())


def test_what_was_said_meanwhile_is_said_again(transport: str, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            one = await stage.serve(transport)
            first = hello(one.name)
            async with visiting(stage.public, first) as visitor:
                call = await one.take()
                await visitor.say(b" and more")
                assert await call.hear(len(first) + 9) == first + b" and more"
                other = await stage.serve(transport, one.identity, instance=one.instance)
                call.stream.abort(Code.DRAINING)
                await answered_by(visitor, other, first + b" and more")

    run(body())


def test_a_dead_connection_is_replaced_by_another(transport: str, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            one = await stage.serve(transport)
            first = hello(one.name)
            async with visiting(stage.public, first) as visitor:
                call = await one.take()
                assert await call.hear(len(first)) == first
                other = await stage.serve(transport, one.identity, instance=one.instance)
                one.connection.close(Code.INTERNAL)
                await answered_by(visitor, other, first)

    run(body())


def test_it_is_reopened_three_times_and_no_more(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            everyone = clients = await pool(stage, "h2", 5)
            async with visiting(stage.public, hello(clients[0].name)) as visitor:
                for _ in range(4):
                    clients = await refusing(clients, Code.BUSY)
                assert await visitor.hear_all() == INTERNAL_ERROR
            [untouched] = clients
            await only(untouched, of=everyone)
            await never_called(stage, untouched)

    run(body())


async def only(client: ScriptedClient, of: Sequence[ScriptedClient]) -> None:
    """Let all others stop serving."""
    for each in of:
        if each is not client:
            await each.serve(visitors=False)


async def never_called(stage: Stage, client: ScriptedClient) -> None:
    """Assert that no stream has come to the client but that of the visitor who comes now."""
    newcomer = hello(client.name)
    async with visiting(stage.public, newcomer) as visitor:
        await answered_by(visitor, client, newcomer)


def test_with_nobody_else_serving_the_refusal_is_final_at_once(
    transport: str, run: Run, tmp_path: Path
) -> None:
    answers = {Code.NOT_SERVING: UNRECOGNIZED_NAME, Code.BUSY: INTERNAL_ERROR}

    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            client = await stage.serve(transport)
            for code, answer in answers.items():
                async with visiting(stage.public, hello(client.name)) as visitor:
                    (await client.take()).stream.abort(code)
                    async with asyncio.timeout(stage.settings.timeouts.visitor_hold / 2):
                        assert await visitor.hear_all() == answer

    run(body())


@pytest.mark.parametrize("code", [Code.TARGET_DOWN, Code.ABORTED, Code.INTERNAL, Code.TIMEOUT])
def test_other_codes_cut_the_visitor(code: Code, transport: str, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            clients = await pool(stage, transport, 2)
            async with visiting(stage.public, hello(clients[0].name)) as visitor:
                [other] = await refusing(clients, code)
                await visitor.ended()
            await only(other, of=clients)
            await never_called(stage, other)

    run(body())


def test_after_the_first_byte_back_a_cut_is_a_cut(transport: str, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            one = await stage.serve(transport)
            first = hello(one.name)
            async with visiting(stage.public, first) as visitor:
                call = await one.take()
                await call.stream.send(b"a")
                assert await visitor.hear(1) == b"a"
                other = await stage.serve(transport, one.identity, instance=one.instance)
                call.stream.abort(Code.BUSY)
                with pytest.raises(Cut):
                    await visitor.hear(1)
            await only(other, of=(one, other))
            await never_called(stage, other)

    run(body())


def test_after_more_than_is_kept_a_cut_is_a_cut(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            one = await stage.serve()
            said = hello(one.name) + bytes(17000)
            async with visiting(stage.public, said) as visitor:
                call = await one.take()
                assert await call.hear(len(said)) == said
                call.stream.abort(Code.BUSY)
                with pytest.raises(Cut):
                    await visitor.hear(1)

    run(body())


def test_a_visitor_that_leaves_while_nobody_has_answered_ends_its_stream(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            client = await stage.serve(transport)
            first = hello(client.name)
            async with visiting(stage.public, first) as visitor:
                call = await client.take()
                assert await call.hear(len(first)) == first
                visitor.reset()
                with pytest.raises(StreamReset):
                    await call.stream.receive()

    run(body())


def test_a_visitor_waits_for_a_name_that_was_served_lately(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            gone = await stage.serve(transport)
            await gone.serve(visitors=False)
            first = hello(gone.name)
            async with visiting(stage.public, first) as visitor:
                other = await stage.serve(transport, gone.identity)
                await answered_by(visitor, other, first)

    run(body())


def test_it_waits_no_longer_than_it_should(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        timeouts = RelayTimeouts(visitor_hold=0.5)
        async with on_stage(relay_settings(tmp_path, timeouts=timeouts)) as stage:
            client = await stage.serve()
            await client.serve(visitors=False)
            now = asyncio.get_running_loop().time
            begun = now()
            assert await answer_to(stage.public, hello(client.name)) == UNRECOGNIZED_NAME
            assert now() - begun >= stage.settings.timeouts.visitor_hold

    run(body())


def test_a_visitor_waits_for_a_name_of_the_settings(run: Run, tmp_path: Path) -> None:
    identity = generate()

    async def body() -> None:
        settings = relay_settings(tmp_path, suffixes=LISTED, clients=granted(identity))
        async with on_stage(settings) as stage:
            client = await stage.register("h2", identity)
            first = hello(client.name)
            async with visiting(stage.public, first) as visitor:
                await client.serve()
                await answered_by(visitor, client, first)

    run(body())
