"""Validations through the relay: they come to the session that asked, and disturb nobody."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.integration.acme.authorities import DIGEST, digest_of, validated, validation
from tests.integration.choices import answered, visit
from tests.integration.clients import Call, ScriptedClient
from tests.integration.conftest import Run
from tests.integration.hellos import hello
from tests.integration.stage import granted, listener, on_stage, relay_settings
from tests.integration.visitors import UNRECOGNIZED_NAME, Cut, answer_to, visiting
from tunnel.acme.challenge import (
    ALPN,
    answer_validation,
    challenge_context,
)
from tunnel.errors import Code
from tunnel.protocol.messages import Drain, Serving, StreamKind, Welcome
from tunnel.relay.challenges import PENDING_LIMIT
from tunnel.stream import Address, Prefixed
from tunnel.tls.identity import generate

OWN = "relay.test"


async def comes(where: Address, client: ScriptedClient) -> Call:
    """Return the client's end of a validation of its name, after checking what it says first."""
    said = validation(client.name)
    async with visiting(where, said):
        call = await client.take()
        assert call.header.kind is StreamKind.CHALLENGE
        assert call.header.name == client.name
        assert call.header.alpn == (ALPN.encode(),)
        assert await call.hear(len(said)) == said
        return call


async def refused_in_the_end(where: Address, name: str) -> None:
    """Try until the relay has noticed that nobody waits for a validation any more."""
    answer = None
    while answer != UNRECOGNIZED_NAME:
        with suppress(Cut):  # it was under way to one that had just gone
            answer = await answer_to(where, validation(name))


