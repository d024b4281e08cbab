"""Two instances of one key: when the name changes hands, and what becomes of the visitors."""

from pathlib import Path

import pytest

from tests.integration.clients import ScriptedClient
from tests.integration.conftest import Run
from tests.integration.hellos import hello
from tests.integration.stage import Stage, on_stage, relay_settings
from tests.integration.visitors import Visitor, visiting
from tunnel.errors import Code, ConnectionLost
from tunnel.protocol.messages import Drain, Reject, Serving
from tunnel.tls.identity import generate


async def comes_to(client: ScriptedClient, stage: Stage) -> None:
    """Assert that the next visitor comes to this client, and is answered."""
    first = hello(client.name)
    async with visiting(stage.public, first) as visitor:
        call = await client.take()
        assert await call.hear(len(first)) == first
        await call.stream.send(b"served")
        assert await visitor.hear(6) == b"served"


async def superseded(transport: str, stage: Stage) -> tuple[ScriptedClient, ScriptedClient]:
    """Return an instance that lost its name, having been told so, and the one that has it."""
    old = await stage.serve(transport)
    new = await stage.serve(transport, old.identity)
    lost = await old.hear(Serving)
    assert (lost.name, lost.visitors, lost.challenge) == (old.name, False, False)
    assert lost.reason is not None
    assert lost.reason.code is Code.SUPERSEDED
    drain = await old.hear(Drain)
    assert (drain.deadline, drain.retry_after) == (stage.settings.drain_timeout, 60)
    return old, new


def test_the_name_changes_hands_at_the_first_serve_not_before(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            old = await stage.serve(transport)
            new = await stage.register(transport, old.identity)
            await comes_to(old, stage)
            await new.serve()
            await comes_to(new, stage)

    run(body())


def test_a_serve_that_is_not_granted_takes_nothing(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            old = await stage.serve()
            new = await stage.register("h2", old.identity)
            answer = await new.serve("else.example")
            assert answer.reason is not None
            assert answer.reason.code is Code.NAME_REFUSED
            await comes_to(old, stage)

    run(body())


def test_a_validation_takes_no_visitors(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            old = await stage.serve()
            new = await stage.register("h2", old.identity)
            await new.serve(visitors=False, challenge=True)
            await comes_to(old, stage)
            first = hello(new.name, ("acme-tls/1",))
            async with visiting(stage.public, first):
                call = await new.take()
                assert call.header.kind == "challenge"
                assert await call.hear(len(first)) == first

    run(body())


def test_the_superseded_session_is_told_and_serves_no_more(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            old, new = await superseded(transport, stage)
            answer = await old.serve()
            assert answer.reason is not None
            assert answer.reason.code is Code.SUPERSEDED
            await comes_to(new, stage)

    run(body())


def test_a_superseded_session_is_closed_at_the_deadline_of_its_drain(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path, drain_timeout=0.2)) as stage:
            old, _ = await superseded(transport, stage)
            assert await old.lost() is Code.SUPERSEDED

    run(body())


def test_a_superseded_instance_is_answered_name_taken(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            old, _ = await superseded(transport, stage)
            again = await stage.dial(transport, old.identity, instance=old.instance)
            answer = await again.register()
            assert isinstance(answer, Reject)
            assert (answer.reason.code, answer.retry_after) == (Code.NAME_TAKEN, 60)

    run(body())


def test_a_superseded_instance_may_return_after_its_successor(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            old, new = await superseded(transport, stage)
            await say_goodbye(new)
            again = await stage.serve(transport, old.identity, instance=old.instance)
            await comes_to(again, stage)

    run(body())


async def say_goodbye(client: ScriptedClient) -> None:
    """Leave as a client should, and wait until the relay has noticed."""
    await client.channel.leave(Code.OK)
    with pytest.raises(ConnectionLost):
        await client.channel.receive()
    await client.lost()


def test_a_visitor_without_an_answer_goes_over_to_the_new_instance(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            old = await stage.serve(transport)
            first = hello(old.name)
            async with visiting(stage.public, first) as visitor:
                assert await (await old.take()).hear(len(first)) == first
                new = await stage.serve(transport, old.identity)
                call = await new.take()
                assert await call.hear(len(first)) == first
                await call.stream.send(b"new")
                assert await visitor.hear(3) == b"new"

    run(body())


def test_a_visitor_with_an_answer_stays_with_the_old_instance(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            old = await stage.serve(transport)
            async with visiting(stage.public, hello(old.name)) as visitor:
                call = await old.take()
                await call.stream.send(b"begun")
                assert await visitor.hear(5) == b"begun"
                new = await stage.serve(transport, old.identity)
                await old.hear(Serving)
                await call.stream.send(b"ended")
                await call.stream.finish()
                assert await visitor.hear_all() == b"ended"
            await comes_to(new, stage)

    run(body())


def test_replicas_share_the_visitors(transport: str, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            identity = generate()
            one, two = [
                await stage.serve(transport, identity, features=("replica",)) for _ in range(2)
            ]
            first = hello(one.name)
            async with visiting(stage.public, first), visiting(stage.public, first):
                calls = [await one.take(), await two.take()]
            assert {call.header.name for call in calls} == {one.name}

    run(body())


def test_who_is_no_replica_supersedes_replicas(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            replica = await stage.serve("h2", features=("replica",))
            await stage.serve("h2", replica.identity)
            lost = await replica.hear(Serving)
            assert lost.reason is not None
            assert lost.reason.code is Code.SUPERSEDED

    run(body())


def test_connections_of_one_instance_share_the_visitors(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            one = await stage.serve(transport)
            two = await stage.serve(transport, one.identity, instance=one.instance)
            first = hello(one.name)
            async with visiting(stage.public, first), visiting(stage.public, first):
                await one.take()
                await two.take()

    run(body())


def test_a_connection_that_never_serves_gets_no_visitor(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            one = await stage.serve(transport)
            loser = await stage.register(transport, one.identity, instance=one.instance)
            await comes_to(one, stage)
            await comes_to(one, stage)
            loser.connection.close()
            await comes_to(one, stage)

    run(body())


def test_the_stream_header_says_who_calls(transport: str, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            client = await stage.serve(transport)
            first = hello(client.name.upper(), ("h2", "http/1.1"))
            async with visiting(stage.public, first) as visitor:
                header = (await client.take()).header
                assert header.kind == "visitor"
                assert header.name == client.name
                assert header.local == stage.public
                assert header.peer == socket_name(visitor)
                assert header.alpn == (b"h2", b"http/1.1")

    run(body())


def socket_name(visitor: Visitor) -> tuple[str, int]:
    """Return the visitor's own address."""
    name: tuple[str, int] = visitor.writer.get_extra_info("sockname")
    return name
