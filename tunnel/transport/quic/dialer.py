"""Dialling a relay over QUIC."""

import asyncio
import hashlib
import socket
import time
from collections.abc import Sequence

from cryptography.hazmat.primitives.serialization import Encoding

from tunnel.errors import ConnectionLost, DialFailed
from tunnel.stream import Address, Binding
from tunnel.tls.contexts import Trust, check_pin
from tunnel.transport.options import ALPN_QUIC, TransportOptions
from tunnel.transport.quic.configuration import client_configuration, engine_kind
from tunnel.transport.quic.connection import TunnelConnection
from tunnel.transport.quic.endings import failed_by
from tunnel.transport.quic.endpoint import Endpoint, enlarge_buffers
from tunnel.transport.quic.trains import Burst
from tunnel.transport.quic.verification import RelayVerifier


async def dial(address: Address, trust: Trust, options: TransportOptions) -> TunnelConnection:
    """Return a connection to a relay that has been verified as `trust` says.

    Cancel-safe. Raises DialFailed, SettingsError if the trusted roots cannot be used.
    """
    verifier = RelayVerifier(trust)
    call = Dial(await _connected_socket(address), trust, verifier, options)
    try:
        async with asyncio.timeout(options.handshake_timeout):
            await call.completed
    except TimeoutError as error:
        call.give_up()
        seconds = f"{options.handshake_timeout:g} s"
        raise DialFailed(f"no answer from {address} by UDP within {seconds}") from error
    except BaseException:
        call.give_up()
        raise
    return call.connection


class Dial:
    """One attempt, and after it the owner of the connection's socket."""

    def __init__(
        self,
        sock: socket.socket,
        trust: Trust,
        verifier: RelayVerifier,
        options: TransportOptions,
    ) -> None:
        engine = engine_kind(options)(client_configuration(trust, options))
        self._trust = trust
        self._verifier = verifier
        self._endpoint = Endpoint(sock, self._receive, self._network_failed)
        self.connection = TunnelConnection(engine, self._endpoint, self, options)
        self.completed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        engine.connect(sock.getpeername(), time.monotonic())
        self.connection.schedule_flush()

    def give_up(self) -> None:
        """End the attempt, telling the relay if it has answered."""
        self.connection.close()

    def established(self, connection: TunnelConnection, alpn: str | None) -> None:
        certificate, *others = connection.engine.peer_chain
        leaf = certificate.public_bytes(Encoding.DER)
        try:
            check_alpn(alpn)
            self._verifier.verify(certificate, others)
            check_pin(self._trust, leaf)
        except DialFailed as error:
            self._fail(error)
            connection.engine.refuse(str(error))
            return
        connection.binding = Binding("quic", hashlib.sha256(leaf).digest(), leaf)
        if not self.completed.done():
            self.completed.set_result(None)

    def add_route(self, connection_id: bytes, connection: TunnelConnection) -> None:
        pass  # the socket is the connection's own: nothing is to be told apart

    def remove_route(self, connection_id: bytes) -> None:
        pass

    def release(self, connection: TunnelConnection) -> None:
        self._endpoint.close()
        ending = connection.engine.termination
        self._fail(failed_by(ending) if ending else DialFailed("given up"))

    def _receive(self, bursts: Sequence[Burst]) -> None:
        engine = self.connection.engine
        before = engine.decrypted
        self.connection.hear(bursts)
        if engine.decrypted != before:
            return
        if any(engine.is_reset(payload) for payloads, _ in bursts for payload in payloads):
            self.connection.end(ConnectionLost("the relay does not know this connection any more"))

    def _network_failed(self, error: OSError) -> None:
        """Fail the attempt; an established connection is left to the heartbeat to judge."""
        reason = "refused" if isinstance(error, ConnectionRefusedError) else error.strerror
        failure = DialFailed(f"{self.connection.peer} by UDP: {reason}")
        failure.__cause__ = error
        self._fail(failure)

    def _fail(self, error: DialFailed) -> None:
        if not self.completed.done():
            self.completed.set_exception(error)


def check_alpn(alpn: str | None) -> None:
    """Raise DialFailed if the handshake has not settled on our protocol."""
    if alpn != ALPN_QUIC:
        raise DialFailed(f"the far end speaks {alpn!r}, not {ALPN_QUIC!r}")


async def _connected_socket(address: Address) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, target = found[0]
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
    except OSError as error:
        raise DialFailed(f"{address} by UDP: {error.strerror}") from error
    try:
        enlarge_buffers(sock)
        sock.connect(target)  # UDP: only sets the address, and lets the network's errors be heard
    except OSError as error:
        sock.close()
        raise DialFailed(f"{address} by UDP: {error.strerror}") from error
    return sock
