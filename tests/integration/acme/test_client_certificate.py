"""A real client whose certificates come from a real authority, through real relays."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trustme
from cryptography import x509

from tests.integration.acme.keeping import orders_at, so_it_is
from tests.integration.acme.ports import Ports, validating
from tests.integration.acme.steps import settings_for as acme_settings
from tests.integration.conftest import Run
from tests.integration.stage import SUFFIX, Stage, on_stage, relay_settings
from tests.integration.test_keys_client_visits import SAID, anybody, settings_for, target, visit
from tunnel.client.client import Client
from tunnel.client.events import (
    CertificateFailed,
    CertificateIssued,
    CertificateState,
    ClientEvent,
    Serving,
)
from tunnel.client.presented import INTERIM, REFUSED, VALID
from tunnel.protocol.names import client_id
from tunnel.settings.values import ClientSettings, ServerSettings, Target
from tunnel.stream import Address
from tunnel.tls.certificates import dns_names
from tunnel.tls.identity import fingerprint, load_or_create

pytestmark = pytest.mark.timeout(60)  # a real authority and real handshakes

E = TypeVar("E")
HALF = 200_000  # bytes of a download


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[Ports]:
    with validating(tmp_path) as each:
        yield each


@asynccontextmanager
async def relay(ports: Ports, folder: Path, host: str = "127.0.0.1") -> AsyncIterator[Stage]:
    """Run a relay at whose visitors' port the authority validates."""
    async with on_stage(relay_settings(folder, listeners=ports.listeners(host))) as stage:
        yield stage


def with_acme(
    ports: Ports, stage: Stage, folder: Path, to: Target, **endpoint: Any
) -> ClientSettings:
    """Return the settings of a client that orders a certificate for its one endpoint."""
    changes = {"certificate": "acme", **endpoint}
    acme = acme_settings(ports.front)
    return settings_for(stage, folder, to, endpoint=changes, acme=acme)


class Running:
    """A client that runs, and what it has told."""

    def __init__(self, settings: ClientSettings) -> None:
        self.events: list[ClientEvent] = []
        self.client = Client(settings, on_event=self.events.append)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    async def told(self, kind: type[E], count: int = 1) -> list[E]:
        """Wait for that many events of a kind, and return them."""
        await so_it_is(lambda: len(self.of(kind)) >= count)
        return self.of(kind)

    @property
    def name(self) -> str:
        return self.client.info()[0].names[0]

    @property
    def state(self) -> CertificateState:
        return self.client.info()[0].certificates[0]


@asynccontextmanager
async def at_work(settings: ClientSettings, endpoints: int = 1) -> AsyncIterator[Running]:
    """Run a client; yield it once it serves its endpoints."""
    running = Running(settings)
    async with asyncio.TaskGroup() as group:
        group.create_task(running.client.run())
        await running.told(Serving, endpoints)
        yield running
        running.client.stop()


