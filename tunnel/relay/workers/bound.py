"""What the head binds for its workers: it listens on nothing itself.

A TCP socket is one that all workers accept from: whichever is free is first, and one that ends
takes nobody with it who still waits. Of a UDP address each worker has a socket of its own, and the
kernel chooses by the connection id (tunnel.transport.doors).
"""

import socket
from collections.abc import Mapping

from tunnel.errors import ListenFailed, LocalProtocolError
from tunnel.relay.agents import Door
from tunnel.relay.listening import KINDS, Bound
from tunnel.relay.workers.parcels import key_of
from tunnel.runtime.activation import InheritedSockets
from tunnel.settings.reload import Socket
from tunnel.settings.values import InheritedAddress
from tunnel.stream import Address, Connection
from tunnel.transport.accepting import BACKLOG, bound_socket
from tunnel.transport.doors import bind_datagrams
from tunnel.transport.tcp import address_of

ONE_ONLY = "one UDP socket of systemd cannot serve several workers: name the address without fd:"


class SharedDoor:
    """An address that workers listen on; a Listener, as far as it can be closed."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets  # one for all, or one for each worker

    @property
    def address(self) -> Address:
        return address_of(self._sockets[0].getsockname())

    async def accept(self) -> Connection:
        raise LocalProtocolError("only workers accept")

    async def close(self) -> None:
        for sock in self._sockets:
            sock.close()

    def socket_of(self, worker: int) -> socket.socket:
        """Return the socket that a worker gets."""
        return self._sockets[worker if len(self._sockets) > 1 else 0]


class SharedSockets:
    """Binds for so many workers; an Opener."""

    def __init__(self, inherited: InheritedSockets, workers: int) -> None:
        self._inherited = inherited
        self._workers = workers

    async def open(self, wanted: Socket, beside: Address | None) -> Door:
        layer, address, _ = wanted
        if isinstance(address, InheritedAddress):
            if layer != "tcp":
                raise ListenFailed(ONE_ONLY)
            return SharedDoor([self._inherited.take(address, KINDS[layer])])
        if layer == "tcp":
            return SharedDoor([bound_socket(address, BACKLOG, reuse_port=False)])
        place = beside if address.port == 0 and beside is not None else address
        return SharedDoor(bind_datagrams(place, self._workers))


def passed(bound: Mapping[Socket, Bound], worker: int) -> list[tuple[str, socket.socket]]:
    """Return what a worker is to listen on, by key."""
    return [
        (key_of(wanted), each.listener.socket_of(worker))
        for wanted, each in bound.items()
        if isinstance(each.listener, SharedDoor)
    ]