def test_an_authority_sees_the_clients_answer(transport: str, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            client = await stage.serve(transport)
            await client.serve(challenge=True)
            context = challenge_context(client.name, DIGEST, datetime.now(UTC))
            async with asyncio.TaskGroup() as group:
                seen = group.create_task(validated(stage.public, client.name))
                call = await client.take()
                await answer_validation(Prefixed(call.stream, call.early), context)
            assert digest_of(seen.result()) == DIGEST

    run(body())


def test_it_comes_to_the_session_that_asked_not_to_who_serves_the_visitors(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            serving = await stage.serve(transport, features=("replica",))
            asking = await stage.serve(transport, serving.identity, features=("replica",))
            await asking.serve(visitors=False, challenge=True)
            for _ in range(3):
                assert await comes(stage.public, asking)
                assert await visit(stage.public, serving) is not None

    run(body())


def test_it_comes_only_over_connections_that_asked(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            idle = await stage.serve(transport)
            asking = await stage.register(transport, idle.identity, instance=idle.instance)
            await asking.serve(visitors=False, challenge=True)
            for _ in range(3):
                assert await comes(stage.public, asking)

    run(body())


def test_visitors_of_the_name_are_not_disturbed(transport: str, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            client = await stage.serve(transport)
            async with visiting(stage.public, hello(client.name)) as visitor:
                call = await answered(visitor, client)
                await client.serve(challenge=True)
                assert await comes(stage.public, client)
                assert (await visit(stage.public, client)) is not None
                await client.serve(challenge=False)
                await call.stream.send(b"still here")
                assert await visitor.hear(10) == b"still here"

    run(body())


def test_who_offers_more_than_the_validation_protocol_is_a_visitor(
    run_on_each: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            asking = await stage.serve(features=("replica",))
            serving = await stage.serve("h2", asking.identity, features=("replica",))
            await asking.serve(visitors=False, challenge=True)
            for offered in ((ALPN, "http/1.1"), ("http/1.1", ALPN), (ALPN, ALPN)):
                async with visiting(stage.public, hello(serving.name, offered)):
                    assert (await serving.take()).header.kind is StreamKind.VISITOR

    run_on_each(body())


def test_it_is_refused_once_it_was_taken_back(transport: str, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            client = await stage.serve(transport)
            await client.serve(challenge=True)
            answer = await client.serve(challenge=False)
            assert (answer.visitors, answer.challenge, answer.reason) == (True, False, None)
            said = validation(client.name)
            assert await answer_to(stage.public, said) == UNRECOGNIZED_NAME
            assert await visit(stage.public, client) is not None

    run(body())


def test_it_is_refused_once_all_connections_that_asked_are_gone(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            serving = await stage.serve(transport, features=("replica",))
            one, two = [
                await stage.register(
                    transport, serving.identity, instance=bytes(16), features=("replica",)
                )
                for _ in range(2)
            ]
            for link in (one, two):
                await link.serve(visitors=False, challenge=True)
            one.connection.close()
            await one.lost()
            assert await comes_in_the_end(stage.public, two)
            two.connection.close()
            await refused_in_the_end(stage.public, two.name)
            assert await visit(stage.public, serving) is not None
            answer = await serving.serve(challenge=True)
            assert answer.challenge
            assert await comes(stage.public, serving)

    run(body())


async def comes_in_the_end(where: Address, client: ScriptedClient) -> bool:
    """Send one validation; the relay may first have to notice that another connection is gone."""
    async with visiting(where, validation(client.name)):
        return (await client.take()).header.kind is StreamKind.CHALLENGE


def test_a_takeover_waits_until_the_old_instance_has_had_its_validation(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            old = await stage.serve(transport)
            await old.serve(challenge=True)
            new = await stage.register(transport, old.identity)
            for challenge in (True, False):
                answer = await new.serve(challenge=challenge)
                assert (answer.visitors, answer.challenge) == (False, False)
                assert answer.reason is not None
                assert (answer.reason.code, answer.retry_after) == (Code.BUSY, 5)
            assert await comes(stage.public, old)
            assert await visit(stage.public, old) is not None
            await old.serve(challenge=False)
            answer = await new.serve(challenge=True)
            assert (answer.visitors, answer.challenge, answer.reason) == (True, True, None)
            lost = await old.hear(Serving)
            assert (lost.visitors, lost.challenge) == (False, False)

    run(body())


def test_a_takeover_in_the_end_ends_what_the_old_instance_waits_for(
    transport: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnel.relay.challenges.TAKEOVER_LIMIT", 0.0)

    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            old = await stage.serve(transport)
            await old.serve(challenge=True)
            new = await stage.serve(transport, old.identity)
            lost = await old.hear(Serving)
            assert (lost.visitors, lost.challenge) == (False, False)
            await old.hear(Drain)
            said = validation(new.name)
            assert await answer_to(stage.public, said) == UNRECOGNIZED_NAME
            assert not (await old.serve(challenge=True)).challenge
            assert (await new.serve(challenge=True)).challenge
            assert await comes(stage.public, new)

    run(body())


def test_a_takeover_may_ask_for_the_validation_in_one_go(
    transport: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnel.relay.challenges.TAKEOVER_LIMIT", 0.0)

    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            old = await stage.serve(transport)
            await old.serve(challenge=True)
            new = await stage.register(transport, old.identity)
            answer = await new.serve(challenge=True)
            assert (answer.visitors, answer.challenge, answer.reason) == (True, True, None)
            assert await comes(stage.public, new)

    run(body())


def test_the_second_to_ask_is_told_so_and_gets_its_visitors(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            first = await stage.register(transport, features=("replica",))
            await first.serve(visitors=False, challenge=True)
            second = await stage.register(transport, first.identity, features=("replica",))
            answer = await second.serve(challenge=True)
            assert (answer.visitors, answer.challenge) == (True, False)
            assert answer.reason is not None
            assert answer.reason.code is Code.BUSY
            assert answer.retry_after is not None
            assert await comes(stage.public, first)
            assert await visit(stage.public, second) is not None

    run(body())


def test_who_keeps_others_waiting_for_an_hour_is_told_that_it_is_over(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnel.relay.challenges.PENDING_LIMIT", 0.0)

    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            stale = await stage.serve(features=("replica",))
            await stale.serve(challenge=True)
            new = await stage.register("h2", stale.identity, features=("replica",))
            assert (await new.serve(visitors=False, challenge=True)).challenge
            told = await stale.hear(Serving)
            assert (told.visitors, told.challenge) == (True, False)
            assert told.reason is not None
            assert told.reason.code is Code.TIMEOUT
            assert await comes(stage.public, new)
            assert await visit(stage.public, stale) is not None

    assert PENDING_LIMIT == 3600
    run(body())


def test_nobody_gets_the_validation_of_anothers_name(
    transport: str, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            owner, thief = await stage.serve(transport), await stage.serve(transport)
            answer = await thief.serve(owner.name, challenge=True)
            assert (answer.visitors, answer.challenge) == (False, False)
            assert answer.reason is not None
            assert answer.reason.code is Code.NAME_REFUSED
            assert await answer_to(stage.public, validation(owner.name)) == UNRECOGNIZED_NAME
            assert (await owner.serve(challenge=True)).challenge
            assert await comes(stage.public, owner)

    run(body())


def test_nobody_gets_the_validation_of_the_relays_own_name(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        thief = generate()
        clients = granted(thief, names=(OWN,))
        async with on_stage(relay_settings(tmp_path, clients=clients)) as stage:
            client = await stage.dial("h2", thief)
            welcome = await client.register(names=(client.name, OWN))
            assert isinstance(welcome, Welcome)
            assert welcome.refused[OWN].code is Code.NAME_REFUSED
            answer = await client.serve(OWN, challenge=True)
            assert (answer.visitors, answer.challenge) == (False, False)
            assert await answer_to(stage.public, validation(OWN)) == UNRECOGNIZED_NAME

    run(body())


def test_a_port_for_agents_refuses_the_validation_that_somebody_waits_for(
    run_on_each: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path)) as stage:
            client = await stage.serve()
            await client.serve(challenge=True)
            said = validation(client.name)
            assert await answer_to(stage.agents, said) == UNRECOGNIZED_NAME
            assert await comes(stage.public, client)

    run_on_each(body())


def test_a_shared_port_takes_validations(run_on_each: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(relay_settings(tmp_path, listeners=[listener("shared")])) as stage:
            client = await stage.serve()
            await client.serve(challenge=True)
            assert await comes(stage.agents, client)

    run_on_each(body())
