"""A relay and a client joined over HTTP/2 on a loopback socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache

from tunnel.stream import Address, Connection
from tunnel.tls.certificates import self_signed
from tunnel.tls.contexts import Trust
from tunnel.tls.slots import CertificateSlot
from tunnel.transport.accepting import TcpListener
from tunnel.transport.http2.dialer import dial
from tunnel.transport.http2.listener import accept
from tunnel.transport.options import TransportOptions


@cache
def slot() -> CertificateSlot:
    """Return the slot of a certificate made once per test run."""
    return CertificateSlot(self_signed(["localhost"], now=datetime.now(UTC)))


@asynccontextmanager
async def http2_pair(
    options_relay: TransportOptions | None = None, options_client: TransportOptions | None = None
) -> AsyncIterator[tuple[Connection, Connection]]:
    """Join a relay's and a client's end; both are closed at the end."""
    listener = TcpListener(Address("127.0.0.1", 0))
    trust = Trust("localhost", pin=slot().current.pin)
    async with asyncio.TaskGroup() as group:
        dialling = group.create_task(
            dial(listener.address, trust, options_client or TransportOptions(), None)
        )
        relay = await accept(await listener.accept(), slot(), options_relay or TransportOptions())
    listener.close()
    client = dialling.result()
    try:
        yield relay, client
    finally:
        relay.close()
        client.close()
        await relay.wait_closed()
        await client.wait_closed()
