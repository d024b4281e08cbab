"""Listening for clients over QUIC: one socket, many connections."""

import asyncio
import os
import socket
import time
from collections.abc import Sequence

from aioquic.quic.configuration import QuicConfiguration

from tunnel.errors import Code, ConnectionLost
from tunnel.stream import Address, Binding, Connection
from tunnel.tls.slots import Certificate, CertificateSlot
from tunnel.transport.options import ALPN_QUIC, TransportOptions
from tunnel.transport.quic.configuration import engine_kind, relay_configuration
from tunnel.transport.quic.connection import TunnelConnection
from tunnel.transport.quic.doorkeeper import Admission, Doorkeeper, by_destination, destination_of
from tunnel.transport.quic.endpoint import Endpoint, enlarge_buffers
from tunnel.transport.quic.routes import Routes
from tunnel.transport.quic.trains import Burst
from tunnel.transport.waiting import Queue


async def listen(
    place: Address | socket.socket, slot: CertificateSlot, options: TransportOptions
) -> "TunnelListener":
    """Listen on a UDP address (raises OSError if it cannot be bound), or on a bound socket."""
    sock = place if isinstance(place, socket.socket) else await _bound_socket(place)
    enlarge_buffers(sock)
    return TunnelListener(sock, slot, options)


class TunnelListener:
    """Implements tunnel.stream.Listener; owns the socket of all its connections.

    A connection is half open from its first datagram until it is accepted.
    """

    def __init__(
        self, sock: socket.socket, slot: CertificateSlot, options: TransportOptions
    ) -> None:
        self._slot = slot
        self._options = options
        self._reset_key = options.reset_key or os.urandom(32)
        self._endpoint = Endpoint(sock, self._receive)
        self._doorkeeper = Doorkeeper(
            self._reset_key, options.half_open, time.monotonic(), options.share
        )
        self._routes = Routes()
        self._half_open: dict[TunnelConnection, asyncio.TimerHandle] = {}
        self._complete: Queue[TunnelConnection] = Queue()
        self._is_closed = False
        self._configured: tuple[Certificate, QuicConfiguration] | None = None

    def __repr__(self) -> str:
        return f"<quic listener on {self.address} {len(self._routes)} connections>"

    @property
    def address(self) -> Address:
        return self._endpoint.address

    async def accept(self) -> Connection:
        while (connection := await self._complete.get()).is_closed:
            pass  # it came and went
        self._half_open.pop(connection)
        return connection

    async def close(self) -> None:
        self._is_closed = True
        for connection in list(self._half_open):
            connection.close(Code.DRAINING)
        self._complete.close(ConnectionLost("the listener is closed", Code.OK))
        self._close_if_unused()

    def reconfigure(self, options: TransportOptions) -> None:
        """Let connections that begin from now on keep to other options; `reset_key` stays."""
        self._options = options
        self._doorkeeper.half_open = options.half_open
        self._configured = None

    # For the connections

    def established(self, connection: TunnelConnection, alpn: str | None) -> None:
        self._half_open[connection].cancel()
        if alpn == ALPN_QUIC:
            self._complete.put(connection)
        else:
            connection.close(Code.VERSION, f"this relay speaks {ALPN_QUIC}")

    def add_route(self, connection_id: bytes, connection: TunnelConnection) -> None:
        self._routes.add(connection_id, connection)

    def remove_route(self, connection_id: bytes) -> None:
        self._routes.remove(connection_id)

    def release(self, connection: TunnelConnection) -> None:
        deadline = self._half_open.pop(connection, None)
        if deadline is not None:
            deadline.cancel()
        self._routes.drop(connection)
        self._close_if_unused()

    # Datagrams

    def _receive(self, bursts: Sequence[Burst]) -> None:
        parts: dict[TunnelConnection, list[Burst]] = {}
        for payloads, source in bursts:
            for destination, part in by_destination(payloads):
                connection = self._routes.find(destination)
                if connection is not None:
                    parts.setdefault(connection, []).append((part, source))
                else:
                    self._judge_all(part, source, parts)
        for connection, heard in parts.items():
            connection.hear(heard)

    def _judge_all(
        self,
        payloads: Sequence[bytes],
        source: tuple[str, int],
        parts: dict[TunnelConnection, list[Burst]],
    ) -> None:
        """Decide on datagrams to an unknown destination; the first may make it a known one."""
        for payload in payloads:
            connection = self._routes.find(destination_of(payload)) or self._judge(payload, source)
            if connection is not None:
                parts.setdefault(connection, []).append(([payload], source))

    def _judge(self, payload: bytes, source: tuple[str, int]) -> TunnelConnection | None:
        now = time.monotonic()
        verdict = self._doorkeeper.judge(payload, source, len(self._half_open), now)
        if isinstance(verdict, Admission) and not self._is_closed:
            return self._begin(verdict, destination_of(payload))
        if isinstance(verdict, bytes):
            self._endpoint.send([([verdict], source)])
        return None

    def _begin(self, admission: Admission, client_chosen: bytes) -> TunnelConnection:
        certificate = self._slot.current
        engine = engine_kind(self._options)(
            self._configuration(certificate),
            self._reset_key,
            admission.original_id,
            admission.retry_id,
            self._options.share,
        )
        connection = TunnelConnection(engine, self._endpoint, self, self._options)
        connection.binding = Binding("quic", certificate.leaf_hash)
        for connection_id in (client_chosen, engine.host_cid):
            self._routes.add(connection_id, connection)
        self._half_open[connection] = asyncio.get_running_loop().call_later(
            self._options.handshake_timeout, self._expire, connection
        )
        return connection

    def _configuration(self, certificate: Certificate) -> QuicConfiguration:
        """Return the one configuration of a certificate: it is what a handshake is bound to."""
        if self._configured is None or self._configured[0] is not certificate:
            self._configured = (certificate, relay_configuration(certificate, self._options))
        return self._configured[1]

    def _expire(self, connection: TunnelConnection) -> None:
        """Forget a handshake without a word: its address was perhaps spoofed."""
        connection.end(ConnectionLost("the handshake took too long", Code.TIMEOUT))

    def _close_if_unused(self) -> None:
        if self._is_closed and not len(self._routes):
            self._endpoint.close()


async def _bound_socket(address: Address) -> socket.socket:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(
        address.host, address.port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
    )
    family, kind, protocol, _, target = found[0]
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(target)
    except OSError:
        sock.close()
        raise
    return sock
