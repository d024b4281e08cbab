"""Who has come to a TCP port: PROXY header and ClientHello, read before anything is decided."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Protocol

from tunnel.errors import Code, ConnectionLost, Refused, RemoteProtocolError
from tunnel.log import get_log
from tunnel.protocol.direct import PRELUDE_BYTES, Prelude, is_prelude, parse_prelude
from tunnel.protocol.hello import (
    MAX_HELLO_BYTES,
    Arrival,
    ClientHello,
    HelloReader,
    HelloRefused,
    sort,
)
from tunnel.protocol.proxy import V2_MAX_BYTES, ProxyHeader, parse_proxy_header
from tunnel.settings.values import ListenerSettings
from tunnel.stream import Address
from tunnel.transport.accepting import TcpListener
from tunnel.transport.direct.poller import ENDING, Poller
from tunnel.transport.doors import takes_direct, takes_handshakes
from tunnel.transport.tcp import address_of

log = get_log(__name__)

Beginning = ClientHello | Prelude


@dataclass(frozen=True, slots=True)
class Caller:
    """The two ends of a connection, as a trusted balancer reports them if there is one."""

    peer: Address
    local: Address


@dataclass(frozen=True, slots=True)
class Guest:
    """Who has come, from where, and what it wants; the ClientHello is still unread."""

    kind: Arrival
    caller: Caller
    hello: ClientHello


@dataclass(frozen=True, slots=True)
class Offered:
    """A spare direct connection that somebody offers; its prelude was read, and not yet checked."""

    prelude: Prelude


class Door:
    """Where somebody comes in, and what that says of them."""

    __slots__ = ("accepts_agents", "accepts_spares", "balancers", "listener", "local", "settings")

    def __init__(self, listener: TcpListener, settings: ListenerSettings) -> None:
        is_for_clients = settings.kind != "public"
        local = listener.address
        self.listener = listener
        self.settings = settings
        self.accepts_agents = is_for_clients and takes_handshakes(settings.transports)
        self.accepts_spares = is_for_clients and takes_direct(settings.transports)
        self.balancers = settings.proxy_protocol_from
        # The near end of all its connections, None where each has to be asked.
        self.local = None if ip_address(local.host).is_unspecified else local


class Host(Protocol):
    """Whoever greets somebody: told once who has come, or why nobody has."""

    def admit(self, address: Address) -> None:
        """Judge the caller's address before its first bytes are waited for; may raise Refused."""

    def met(self, guest: Guest | Offered) -> None:
        """Somebody has come: the socket is the host's, and unread but for a PROXY header."""

    def failed(self, error: Exception) -> None:
        """Nobody has; the socket is the host's, to be closed.

        HelloRefused has the answer to give. Others are RemoteProtocolError for a bad PROXY header,
        ConnectionLost, Refused, OSError.
        """


class Greeting:
    """Finds out who has connected, without a task. Its socket may be watched when it is over."""

    __slots__ = (
        "_door",
        "_events",
        "_host",
        "_limit",
        "_local",
        "_parse",
        "_peer",
        "_poller",
        "_seen",
        "_sock",
        "_then",
        "_timeout",
        "_timer",
    )

    def __init__(
        self, poller: Poller, sock: socket.socket, peer: Address, door: Door, host: Host
    ) -> None:
        self._poller = poller
        self._sock = sock
        self._peer = peer
        self._local = door.local
        self._door = door
        self._host = host
        self._seen = 0
        self._events = 0  # all that there were
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, timeout: float) -> None:
        """Begin; all of it takes `timeout` seconds at most."""
        self._timeout = timeout
        if self._is_balancer():
            self._expect(parse_proxy_header, V2_MAX_BYTES, self._introduce)
        else:
            self._welcome()

    def stop(self) -> None:
        """Forget about it: nothing is told any more."""
        if self._timer is not None:
            self._timer.cancel()

    # -- one step after the other

    def _is_balancer(self) -> bool:
        """Say whether a PROXY header is required from this peer."""
        if not self._door.balancers:
            return False
        address = ip_address(self._peer.host)
        return any(address in network for network in self._door.balancers)

    def _introduce(self, header: ProxyHeader) -> None:
        self._sock.recv(header.size)
        if header.source is not None and header.destination is not None:
            self._peer, self._local = Address(*header.source), Address(*header.destination)
        self._welcome()  # if there is none, by the balancer itself, to see if we are well

    def _welcome(self) -> None:
        try:
            self._host.admit(self._peer)
        except Refused as error:
            self._fail(error)
            return
        read = HelloReader().receive_beginning
        is_spare = self._door.accepts_spares
        self._expect(_reader(read) if is_spare else read, MAX_HELLO_BYTES, self._sort)

    def _sort(self, beginning: Beginning) -> None:
        self.stop()
        if isinstance(beginning, Prelude):
            self._sock.recv(PRELUDE_BYTES)
            self._host.met(Offered(beginning))
            return
        try:
            kind = sort(beginning, accepts_agents=self._door.accepts_agents)
            local = self._local or address_of(self._sock.getsockname())
        except (HelloRefused, OSError) as error:
            self._fail(error)
            return
        self._host.met(Guest(kind, Caller(self._peer, local), beginning))

    # -- reading

    def _expect(
        self, parse: Callable[[bytes], object], limit: int, then: Callable[[Any], None]
    ) -> None:
        """Have `parse` look at the beginning, each longer one, until it is not None.

        No more than `limit` bytes are looked at.
        """
        self._parse, self._limit, self._then, self._seen = parse, limit, then, 0
        self._look(0)

    def _look(self, events: int) -> None:
        self._events |= events
        try:
            parsed = self._peek()
            if parsed is None:
                self._wait()
            else:
                self._then(parsed)
        except BlockingIOError:
            self._wait()
        except (OSError, RemoteProtocolError, ConnectionLost) as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - a bug, which must not keep others out
            log.error("connection failed", exception=error)
            self._fail(error)

    def _peek(self) -> object:
        beginning = self._sock.recv(self._limit, socket.MSG_PEEK)
        if len(beginning) > self._seen:
            self._seen = len(beginning)
            parsed = self._parse(beginning)
            if parsed is not None:
                return parsed
            if self._seen >= self._limit:
                raise RemoteProtocolError(f"first {self._limit} bytes say nothing whole")
        if self._events & ENDING or not beginning:
            raise ConnectionLost("closed before its first bytes were whole")
        return None

    def _wait(self) -> None:
        """Wait for more: every arrival is an event of its own, whatever is left unread."""
        self._poller.watch(self._sock, self._look)
        if self._timer is None:
            self._timer = self._poller.loop.call_later(self._timeout, self._miss)

    def _miss(self) -> None:
        self._fail(ConnectionLost("first bytes came too late", Code.TIMEOUT))

    def _fail(self, error: Exception) -> None:
        self.stop()
        self._host.failed(error)


def _reader(read_hello: Callable[[bytes], Beginning | None]) -> Callable[[bytes], object]:
    """Return what makes sense of the first bytes where spares are welcome besides."""
    return lambda seen: parse_prelude(seen) if is_prelude(seen) else read_hello(seen)
