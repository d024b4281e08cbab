"""The client's side of a new TCP connection: directly or through a proxy, TLS, then HTTP/2."""

import asyncio
import hashlib

from tunnel.errors import ConnectionLost, DialFailed
from tunnel.stream import Address, Binding
from tunnel.tls.contexts import Trust, check_pin, dial_context
from tunnel.transport.dialling import connect_socket
from tunnel.transport.http2.connection import ClientConnection
from tunnel.transport.http2.handshake import bringing_up, tls_timeouts, tune_for_control
from tunnel.transport.options import ALPN_HTTP2, TransportOptions
from tunnel.transport.proxy import Proxy, connect_through


async def dial(
    address: Address, trust: Trust, options: TransportOptions, proxy: str | None
) -> ClientConnection:
    """Connect to one resolved address, or through a proxy to any, and verify the relay.

    `options.handshake_timeout` holds for TCP and the proxy together, then again for TLS. Raises
    DialFailed, SettingsError if the trusted roots cannot be used. Cancel-safe.
    """
    context = dial_context(trust, (ALPN_HTTP2,))
    connection = ClientConnection(options)
    if proxy is None:
        sock = await connect_socket(address, options.handshake_timeout)
    else:
        sock = await connect_through(Proxy.parse(proxy), address, options.handshake_timeout)
    try:
        async with bringing_up(sock, connection, options):
            tune_for_control(sock)
            await asyncio.get_running_loop().create_connection(
                lambda: connection,
                sock=sock,
                ssl=context,
                server_hostname=trust.server_name,
                **tls_timeouts(options),
            )
            leaf = connection.tls.getpeercert(binary_form=True) or b""
            check_pin(trust, leaf)
            connection.binding = Binding("h2", hashlib.sha256(leaf).digest(), leaf)
            await connection.settled()
    except ConnectionLost as lost:
        raise DialFailed(f"cannot connect to {address}: {lost}") from lost
    return connection
