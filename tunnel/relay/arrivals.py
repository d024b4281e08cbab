"""Who has come to a TCP port: PROXY header and ClientHello, read before anything is decided."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

from tunnel.protocol.direct import PRELUDE_BYTES, Prelude, is_prelude, parse_prelude
from tunnel.protocol.hello import MAX_HELLO_BYTES, Arrival, ClientHello, HelloReader, sort
from tunnel.protocol.proxy import V2_MAX_BYTES, parse_proxy_header
from tunnel.settings.values import ListenerSettings
from tunnel.stream import Address
from tunnel.transport.demux import Peeker
from tunnel.transport.doors import takes_direct, takes_handshakes
from tunnel.transport.tcp import address_of

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


async def receive_guest(
    sock: socket.socket,
    listener: ListenerSettings,
    timeout: float,
    admit: Callable[[Address], None],
) -> tuple[Guest | Offered, Peeker]:
    """Return who has connected; of a guest nothing but a PROXY header was read off the socket.

    `admit` is called with the caller's address before the ClientHello is waited for, and may raise
    Refused. Raises HelloRefused with the answer to give, RemoteProtocolError for a bad PROXY
    header, ConnectionLost, OSError.
    """
    caller = Caller(address_of(sock.getpeername()), address_of(sock.getsockname()))
    peeker = Peeker(sock)
    deadline = asyncio.get_running_loop().time() + timeout
    if _is_balancer(listener, caller.peer):
        caller = await _read_proxy_header(peeker, caller, deadline)
    admit(caller.peer)
    accepts_clients = listener.kind != "public"
    read = _reader(accepts_spares=accepts_clients and takes_direct(listener.transports))
    beginning: Beginning = await peeker.until(read, MAX_HELLO_BYTES, deadline)
    if isinstance(beginning, Prelude):
        peeker.consume(PRELUDE_BYTES)
        return Offered(beginning), peeker
    accepts_agents = accepts_clients and takes_handshakes(listener.transports)
    return Guest(sort(beginning, accepts_agents=accepts_agents), caller, beginning), peeker


def _reader(*, accepts_spares: bool) -> Callable[[bytes], Beginning | None]:
    """Return what makes sense of the first bytes, None of them as long as they are too few."""
    read_hello = HelloReader().receive_beginning
    if not accepts_spares:
        return read_hello
    return lambda seen: parse_prelude(seen) if is_prelude(seen) else read_hello(seen)


def _is_balancer(listener: ListenerSettings, peer: Address) -> bool:
    """Say whether a PROXY header is required from this peer."""
    if not listener.proxy_protocol_from:
        return False
    address = ip_address(peer.host)
    return any(address in network for network in listener.proxy_protocol_from)


async def _read_proxy_header(peeker: Peeker, caller: Caller, deadline: float) -> Caller:
    header = await peeker.until(parse_proxy_header, V2_MAX_BYTES, deadline)
    peeker.consume(header.size)
    if header.source is None or header.destination is None:  # the balancer's own health check
        return caller
    return Caller(Address(*header.source), Address(*header.destination))
