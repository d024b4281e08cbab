"""A listener under load, attack and restart, on real sockets."""

import asyncio
import os
import socket

import pytest

from tests.unit.transport.loops import until
from tests.unit.transport.quic.places import (
    CERTIFICATE,
    calling,
    listening,
    run,
)
from tests.unit.transport.quic.test_doorkeeper import caller, first_datagram
from tunnel.stream import Address
from tunnel.tls.slots import CertificateSlot
from tunnel.transport.options import TransportOptions
from tunnel.transport.quic.connection import TunnelConnection
from tunnel.transport.quic.listener import TunnelListener, listen

KEY = b"r" * 32


def knock(listener: TunnelListener, times: int) -> None:
    """Send first packets of clients that say nothing more."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(times):
            sock.sendto(first_datagram(caller()), listener.address)


def test_clients_get_in_by_retry_while_many_handshakes_are_half_open() -> None:
    async def main() -> None:
        async with listening(TransportOptions(half_open=3)) as listener:
            knock(listener, 3)
            await until(lambda: len(listener._half_open) == 3)
            async with calling(listener) as client:
                assert client.engine._retry_count == 1

    run(main())


def test_half_open_handshakes_are_bounded_and_forgotten_in_time() -> None:
    async def main() -> None:
        options = TransportOptions(half_open=5, handshake_timeout=0.2)
        async with listening(options) as listener:
            knock(listener, 20)
            await until(lambda: len(listener._half_open) == 5)
            await until(lambda: not listener._half_open)
            assert len(listener._routes) == 0

    run(main())


def test_a_restarted_relay_ends_the_clients_connection_at_once() -> None:
    async def main() -> None:
        options = TransportOptions(reset_key=KEY)
        first = await listen(Address("127.0.0.1", 0), CertificateSlot(CERTIFICATE), options)
        async with calling(first) as client:
            relay = await first.accept()
            assert isinstance(relay, TunnelConnection)
            near, far = await relay.open_stream(), await client.accept_stream()
            address = first.address
            kill(first)
            async with listening(options, address=address):
                await far.send(b"x" * 1000)
                lost = await client.wait_closed()
                assert str(lost) == "the relay does not know this connection any more"
            del near

    run(main())


def kill(listener: TunnelListener) -> None:
    """Let a listener and its connections vanish without a word."""
    listener._endpoint.close()
    for connection in list(listener._routes._ids):
        connection._driver.stop()


def test_a_reset_with_the_wrong_key_changes_nothing() -> None:
    async def main() -> None:
        first = await listen(
            Address("127.0.0.1", 0), CertificateSlot(CERTIFICATE), TransportOptions(reset_key=KEY)
        )
        async with calling(first) as client:
            relay = await first.accept()
            near, far = await relay.open_stream(), await client.accept_stream()
            address = first.address
            kill(first)
            async with listening(address=address) as second:
                await far.send(b"x" * 1000)
                async with calling(second):
                    pass
                assert not client.is_closed
            del near

    run(main())


def test_a_client_behind_a_nat_that_changes_its_port_goes_on() -> None:
    async def main() -> None:
        async with listening() as listener, calling(listener) as client:
            relay = await listener.accept()
            near, far = await relay.open_stream(), await client.accept_stream()
            before = relay.peer
            rebind(client)
            await far.send(b"from elsewhere")
            assert await near.receive() == b"from elsewhere"
            await near.send(b"found you")
            assert await far.receive() == b"found you"
            assert relay.peer != before
            assert relay.peer.port == client._driver.endpoint.address.port

    run(main())


def rebind(client: TunnelConnection) -> None:
    """Give the client's socket another source port, as a NAT does."""
    old = client._driver.endpoint._socket
    target = old.getpeername()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as new:
        new.connect(target)
        loop = asyncio.get_running_loop()
        loop.remove_reader(old)
        os.dup2(new.fileno(), old.fileno())
        loop.add_reader(old, client._driver.endpoint._read)


def test_noise_disturbs_nobody() -> None:
    async def main() -> None:
        async with listening() as listener:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                for size in (0, 1, 20, 1200, 1500):
                    sock.sendto(b"\xff" * size, listener.address)
                    sock.sendto(b"\x40" * size, listener.address)
            async with calling(listener):
                assert len(listener._routes) == 1

    run(main())


@pytest.mark.parametrize("text", ["<quic listener on 127.0.0.1:"])
def test_a_listener_shows_where_it_listens(text: str) -> None:
    async def main() -> None:
        async with listening() as listener:
            assert repr(listener).startswith(text)

    run(main())
