"""Bringing a connection up, and saying why it does not come up."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest

from tests.unit.transport.loops import on_both_loops, run_on
from tunnel.errors import Code, ConnectionLost, DialFailed
from tunnel.stream import Address, Binding
from tunnel.tls.certificates import self_signed
from tunnel.tls.contexts import Trust, dial_context
from tunnel.tls.slots import Certificate, CertificateSlot
from tunnel.transport.accepting import TcpListener
from tunnel.transport.http2.connection import ClientConnection, RelayConnection
from tunnel.transport.http2.dialer import dial
from tunnel.transport.http2.listener import accept
from tunnel.transport.options import ALPN_HTTP2, TransportOptions

OPTIONS = TransportOptions()
HASTY = TransportOptions(handshake_timeout=0.1)


@cache
def certificate() -> Certificate:
    return self_signed(["relay.test"], now=datetime.now(UTC))


async def outcome(attempt: Awaitable[object]) -> object:
    """Return what the attempt gives, or the error it raises."""
    try:
        return await attempt
    except (ConnectionLost, DialFailed) as error:
        return error


async def meet(trust: Trust, slot: CertificateSlot | None = None) -> tuple[object, object]:
    """Let a relay and a client meet; return what became of either."""
    listener = TcpListener(Address("127.0.0.1", 0))
    async with asyncio.TaskGroup() as group:
        dialling = group.create_task(outcome(dial(listener.address, trust, OPTIONS, None)))
        sock = await listener.accept()
        relay = await outcome(accept(sock, slot or CertificateSlot(certificate()), OPTIONS))
        await outcome(asyncio.shield(dialling))
    listener.close()
    return relay, dialling.result()


async def part(*ends: object) -> None:
    for end in ends:
        assert isinstance(end, RelayConnection | ClientConnection)
        end.close()
        await end.wait_closed()


@on_both_loops
def test_both_ends_are_bound_to_the_leaf_of_the_handshake(loop: str) -> None:
    async def body() -> None:
        relay, client = await meet(Trust("relay.test", pin=certificate().pin))
        assert isinstance(relay, RelayConnection)
        assert isinstance(client, ClientConnection)
        assert relay.binding == client.binding == Binding("h2", certificate().leaf_hash)
        assert client.peer.host == relay.peer.host == "127.0.0.1"
        await part(relay, client)

    run_on(loop, body())


@on_both_loops
def test_a_certificate_of_the_own_ca_is_accepted_by_name(loop: str, tmp_path: Path) -> None:
    async def body() -> None:
        root = tmp_path / "ca.pem"
        root.write_bytes(certificate().chain_pem)
        await part(*await meet(Trust("relay.test", ca=root)))

    run_on(loop, body())


@on_both_loops
def test_why_a_certificate_is_not_accepted_is_said(loop: str, tmp_path: Path) -> None:
    async def body() -> None:
        root = tmp_path / "ca.pem"
        root.write_bytes(certificate().chain_pem)
        _, refused = await meet(Trust("other.test", ca=root))
        assert isinstance(refused, DialFailed)
        assert "certificate not accepted: " in str(refused)
        assert "other.test" in str(refused)

    run_on(loop, body())


@on_both_loops
def test_another_pin_is_refused_with_both_named(loop: str) -> None:
    async def body() -> None:
        relay, refused = await meet(Trust("relay.test", pin=bytes(32)))
        assert isinstance(refused, DialFailed)
        assert bytes(32).hex() in str(refused)
        assert certificate().pin.hex() in str(refused)
        if isinstance(relay, RelayConnection):
            await relay.wait_closed()

    run_on(loop, body())


@on_both_loops
def test_a_connection_keeps_the_certificate_it_began_with(loop: str) -> None:
    async def body() -> None:
        slot = CertificateSlot(certificate())
        relay, client = await meet(Trust("relay.test", insecure=True), slot)
        slot.swap(self_signed(["relay.test"], now=datetime.now(UTC)))
        second_relay, second_client = await meet(Trust("relay.test", insecure=True), slot)
        assert isinstance(relay, RelayConnection)
        assert isinstance(second_client, ClientConnection)
        assert relay.binding.leaf_hash == certificate().leaf_hash
        assert second_client.binding.leaf_hash == slot.current.leaf_hash
        await part(relay, client, second_relay, second_client)

    run_on(loop, body())


@on_both_loops
def test_a_client_that_says_nothing_is_given_up(loop: str) -> None:
    async def body() -> None:
        listener = TcpListener(Address("127.0.0.1", 0))
        with socket.create_connection(listener.address) as silent:
            with pytest.raises(ConnectionLost, match=r"within 0\.1 s") as lost:
                await accept(await listener.accept(), CertificateSlot(certificate()), HASTY)
            assert lost.value.code is Code.TIMEOUT
            assert await asyncio.to_thread(silent.recv, 1) == b""
        listener.close()

    run_on(loop, body())


@on_both_loops
def test_a_relay_that_says_nothing_is_given_up(loop: str) -> None:
    async def body() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = Address(*silent.getsockname())
            with pytest.raises(DialFailed, match=rf"{address}: handshake not .* 0\.1 s"):
                await dial(address, Trust("relay.test", insecure=True), HASTY, None)

    run_on(loop, body())


@on_both_loops
def test_a_relay_that_is_not_there_is_refused_by_name(loop: str) -> None:
    async def body() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            address = Address(*unused.getsockname())
            with pytest.raises(DialFailed, match=f"{address}: connection refused"):
                await dial(address, Trust("relay.test", insecure=True), OPTIONS, None)

    run_on(loop, body())


@on_both_loops
def test_what_is_no_tls_is_refused(loop: str) -> None:
    async def body() -> None:
        listener = TcpListener(Address("127.0.0.1", 0))
        with socket.create_connection(listener.address) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with pytest.raises(ConnectionLost, match="handshake failed: http request"):
                await accept(await listener.accept(), CertificateSlot(certificate()), OPTIONS)
        listener.close()

    run_on(loop, body())


@on_both_loops
@pytest.mark.parametrize("alpn", [(), ("http/1.1",), ("h2",)])
def test_tls_without_our_alpn_is_refused(loop: str, alpn: tuple[str, ...]) -> None:
    async def body() -> None:
        listener = TcpListener(Address("127.0.0.1", 0))
        context = dial_context(Trust("relay.test", insecure=True), alpn)

        def knock() -> bytes:
            plain = socket.create_connection(listener.address)
            try:
                with context.wrap_socket(plain, server_hostname="relay.test") as tls:
                    return tls.recv(100)
            except (ssl.SSLError, ConnectionError):
                return b""

        async with asyncio.TaskGroup() as group:
            knocking = group.create_task(asyncio.to_thread(knock))
            with pytest.raises(ConnectionLost):
                await accept(await listener.accept(), CertificateSlot(certificate()), OPTIONS)
            assert await knocking == b""
        listener.close()

    run_on(loop, body())


@on_both_loops
def test_a_cancelled_handshake_leaves_no_socket(loop: str) -> None:
    async def body() -> None:
        listener = TcpListener(Address("127.0.0.1", 0))
        with socket.create_connection(listener.address) as silent:
            sock = await listener.accept()
            async with asyncio.TaskGroup() as group:
                slot = CertificateSlot(certificate())
                accepting = group.create_task(accept(sock, slot, OPTIONS))
                for _ in range(5):
                    await asyncio.sleep(0)
                accepting.cancel()
            assert await asyncio.to_thread(silent.recv, 1) == b""
        listener.close()

    run_on(loop, body())


def test_the_alpn_is_what_the_protocol_says() -> None:
    assert ALPN_HTTP2 == "tunnel-h2/1"
