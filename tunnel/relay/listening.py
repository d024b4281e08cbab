"""The sockets that a relay listens on: bound all or none, and kept for as long as they are wanted.

A socket is known by its kind and address. Which listener it is for may change while it is open.
"""

import errno
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from tunnel.errors import ListenFailed
from tunnel.log import get_log
from tunnel.relay.agents import Door, Doors
from tunnel.runtime.activation import InheritedSockets
from tunnel.settings.reload import Socket, sockets_of
from tunnel.settings.tree import dotted
from tunnel.settings.values import InheritedAddress, ListenerSettings
from tunnel.stream import Address
from tunnel.transport.accepting import TcpListener
from tunnel.transport.doors import listen_datagrams, reconfigure
from tunnel.transport.options import TransportOptions
from tunnel.transport.tcp import reason_of

log = get_log(__name__)

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
WITHOUT_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


@dataclass(frozen=True, slots=True)
class Bound:
    """One address that is listened on, and the settings it is listened on for."""

    settings: ListenerSettings
    listener: Door

    @property
    def address(self) -> Address:
        """The address really bound."""
        return self.listener.address


Sockets = Mapping[Socket, Bound]


@dataclass(frozen=True, slots=True)
class Listening:
    """One address that is listened on, as others are told."""

    name: str
    kind: str
    protocol: str  # tcp | udp
    address: Address


class Opener(Protocol):
    """Whoever opens one socket more."""

    async def open(self, wanted: Socket, beside: Address | None) -> Door | None:
        """Return what listens there; None where it is not to be listened.

        `beside` is where a TCP socket of the same address was bound already. Raises ListenFailed,
        OSError.
        """


class OwnSockets:
    """Opens sockets of this process's own, or those that it was passed; an Opener."""

    def __init__(self, doors: Doors, inherited: InheritedSockets) -> None:
        self._doors = doors
        self._inherited = inherited

    async def open(self, wanted: Socket, beside: Address | None) -> Door:
        layer, address, _ = wanted
        place: Address | socket.socket = address
        if isinstance(address, InheritedAddress):
            place = self._inherited.take(address, KINDS[layer])
        if layer == "tcp":
            return TcpListener(place)
        if address.port == 0 and beside is not None:
            place = beside  # chosen once, and both protocols share it
        return await listen_datagrams(place, self._doors.slot, self._doors.options)


class Ports:
    """What a relay listens on now; `bind` and `adopt` are the two phases of a change."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._without_ipv6: set[Socket] = set()  # told once
        self.bound: Sockets = {}

    def __repr__(self) -> str:
        return f"<Ports {', '.join(str(each.address) for each in self.bound.values())}>"

    def told(self) -> list[Listening]:
        """Return what there is to tell of each of them."""
        return [
            Listening(each.settings.name, each.settings.kind, layer, each.address)
            for (layer, _, _), each in self.bound.items()
        ]

    async def bind(self, listeners: Iterable[ListenerSettings]) -> Sockets:
        """Return a socket for every address, those that are open already among them.

        Raises ListenFailed, and has opened none then.
        """
        sockets: dict[Socket, Bound] = {}
        try:
            for wanted, listener in sockets_of(listeners).items():
                if wanted in self.bound:
                    sockets[wanted] = Bound(listener, self.bound[wanted].listener)
                elif (door := await self._open(wanted, listener, sockets)) is not None:
                    sockets[wanted] = Bound(listener, door)
            _check_way_in(sockets)
        except BaseException:
            await self.release(sockets)
            raise
        return sockets

    async def release(self, sockets: Sockets) -> None:
        """Close those of `sockets` that nothing was made of."""
        await close(each.listener for wanted, each in sockets.items() if wanted not in self.bound)

    def adopt(self, sockets: Sockets, options: TransportOptions) -> list[Door]:
        """Listen on exactly these from now on; return the doors that are to be closed.

        New connections keep to `options`.
        """
        before, self.bound = self.bound, sockets
        for wanted, each in sockets.items():
            if not isinstance(each.listener, TcpListener):
                reconfigure(each.listener, options)
            if wanted not in before or before[wanted].settings.kind != each.settings.kind:
                settings = each.settings
                fields = {"listener": settings.name, "kind": settings.kind, "over": wanted[0]}
                log.info("listening", address=each.address, **fields)
        return [each.listener for wanted, each in before.items() if wanted not in sockets]

    async def close(self) -> None:
        """Listen on nothing any more."""
        await close(each.listener for each in self.bound.values())
        self.bound = {}

    async def _open(
        self, wanted: Socket, listener: ListenerSettings, sockets: Sockets
    ) -> Door | None:
        """Return one more open socket; None for IPv6 where there is none."""
        _, address, whose = wanted
        table = dotted(("listeners", listener.name))
        try:
            beside = sockets.get(("tcp", address, whose))
            return await self._opener.open(wanted, beside.address if beside else None)
        except ListenFailed as fault:
            raise ListenFailed(f"{table}: {fault}", f"{table}.listen") from fault
        except OSError as fault:
            if address.host != "::" or fault.errno not in WITHOUT_IPV6:
                why = f"cannot listen on {address}: {reason_of(fault)}"
                raise ListenFailed(f"{table}: {why}", f"{table}.listen") from fault
        if wanted not in self._without_ipv6:
            self._without_ipv6.add(wanted)
            log.warning("no IPv6 here", listener=listener.name, address=address)
        return None


def _check_way_in(sockets: Sockets) -> None:
    if all(each.settings.kind == "public" for each in sockets.values()):
        raise ListenFailed("no address for clients could be listened on")


async def close(doors: Iterable[Door]) -> None:
    """Stop accepting; whoever was let in stays."""
    for door in doors:
        if isinstance(door, TcpListener):
            door.close()
        else:
            await door.close()
