"""Dialling and listening by a transport's name: the one place above which no transport is known.

The engines are imported when first used, so that a process that never speaks QUIC never loads it.
"""

import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping

from tunnel.stream import Address, Connection, Listener
from tunnel.tls.contexts import Trust
from tunnel.tls.slots import CertificateSlot
from tunnel.transport.options import TransportOptions

_OVER_DATAGRAMS = frozenset({"quic"})

Dialer = Callable[[Address, Trust, TransportOptions, str | None], Awaitable[Connection]]


def takes_datagrams(transports: Iterable[str]) -> bool:
    """Say whether any of the transports comes in datagrams, and needs a UDP address."""
    return not _OVER_DATAGRAMS.isdisjoint(transports)


def takes_handshakes(transports: Iterable[str]) -> bool:
    """Say whether clients register over TCP: those that say so in their ClientHello."""
    return "h2" in transports


def takes_direct(transports: Iterable[str]) -> bool:
    """Say whether spare direct connections are welcome."""
    return "direct" in transports


async def listen_datagrams(
    place: Address | socket.socket, slot: CertificateSlot, options: TransportOptions
) -> Listener:
    """Listen for clients on a UDP address, or on a socket that is bound to one and taken over.

    Raises OSError if the address cannot be bound.
    """
    from tunnel.transport.quic.listener import listen  # noqa: PLC0415 - loaded when first used

    return await listen(place, slot, options)


def bind_datagrams(address: Address, count: int) -> list[socket.socket]:
    """Return a socket for each of so many processes that listen on one UDP address.

    Raises OSError.
    """
    from tunnel.transport.quic.steering import bind_group  # noqa: PLC0415 - loaded when first used

    return bind_group(address, count)


def reconfigure(listener: Listener, options: TransportOptions) -> None:
    """Let connections that begin from now on keep to other options; `reset_key` stays."""
    from tunnel.transport.quic.listener import TunnelListener  # noqa: PLC0415 - loaded when used

    if isinstance(listener, TunnelListener):
        listener.reconfigure(options)


async def accept_socket(
    sock: socket.socket,
    slot: CertificateSlot,
    options: TransportOptions,
    reported_peer: Address | None = None,
) -> Connection:
    """Return the connection on an accepted TCP socket whose ClientHello is still unread.

    Its `peer` is `reported_peer`, whom a balancer speaks for, if there is one. Takes the socket
    over, also when it raises. Raises ConnectionLost or RemoteProtocolError.
    """
    from tunnel.transport.http2.listener import accept  # noqa: PLC0415 - loaded when first used

    return await accept(sock, slot, options, reported_peer)


async def _dial_quic(
    address: Address, trust: Trust, options: TransportOptions, _proxy: str | None
) -> Connection:
    from tunnel.transport.quic.dialer import dial  # noqa: PLC0415 - loaded when first used

    return await dial(address, trust, options)


async def _dial_http2(
    address: Address, trust: Trust, options: TransportOptions, proxy: str | None
) -> Connection:
    from tunnel.transport.http2.dialer import dial  # noqa: PLC0415 - loaded when first used

    return await dial(address, trust, options, proxy)


DIALERS: Mapping[str, Dialer] = {"quic": _dial_quic, "h2": _dial_http2}
"""Transport word to dialer: `dial(address, trust, options, proxy)` connects to one address.

It returns once TLS has succeeded and the relay has been verified. Raises DialFailed, SettingsError
if the trusted roots cannot be used. Cancel-safe.
"""
