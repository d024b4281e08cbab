"""A relay's and a client's end of one QUIC connection over UDP on loopback."""

import asyncio
import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from tests.variants import ASKED, Engines
from tunnel.errors import Code
from tunnel.stream import Address, Connection
from tunnel.tls.certificates import self_signed
from tunnel.tls.contexts import Trust
from tunnel.tls.slots import CertificateSlot
from tunnel.transport.options import TransportOptions
from tunnel.transport.quic.dialer import dial
from tunnel.transport.quic.listener import listen

RELAY_NAME = "relay.test"


def with_engine(options: TransportOptions | None, engine: str | None) -> TransportOptions:
    """Return options that ask for an engine; None leaves it to the default."""
    options = options or TransportOptions()
    return replace(options, quic=replace(options.quic, engine=engine or options.quic.engine))


@asynccontextmanager
async def quic_pair(
    options_relay: TransportOptions | None = None,
    options_client: TransportOptions | None = None,
    engines: Engines = ASKED.engines,
) -> AsyncIterator[tuple[Connection, Connection]]:
    """Yield (relay side, client side), both verified; both are closed afterwards."""
    certificate = self_signed([RELAY_NAME], now=datetime.datetime.now(datetime.UTC))
    listener = await listen(
        Address("127.0.0.1", 0),
        CertificateSlot(certificate),
        with_engine(options_relay, engines.relay),
    )
    trust = Trust(RELAY_NAME, pin=certificate.pin)
    client = await dial(listener.address, trust, with_engine(options_client, engines.client))
    try:
        async with asyncio.timeout(20):
            relay = await listener.accept()
        yield relay, client
    finally:
        client.close(Code.OK)
        relay.close(Code.OK)
        await listener.close()
