"""The relay's side of a new TCP connection: TLS, then HTTP/2 with the roles reversed."""

import asyncio
import socket

from tunnel.stream import Address, Binding
from tunnel.tls.contexts import agents_server_context
from tunnel.tls.slots import CertificateSlot
from tunnel.transport.http2.connection import RelayConnection
from tunnel.transport.http2.handshake import bringing_up, tls_timeouts, tune_for_control
from tunnel.transport.options import ALPN_HTTP2, TransportOptions


async def accept(
    sock: socket.socket,
    slot: CertificateSlot,
    options: TransportOptions,
    reported_peer: Address | None = None,
) -> RelayConnection:
    """Return the connection on an accepted socket whose ClientHello is still unread.

    `reported_peer` is whom a balancer in between speaks for. Takes the socket over, also when it
    raises. Raises ConnectionLost. Cancel-safe.
    """
    certificate = slot.current  # once: the slot may be swapped during the handshake
    connection = RelayConnection(options)
    connection.reported_peer = reported_peer
    connection.binding = Binding("h2", certificate.leaf_hash)
    async with bringing_up(sock, connection, options):
        tune_for_control(sock)
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: connection,
            sock,
            ssl=agents_server_context(certificate, (ALPN_HTTP2,)),
            **tls_timeouts(options),
        )
        await connection.settled()
    return connection
