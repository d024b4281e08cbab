"""Listeners, dials and pairs on loopback, for tests of what happens between them."""

import asyncio
import datetime
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from tunnel.stream import Address
from tunnel.tls.certificates import self_signed
from tunnel.tls.contexts import Trust
from tunnel.tls.slots import Certificate, CertificateSlot
from tunnel.transport.options import TransportOptions
from tunnel.transport.quic.connection import TunnelConnection
from tunnel.transport.quic.dialer import dial
from tunnel.transport.quic.listener import TunnelListener, listen

NAME = "relay.test"
LOOPBACK = Address("127.0.0.1", 0)


def certificate_for(*names: str) -> Certificate:
    return self_signed(names or [NAME], now=datetime.datetime.now(datetime.UTC))


CERTIFICATE = certificate_for()
TRUST = Trust(NAME, pin=CERTIFICATE.pin)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine with asyncio's own checks on; raises TimeoutError after 50 s."""

    async def bounded() -> None:
        async with asyncio.timeout(50):
            await main

    asyncio.run(bounded(), debug=True)


@asynccontextmanager
async def listening(
    options: TransportOptions | None = None,
    certificate: Certificate = CERTIFICATE,
    address: Address = LOOPBACK,
) -> AsyncIterator[TunnelListener]:
    """Listen; every connection that is left is closed at the end."""
    listener = await listen(address, CertificateSlot(certificate), options or TransportOptions())
    try:
        yield listener
    finally:
        await listener.close()
        for connection in list(listener._routes._ids):
            connection.close()


@asynccontextmanager
async def calling(
    listener: TunnelListener, trust: Trust = TRUST, options: TransportOptions | None = None
) -> AsyncIterator[TunnelConnection]:
    """Dial a listener; the connection is closed at the end."""
    connection = await dial(listener.address, trust, options or TransportOptions())
    try:
        yield connection
    finally:
        connection.close()


@asynccontextmanager
async def joined(
    relay_options: TransportOptions | None = None,
    client_options: TransportOptions | None = None,
) -> AsyncIterator[tuple[TunnelConnection, TunnelConnection]]:
    """Yield both ends of one connection: (relay side, client side)."""
    async with listening(relay_options) as listener:  # noqa: SIM117 - the order of closing shows
        async with calling(listener, options=client_options) as client:
            relay = await listener.accept()
            assert isinstance(relay, TunnelConnection)
            yield relay, client


@contextmanager
def deaf() -> Iterator[Address]:
    """Yield the address of a UDP socket that never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield Address(*sock.getsockname())