def trusting(ports: Ports) -> ssl.SSLContext:
    """Return the TLS of a visitor who trusts the authority alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ports.root_file)
    return context


def own_name(settings: ClientSettings) -> str:
    key = load_or_create(settings.keypairs["key"].file)
    return f"{client_id(fingerprint(key.public_key), 128)}.{SUFFIX}"


# -- the first one


def test_before_certificate_is_what_a_visitor_meets_until_there_is_one(
    ports: Ports, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with relay(ports, tmp_path) as stage, target() as to:
            ports.ca.pause()
            for word, state in (("self-signed", INTERIM), ("refuse", REFUSED)):
                settings = with_acme(ports, stage, tmp_path, to, before_certificate=word)
                async with at_work(settings) as running:
                    seen = await visit(stage, running.name)
                    assert (running.state.state, running.state.not_after) == (state, None)
                    if word == "refuse":
                        assert (seen.leaf, seen.answer) == (b"", None)
                    else:
                        leaf = x509.load_der_x509_certificate(seen.leaf)
                        assert leaf.issuer == leaf.subject
                        assert seen.answer == SAID
            ports.ca.resume()

    run(body())


def test_the_first_one_is_told_and_trusted(ports: Ports, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with relay(ports, tmp_path) as stage, target() as to:
            settings = with_acme(ports, stage, tmp_path, to, before_certificate="refuse")
            async with at_work(settings) as running:
                (event,) = await running.told(CertificateIssued)
                seen = await visit(stage, running.name, trusting(ports))
                chain = x509.load_pem_x509_certificates(event.pem.encode())
                assert (event.endpoint, event.name) == ("web", running.name)
                assert seen.answer == SAID
                assert dns_names(chain[0]) == {running.name}
                assert event.not_after == chain[0].not_valid_after_utc == running.state.not_after
                assert running.state.state == VALID
                assert running.state.renew_at is not None
                assert running.state.renew_at < event.not_after

    run(body())


def test_what_fails_is_told_and_stands_in_its_state(ports: Ports, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        ports.front.refuse_orders(1, "7200")
        async with relay(ports, tmp_path) as stage, target() as to:
            async with at_work(with_acme(ports, stage, tmp_path, to)) as running:
                (event,) = await running.told(CertificateFailed)
                state = running.state
                assert (event.endpoint, event.name) == ("web", running.name)
                assert event.retry_in is not None
                assert 7200 <= event.retry_in <= 7200 * 1.1  # a tenth of it is jitter
                assert "too many new orders recently" in event.cause
                assert (state.state, state.last_error) == (INTERIM, event.cause)
                assert state.retry_at is not None
                assert (await visit(stage, running.name)).answer == SAID
            async with at_work(with_acme(ports, stage, tmp_path, to)) as again:
                assert again.state == state
        assert orders_at(ports.front) == 1

    run(body())


# -- those that are there


def test_seed_file_is_served_without_an_order(ports: Ports, run: Run, tmp_path: Path) -> None:
    async def body() -> None:
        async with relay(ports, tmp_path) as stage, target() as to:
            settings = with_acme(ports, stage, tmp_path, to, seed_file=tmp_path / "seed.pem")
            issued = seed(tmp_path / "seed.pem", own_name(settings))
            async with at_work(settings) as running:
                seen = await visit(stage, running.name)
                assert seen.leaf == issued
                assert running.state.state == VALID
                assert running.of(CertificateIssued) == []
        assert orders_at(ports.front) == 0

    run(body())


def seed(file: Path, name: str) -> bytes:
    """Leave key and chain as another program does; return the leaf."""
    certificate = trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert(name)
    file.touch(0o600)
    file.write_bytes(certificate.private_key_pem.bytes() + certificate.cert_chain_pems[0].bytes())
    return ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())


def test_after_a_restart_it_is_served_without_the_authority(
    ports: Ports, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with relay(ports, tmp_path) as stage, target() as to:
            settings = with_acme(ports, stage, tmp_path, to, before_certificate="refuse")
            async with at_work(settings) as running:
                await running.told(CertificateIssued)
            ports.front.down()
            async with at_work(settings) as running:
                assert (await visit(stage, running.name, trusting(ports))).answer == SAID
        assert orders_at(ports.front) == 1

    run(body())


# -- several relays, and visitors at the same time


def test_a_name_that_two_endpoints_serve_at_two_relays_is_ordered_once(
    ports: Ports, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        async with (
            relay(ports, tmp_path / "eu") as eu,
            relay(ports, tmp_path / "us", "127.0.0.2") as us,
            target() as to,
        ):
            settings = with_acme(ports, eu, tmp_path, to)
            web = settings.endpoints["web"]
            second = ServerSettings("us", us.agents, "relay.test", transport="h2", pin=us.pin)
            both = replace(
                settings,
                servers={**settings.servers, "us": second},
                endpoints={"web": web, "web2": replace(web, name="web2", servers=("us",))},
            )
            async with at_work(both, endpoints=2) as running:
                issued = await running.told(CertificateIssued, 2)
                seen = [await visit(each, running.name, trusting(ports)) for each in (eu, us)]
        assert {event.endpoint for event in issued} == {"web", "web2"}
        assert len({event.pem for event in issued}) == 1
        assert seen[0].leaf == seen[1].leaf
        assert orders_at(ports.front) == 1

    run(body())


def test_a_download_goes_on_while_the_next_visitor_sees_the_new_certificate(
    ports: Ports, run: Run, tmp_path: Path
) -> None:
    async def body() -> None:
        goes_on = asyncio.Event()
        ports.ca.pause()
        async with relay(ports, tmp_path) as stage, halting(goes_on) as to:
            settings = with_acme(ports, stage, tmp_path, to)
            async with at_work(settings) as running, visitor(stage, running.name, anybody()) as one:
                first = await one.readexactly(HALF)
                ports.ca.resume()
                await running.told(CertificateIssued)
                async with visitor(stage, running.name, trusting(ports)) as late:
                    assert await late.readexactly(1) == b"x"
                goes_on.set()
                assert first + await one.read() == b"x" * 2 * HALF

    run(body())


@asynccontextmanager
async def visitor(
    stage: Stage, name: str, context: ssl.SSLContext
) -> AsyncIterator[asyncio.StreamReader]:
    """Connect to a name, and yield what is answered."""
    reader, writer = await asyncio.open_connection(*stage.public, ssl=context, server_hostname=name)
    try:
        yield reader
    finally:
        writer.transport.abort()  # the service may have more to say


@asynccontextmanager
async def halting(goes_on: asyncio.Event) -> AsyncIterator[Target]:
    """Run a service that sends half of a download, and the rest when it may go on."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            writer.write(b"x" * HALF)
            await writer.drain()
            await goes_on.wait()
            writer.write(b"x" * HALF)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield Target(Address(*server.sockets[0].getsockname()))
