"""Validations of the relay's own names: answered on its public ports, for nobody else to see."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from tests.integration.acme.authorities import DIGEST, digest_of, validated, validation
from tests.integration.conftest import Run
from tests.integration.hellos import hello
from tests.integration.stage import LOOPBACK, listener, relay_settings
from tests.integration.visitors import AT_ONCE, UNRECOGNIZED_NAME, answer_to, visiting
from tests.ports import free_port
from tests.unit.relay.scenes import Orders
from tunnel.acme.challenge import (
    ALPN,
    ANSWERS_TOLD,
    HANDSHAKE_TIMEOUT,
    PendingAnswer,
    challenge_context,
)
from tunnel.relay.challenges import Challenges
from tunnel.relay.direct import DirectRouting
from tunnel.relay.front import Front, Ways
from tunnel.relay.registry import Registry
from tunnel.relay.routing import Routing
from tunnel.relay.spares import Spares
from tunnel.relay.validation import OwnValidations
from tunnel.settings.values import RelayLimits
from tunnel.stream import Address
from tunnel.transport.accepting import TcpListener

OWN = "relay.test"


def meeting_of(folder: Path, own: OwnValidations, **limits: int) -> Front:
    """Return a relay's side towards visitors; no client is there, and an agent may not come."""
    settings = relay_settings(folder, limits=RelayLimits(**limits))
    clock = asyncio.get_running_loop().time
    registry = Registry(1, (), Challenges(Orders(), clock), clock)
    routing, spares = Routing(settings.timeouts, registry), Spares()
    ways = Ways(routing, DirectRouting(settings.timeouts, registry, spares), spares)
    return Front(settings, ways, lambda *_: pytest.fail("an agent"), own)


@asynccontextmanager
async def port_of(meeting: Front, kind: str = "public") -> AsyncIterator[Address]:
    """Yield the address of its port."""
    listening = TcpListener(Address(LOOPBACK, free_port()))
    try:
        async with meeting.crowd, asyncio.TaskGroup() as group:
            accepting = group.create_task(meeting.accept_from(listening, listener(kind)))
            yield listening.address
            accepting.cancel()
            meeting.crowd.cancel()
    finally:
        listening.close()


@asynccontextmanager
async def front(
    folder: Path, own: OwnValidations, kind: str = "public", **limits: int
) -> AsyncIterator[Address]:
    """Yield the address of a relay's port."""
    async with port_of(meeting_of(folder, own, **limits), kind) as where:
        yield where


@asynccontextmanager
async def opened(own: OwnValidations, name: str = OWN) -> AsyncIterator[None]:
    """Have validations of the relay's name answered while inside."""
    answer = PendingAnswer(challenge_context(name, DIGEST, datetime.now(UTC)))
    async with own.opened(name, answer, renewal=False):
        yield


@pytest.mark.parametrize("kind", ["public", "shared"])
def test_the_relay_answers_for_itself(kind: str, run_on_each: Run, tmp_path: Path) -> None:
    async def body() -> None:
        own = OwnValidations()
        async with front(tmp_path, own, kind) as where, opened(own):
            shown = await validated(where, OWN)
            assert digest_of(shown) == DIGEST
            names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert names.get_values_for_type(x509.DNSName) == [OWN]

    run_on_each(body())


def test_several_validators_are_answered_at_once(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        own = OwnValidations()
        async with front(tmp_path, own) as where, opened(own):
            seen = await asyncio.gather(*(validated(where, OWN) for _ in range(8)))
            assert [digest_of(each) for each in seen] == [DIGEST] * 8

    run(body())


def test_several_validators_that_are_answered_at_once_are_all_counted(
    run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        own = OwnValidations()
        meeting = meeting_of(tmp_path, own)
        async with port_of(meeting) as where, opened(own), asyncio.timeout(AT_ONCE):
            await asyncio.gather(*(validated(where, OWN) for _ in range(8)))
            while meeting.visits.validations_relay < 8:  # noqa: ASYNC110 - counts tell nobody
                await asyncio.sleep(0)

    run(body())


def test_it_answers_only_while_it_waits_for_a_validation(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        own = OwnValidations()
        async with front(tmp_path, own) as where:
            assert await answer_to(where, validation(OWN)) == UNRECOGNIZED_NAME
            async with opened(own):
                assert await answer_to(where, validation("b.test")) == UNRECOGNIZED_NAME
                assert await validated(where, OWN)
            assert await answer_to(where, validation(OWN)) == UNRECOGNIZED_NAME

    run(body())


def test_a_port_for_agents_does_not_answer(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        own = OwnValidations()
        async with front(tmp_path, own, "agents") as where, opened(own):
            assert await answer_to(where, validation(OWN)) == UNRECOGNIZED_NAME

    run(body())


def test_browsers_find_at_the_relays_name_what_they_always_do(run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        own = OwnValidations()
        async with front(tmp_path, own) as where, opened(own):
            async with visiting(where, validation(OWN)):
                for offered in ((), ("http/1.1",), (ALPN, "http/1.1")):
                    assert await answer_to(where, hello(OWN, offered)) == UNRECOGNIZED_NAME
            assert digest_of(await validated(where, OWN)) == DIGEST

    run(body())


def test_who_validates_and_says_no_more_holds_a_place_of_its_address(
    run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        own = OwnValidations()
        async with (
            front(tmp_path, own, visitors_per_address=1) as where,
            opened(own),
            visiting(where, validation(OWN)) as idle,
        ):
            await idle.hear(5)  # the head of its first record
            async with asyncio.timeout(AT_ONCE), visiting(where, validation(OWN)) as second:
                await second.ended()
            assert await is_answered(where, "127.0.0.2")

    run(body())


async def is_answered(where: Address, source: str) -> bool:
    """Say whether a validation from this address is answered."""
    async with visiting(where, validation(OWN), source) as visitor:
        return (await visitor.hear(1))[0] == 22  # a handshake record


def test_who_validates_and_says_no_more_is_cut_in_time(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnel.acme.challenge.HANDSHAKE_TIMEOUT", 0.2)

    async def body() -> None:
        own = OwnValidations()
        async with (
            front(tmp_path, own) as where,
            opened(own),
            asyncio.timeout(AT_ONCE),
            visiting(where, validation(OWN)) as idle,
        ):
            await idle.ended()

    assert HANDSHAKE_TIMEOUT <= 10
    run(body())


def test_answers_are_told_as_long_as_they_may_be_an_authoritys(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        own = OwnValidations()
        async with front(tmp_path, own) as where:
            for _ in range(2):
                async with opened(own):
                    for _ in range(ANSWERS_TOLD + 1):
                        await validated(where, OWN)

    with caplog.at_level(logging.DEBUG, "tunnel.relay.validation"):
        run(body())
    told = [each for each in caplog.records if each.message == "answered a validation"]
    levels = [each.levelno for each in told]
    assert levels == 2 * [*(ANSWERS_TOLD * [logging.INFO]), logging.DEBUG]
