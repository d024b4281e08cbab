"""Direct connections at a client: spares towards a scripted relay, visitors through a real one."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.integration.conftest import Run
from tests.integration.stage import Stage, listener, on_stage, relay_settings, until
from tests.integration.test_keys_client_visits import (
    SAID,
    Seen,
    anybody,
    settings_for,
    target,
    visit,
)
from tunnel.client.client import Client
from tunnel.client.events import DirectState, ServerState
from tunnel.client.spare_plan import FEWEST
from tunnel.client.spares import Invitation, Spares
from tunnel.protocol.backoff import Backoff
from tunnel.protocol.direct import PRELUDE_BYTES, Prelude, parse_prelude, sealed_frame
from tunnel.protocol.fields import DirectOffer
from tunnel.protocol.messages import StreamHeader, StreamKind, encode
from tunnel.settings.values import ClientSettings
from tunnel.stream import Address
from tunnel.transport.accepting import TcpListener
from tunnel.transport.direct.keys import DirectKeys
from tunnel.transport.direct.stream import DirectStream

KEY = bytes(range(32))
HEADER = StreamHeader(StreamKind.VISITOR, "1", "a.t.test", ("192.0.2.9", 1), ("192.0.2.1", 2), ())


# -- spares, towards a relay that is played by the test


@dataclass
class Relay:
    """What accepts a client's spares, and knows their key."""

    listener: TcpListener
    keys: DirectKeys = field(default_factory=lambda: DirectKeys(KEY))
    accepted: list[socket.socket] = field(default_factory=list)
    arrived: list[tuple[DirectStream, StreamHeader]] = field(default_factory=list)

    def invitation(self, session: bytes = b"S" * 16, spare: int = 8) -> Invitation:
        """Return what a welcome would offer."""
        return Invitation(session, self.listener.address, DirectOffer(KEY, spare))

    async def accept(self) -> tuple[socket.socket, Prelude]:
        """Return the next spare, and how it begins."""
        loop = asyncio.get_running_loop()
        sock = await self.listener.accept()
        self.accepted.append(sock)
        beginning = b""
        while len(beginning) < PRELUDE_BYTES:
            beginning += await loop.sock_recv(sock, PRELUDE_BYTES - len(beginning))
        prelude = parse_prelude(beginning)
        assert prelude is not None
        assert self.keys.proves(prelude)
        return sock, prelude

    def frame(self, prelude: Prelude, header: StreamHeader = HEADER) -> bytes:
        """Return a sealed header for a spare."""
        return sealed_frame(self.keys.seal(prelude, encode(header)))


@asynccontextmanager
async def playing(mode: str = "on") -> AsyncIterator[tuple[Relay, Spares]]:
    """Play a relay that a client keeps spares at."""
    relay = Relay(TcpListener(Address("127.0.0.1", 0)))
    spares = Spares(mode, lambda stream, header: relay.arrived.append((stream, header)))
    try:
        yield relay, spares
    finally:
        spares.follow(None, "off")
        for stream, _ in relay.arrived:
            stream.abort()
        for sock in relay.accepted:
            sock.close()
        relay.listener.close()


async def ended(sock: socket.socket) -> None:
    """Wait until the client has closed a spare; it must say nothing."""
    with suppress(ConnectionResetError):
        assert await asyncio.get_running_loop().sock_recv(sock, 100) == b""


def test_spares_are_kept_and_replaced_and_their_counters_never_come_twice(
    run_on_each: Run,
) -> None:
    async def body() -> None:
        async with playing() as (relay, spares):
            spares.follow(relay.invitation(), "on")
            taken = [await relay.accept() for _ in range(FEWEST)]
            for sock, prelude in taken[:2]:
                sock.send(relay.frame(prelude) + b"hello")
            taken += [await relay.accept() for _ in range(2)]
            spares.follow(None, "on")
            for sock, _ in taken[2:]:
                await ended(sock)
            spares.follow(relay.invitation(), "on")
            taken.append(await relay.accept())
            counters = [prelude.counter for _, prelude in taken]
            assert len(set(counters)) == len(counters)
            assert [header for _, header in relay.arrived] == [HEADER, HEADER]
            assert await relay.arrived[0][0].receive() == b"hello"

    run_on_each(body())


def test_a_header_may_come_in_pieces(run: Run) -> None:
    async def body() -> None:
        async with playing() as (relay, spares):
            spares.follow(relay.invitation(), "on")
            sock, prelude = await relay.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for octet in relay.frame(prelude):
                sock.send(bytes((octet,)))
                await asyncio.sleep(0)
            await until(lambda: bool(relay.arrived))
            sock.send(b"hello")
            assert await relay.arrived[0][0].receive() == b"hello"

    run(body())


