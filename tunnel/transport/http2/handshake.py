"""What both ends do to bring a connection up: deadline, TLS on a socket, and errors in words."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tunnel.errors import Code, ConnectionLost
from tunnel.transport.http2.connection import Http2Connection
from tunnel.transport.options import TransportOptions
from tunnel.transport.tcp import TCP_NOTSENT_LOWAT, reason_of, tune

UNSENT_MAX_BYTES = 128 * 1024  # of all streams of the connection together
SHUTDOWN_TIMEOUT = 1.0  # for the peer's close_notify


def tune_for_control(sock: socket.socket) -> None:
    """Keep the kernel from queueing seconds of stream bytes ahead of the control stream's."""
    tune(sock)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_MAX_BYTES)


def tls_timeouts(options: TransportOptions) -> Mapping[str, Any]:
    """Return the loop's arguments; its handshake deadline comes after ours, which says more."""
    return {
        "ssl_handshake_timeout": options.handshake_timeout + 1,
        "ssl_shutdown_timeout": SHUTDOWN_TIMEOUT,
    }


@asynccontextmanager
async def bringing_up(
    sock: socket.socket, connection: Http2Connection, options: TransportOptions
) -> AsyncIterator[None]:
    """Bring a connection up in here: in time, or the socket is closed and ConnectionLost raised."""
    try:
        async with asyncio.timeout(options.handshake_timeout):
            yield
    except BaseException as error:
        connection.drop()
        sock.close()
        if isinstance(error, TimeoutError):
            text = f"handshake not complete within {options.handshake_timeout:g} s"
            raise ConnectionLost(text, Code.TIMEOUT) from error
        if isinstance(error, OSError):
            raise ConnectionLost(f"handshake failed: {tls_reason_of(error)}") from error
        raise


def tls_reason_of(error: OSError) -> str:
    """Return what went wrong in a few words, for an operator to read."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return str(error.reason or error).lower().replace("_", " ")
    return reason_of(error)
