"""What both ends do to bring a connection up: deadline, TLS on a socket, and errors in words."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from tunnel.errors import Code, ConnectionLost
from tunnel.log import get_log
from tunnel.transport.http2.connection import Http2Connection
from tunnel.transport.options import TransportOptions
from tunnel.transport.tcp import TCP_NOTSENT_LOWAT, reason_of, tune

log = get_log(__name__)

CONGESTION = "bbr"
UNSENT_MAX_BYTES = 128 * 1024  # of all streams of the connection together
SHUTDOWN_TIMEOUT = 1.0  # for the peer's close_notify


def tune_for_control(sock: socket.socket) -> None:
    """Keep the kernel from queueing seconds of stream bytes ahead of the control stream's.

    And have it send at the rate at which the path delivers: what is lost on the way would halve
    the rate of all streams at once.
    """
    tune(sock)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_MAX_BYTES)
    log.debug("congestion control was chosen", congestion=ask_for_congestion(sock, CONGESTION))


def ask_for_congestion(sock: socket.socket, name: str) -> str:
    """Ask for a TCP congestion control; return the one in force: the system's if it is refused."""
    with suppress(OSError):  # ENOENT: the kernel has no such, EPERM: it is not for everybody
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


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