@pytest.mark.parametrize("what", ["altered", "for another spare", "too long", "no header"])
def test_a_header_that_is_not_for_this_spare_ends_it(run: Run, what: str) -> None:
    async def body() -> None:
        async with playing() as (relay, spares):
            spares.follow(relay.invitation(), "on")
            sock, prelude = await relay.accept()
            _, other = await relay.accept()
            good = relay.frame(prelude)
            sock.send(
                {
                    "altered": good[:-1] + bytes((good[-1] ^ 1,)),
                    "for another spare": relay.frame(other),
                    "too long": b"\xff\xff",
                    "no header": sealed_frame(relay.keys.seal(prelude, b'{"kind":"visitor"}')),
                }[what]
            )
            await ended(sock)
            assert (relay.arrived, spares.state("").refused) == ([], 1)

    run(body())


def test_a_header_that_is_cut_short_is_a_connection_lost_and_not_refused(run: Run) -> None:
    async def body() -> None:
        async with playing() as (relay, spares):
            spares._course.backoff = Backoff(lambda: 1.0)  # not so soon that nobody sees it
            spares.follow(relay.invitation(), "on")
            taken = [await relay.accept() for _ in range(FEWEST)]
            for sock, prelude in taken:
                frame = relay.frame(prelude)
                sock.send(frame[: len(frame) // 2])
                sock.shutdown(socket.SHUT_WR)
                await ended(sock)
            state = spares.state("")
            assert (relay.arrived, state.refused) == ([], 0)
            assert "closed by the relay" in state.reason

    run(body())


def test_spares_that_are_ended_are_opened_again_after_a_while(run: Run) -> None:
    async def body() -> None:
        async with playing() as (relay, spares):
            spares._course.backoff = Backoff(lambda: 1.0)  # not so soon that nobody sees it
            spares.follow(relay.invitation(), "on")
            for _ in range(FEWEST):
                sock, _ = await relay.accept()
                sock.close()
            await until(lambda: spares.state("").state == "off")
            assert "closed by the relay" in spares.state("").reason
            await relay.accept()  # by its back-off, after half a second
            await until(lambda: spares.state("").state == "on")

    run(body())


def test_a_relay_that_cannot_be_reached_by_tcp_is_told_in_the_status(run: Run) -> None:
    async def body() -> None:
        async with playing() as (relay, spares):
            with socket.create_server(("127.0.0.1", 0)) as free:
                nowhere = Address(*free.getsockname())
            spares.follow(replace(relay.invitation(), address=nowhere), "on")
            await until(lambda: "connection refused" in spares.state("").reason)
            assert spares.state("").state == "off"

    run(body())


def test_another_session_has_spares_of_its_own(run: Run) -> None:
    async def body() -> None:
        async with playing() as (relay, spares):
            spares.follow(relay.invitation(), "on")
            before, _ = await relay.accept()
            spares.follow(relay.invitation(session=b"T" * 16), "on")
            await ended(before)
            while (await relay.accept())[1].session != b"T" * 16:
                pass

    run(body())


def test_the_mode_off_closes_what_waits(run: Run) -> None:
    async def body() -> None:
        async with playing() as (relay, spares):
            spares.follow(relay.invitation(), "on")
            sock, _ = await relay.accept()
            spares.follow(relay.invitation(), "off")
            await ended(sock)
            assert spares.state("") == DirectState("off", "set by the operator")

    run(body())


# -- through a real relay


def offering(folder: Path, *transports: str, **changes: Any) -> Any:
    """Return settings of a relay whose listener for clients takes these."""
    listeners = [listener("agents", transports=transports), listener("public")]
    return relay_settings(folder, listeners=listeners, **changes)


@asynccontextmanager
async def serving(settings: ClientSettings) -> AsyncIterator[tuple[Client, str]]:
    """Run a client; yield it with the name that it serves."""
    client = Client(settings)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(client.run())
        await until(lambda: bool(client.info()[0].urls) or running.done())
        yield client, client.info()[0].names[0]
        client.stop()


def state_of(client: Client) -> ServerState:
    return client.info()[0].servers[0]


async def spared(client: Client) -> None:
    """Wait until spares wait."""
    await until(lambda: state_of(client).direct.spares == FEWEST)


def through(stage: Stage) -> int:
    """Return how many visitors have come on direct connections."""
    assert stage.relay.view is not None
    return stage.relay.view.ways.direct.total


@pytest.mark.parametrize("certificate", ["self-signed", "passthrough"])
@pytest.mark.parametrize("transport", ["quic", "h2"])
def test_visitors_come_on_direct_connections(
    tmp_path: Path, run_on_each: Run, certificate: str, transport: str
) -> None:
    async def body() -> None:
        async with on_stage(offering(tmp_path, transport, "direct")) as stage:
            tls = serving_tls() if certificate == "passthrough" else None
            async with target(b"yes ", tls) as to:
                settings = settings_for(
                    stage,
                    tmp_path,
                    to,
                    direct="on",
                    server={"transport": transport},
                    endpoint={"certificate": certificate},
                )
                async with serving(settings) as (client, name):
                    await spared(client)
                    assert (await visit(stage, name)).answer == b"yes " + SAID
                    assert through(stage) == 1
                    direct = state_of(client).direct
                    assert (direct.state, direct.visitors) == ("on", 1)
                    await until(lambda: not client.info()[0].visitors.open)
                    visitors = client.info()[0].visitors
                    assert visitors.total == 1
                    assert visitors.received >= len(SAID)
                    assert visitors.sent >= len(b"yes " + SAID)

    run_on_each(body())


def serving_tls() -> ssl.SSLContext:
    """Return the TLS of a target that ends it itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("target.test").configure_cert(context)
    return context


def test_direct_is_whether_and_why(tmp_path: Path, run: Run) -> None:
    async def body() -> None:
        async with (
            on_stage(offering(tmp_path / "with", "h2", "direct")) as offered,
            on_stage(offering(tmp_path / "without", "h2")) as plain,
            target(b"yes ") as to,
        ):
            seen = {}
            for name, stage, mode in (
                ("on", offered, "on"),
                ("off", offered, "off"),
                ("plain", plain, "on"),
            ):
                settings = settings_for(stage, tmp_path / name, to, direct=mode)
                async with serving(settings) as (client, host):
                    if name == "on":
                        await spared(client)
                    assert (await visit(stage, host)).answer == b"yes " + SAID
                    direct = state_of(client).direct
                    seen[name] = (direct.state, direct.reason, through(stage))
            assert seen == {
                "on": ("on", "set by the operator", 1),
                "off": ("off", "set by the operator", 1),
                "plain": ("off", "not offered by the relay", 0),
            }

    run(body())


def test_auto_says_what_it_goes_by(tmp_path: Path, run: Run) -> None:
    async def body() -> None:
        async with (
            on_stage(offering(tmp_path, "h2", "direct")) as stage,
            target() as to,
            serving(settings_for(stage, tmp_path, to, direct="auto")) as (client, _),
        ):
            await spared(client)
            direct = state_of(client).direct
            assert direct.state == "on"
            assert direct.reason in ("TCP has BBR", "the path loses little")

    run(body())


def test_who_is_not_let_in_is_cut_and_the_target_hears_of_who_is(tmp_path: Path, run: Run) -> None:
    async def body() -> None:
        async with on_stage(offering(tmp_path, "h2", "direct")) as stage, target() as to:
            nobody = {"allow": (ip_network("192.0.2.0/24"),)}
            settings = settings_for(stage, tmp_path, to, direct="on", endpoint=nobody)
            async with serving(settings) as (client, name):
                await spared(client)
                assert await visit(stage, name) == Seen()
                await until(lambda: through(stage) == 2)  # then a stream says why
            telling = {"proxy_protocol": "v1"}
            settings = settings_for(stage, tmp_path, to, direct="on", endpoint=telling)
            async with serving(settings) as (client, name):
                await spared(client)
                answer = (await visit(stage, name)).answer
                assert answer is not None
                assert answer.startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 ")

    run(body())


def test_a_client_that_stops_lets_its_direct_visitors_finish(tmp_path: Path, run: Run) -> None:
    async def body() -> None:
        async with on_stage(offering(tmp_path, "h2", "direct")) as stage, target(b"yes ") as to:
            async with serving(settings_for(stage, tmp_path, to, direct="on")) as (client, name):
                await spared(client)
                where = stage.public
                reader, writer = await asyncio.open_connection(
                    where.host, where.port, ssl=anybody(), server_hostname=name
                )
                writer.write(SAID[:2])
                client.stop()
                assert stage.relay.view is not None
                spares = stage.relay.view.ways.spares
                await until(lambda: spares.total == 0)
                writer.write(SAID[2:])
                assert await reader.read() == b"yes " + SAID
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
            assert through(stage) == 1

    run(body())


def test_a_client_that_must_go_cuts_its_direct_visitors(tmp_path: Path, run: Run) -> None:
    async def body() -> None:
        async with on_stage(offering(tmp_path, "h2", "direct")) as stage, target() as to:
            settings = settings_for(stage, tmp_path, to, direct="on", drain_timeout=0.2)
            async with serving(settings) as (client, name):
                await spared(client)
                where = stage.public
                reader, writer = await asyncio.open_connection(
                    where.host, where.port, ssl=anybody(), server_hostname=name
                )
                client.stop()
                with suppress(OSError):
                    assert await reader.read() == b""
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

    run(body())
