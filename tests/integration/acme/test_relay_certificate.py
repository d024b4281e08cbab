"""A real relay whose own certificate comes from a real authority, from the first start on."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acme_front import NEW_ORDER_PATH, Reply
from tests.integration.acme.authorities import validated, validation
from tests.integration.acme.keeping import LOOK_INTERVAL, orders_at, requested
from tests.integration.acme.ports import Ports, validating
from tests.integration.acme.steps import settings_for
from tests.integration.choices import visit
from tests.integration.clients import ScriptedClient
from tests.integration.conftest import Run
from tests.integration.hellos import hello
from tests.integration.stage import Stage, on_stage, relay_settings
from tests.integration.visitors import UNRECOGNIZED_NAME, answer_to
from tunnel.errors import DialFailed
from tunnel.protocol.messages import Welcome
from tunnel.settings.values import RelayCertificate, RelaySettings
from tunnel.tls.contexts import Trust
from tunnel.transport.doors import DIALERS
from tunnel.transport.options import TransportOptions

pytestmark = pytest.mark.timeout(60)  # a real authority and real handshakes

NAME, OTHER = "relay.test", "b.relay.test"
TRANSPORTS = ("quic", "h2")
HANGS = Reply(hangs=True, after=True)
CHALLENGE_PATH = "/chalZ/"


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[Ports]:
    with validating(tmp_path) as each:
        yield each


def with_acme(ports: Ports, folder: Path, *names: str, **certificate: Any) -> RelaySettings:
    """Return the settings of a relay that orders a certificate for its names."""
    return relay_settings(
        folder,
        listeners=ports.listeners(),
        certificate=RelayCertificate("acme", names=names or (NAME,), **certificate),
        acme=settings_for(ports.front),
    )


async def is_trusted(ports: Ports, stage: Stage, name: str, transport: str = "h2") -> bool:
    """Say whether a client is let trust the relay that trusts the authority alone."""
    trust = Trust(name, ports.root_file)
    try:
        connection = await DIALERS[transport](stage.agents, trust, TransportOptions(), None)
    except DialFailed:
        return False
    connection.close()
    return True


async def issued(ports: Ports, stage: Stage) -> None:
    """Wait until new connections see what the authority has issued."""
    while not await is_trusted(ports, stage, NAME):  # noqa: ASYNC110 - dialling is the only way to see
        await asyncio.sleep(LOOK_INTERVAL)


def test_names_are_what_the_certificate_is_for(ports: Ports, run: Run, tmp_path: Path) -> None:
    seen: dict[tuple[str, ...], list[bool]] = {}

    async def body() -> None:
        for names in ((NAME,), (NAME, OTHER)):
            async with on_stage(with_acme(ports, tmp_path / str(len(names)), *names)) as stage:
                await issued(ports, stage)
                seen[names] = [await is_trusted(ports, stage, name) for name in (NAME, OTHER)]

    run(body())
    assert seen == {(NAME,): [True, False], (NAME, OTHER): [True, True]}
    assert orders_at(ports.front) == 2


def test_keep_key_is_whether_pins_hold(ports: Ports, run: Run, tmp_path: Path) -> None:
    holds: dict[bool, bool] = {}

    async def body() -> None:
        for keep_key in (True, False):
            settings = with_acme(ports, tmp_path / str(keep_key), keep_key=keep_key)
            async with on_stage(settings) as stage:
                await issued(ports, stage)
                try:
                    await stage.dial()  # trusts the pin of the certificate that stood in
                except DialFailed:
                    holds[keep_key] = False
                else:
                    holds[keep_key] = True

    run(body())
    assert holds == {True: True, False: False}


def test_clients_live_on_and_new_ones_see_the_new_certificate(
    ports: Ports, run_on_each: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        ports.ca.pause()
        async with on_stage(with_acme(ports, tmp_path)) as stage:
            running = [await stage.serve(transport) for transport in TRANSPORTS]
            first = {client.connection.binding.leaf_hash for client in running}
            ports.ca.resume()
            await issued(ports, stage)
            for transport in TRANSPORTS:
                assert await is_trusted(ports, stage, NAME, transport)
                client = await stage.dial(transport)
                assert client.connection.binding.leaf_hash not in first
                await is_at_work(client, stage)
            for client in running:
                assert await visit(stage.public, client) is not None
                assert (await client.serve(challenge=True)).challenge

    run_on_each(body())


async def is_at_work(client: ScriptedClient, stage: Stage) -> None:
    """See that its registration, which is signed for the leaf, is taken, and visitors come."""
    assert isinstance(await client.register(), Welcome)
    assert (await client.serve()).visitors
    assert await visit(stage.public, client) is not None


def test_nobody_else_notices_a_validation(ports: Ports, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(with_acme(ports, tmp_path)) as stage:
            ports.front.plan(HANGS, CHALLENGE_PATH)
            client = await stage.serve()
            await requested(ports.front, CHALLENGE_PATH)
            assert await validated(stage.public, NAME)
            for offered in ((), ("h2", "http/1.1"), ("acme-tls/1", "http/1.1")):
                assert await answer_to(stage.public, hello(NAME, offered)) == UNRECOGNIZED_NAME
            assert await visit(stage.public, client) is not None
            for name in (OTHER, client.name):
                assert await answer_to(stage.public, validation(name)) == UNRECOGNIZED_NAME

    run(body())


def test_only_visitors_ports_answer_a_validation(ports: Ports, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with on_stage(with_acme(ports, tmp_path)) as stage:
            ports.front.plan(HANGS, CHALLENGE_PATH)
            await requested(ports.front, CHALLENGE_PATH)
            assert await validated(stage.public, NAME)
            assert await answer_to(stage.agents, validation(NAME)) == UNRECOGNIZED_NAME

    run(body())


def test_a_restart_shows_what_was_issued_before_and_orders_nothing(
    ports: Ports, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        settings = with_acme(ports, tmp_path)
        async with on_stage(settings) as stage:
            await issued(ports, stage)
            pin = stage.pin
        ports.front.down()
        async with on_stage(settings) as stage:
            assert stage.pin == pin
            assert await is_trusted(ports, stage, NAME)
        assert orders_at(ports.front) == 1

    run(body())


@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: file.write_text("spoilt")])
def test_a_cache_that_is_of_no_use_is_ordered_anew(
    spoil: Callable[[Path], object], ports: Ports, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        settings = with_acme(ports, tmp_path)
        async with on_stage(settings) as stage:
            await issued(ports, stage)
        (file,) = (settings.state_dir / "acme").glob(f"*/{NAME}.pem")
        spoil(file)
        async with on_stage(settings) as stage:
            await issued(ports, stage)
        assert [path for _, path in ports.front.requests].count(NEW_ORDER_PATH) == 2

    run(body())
