"""What a worker has of the head, where a relay in one process has its own."""

import asyncio
import socket
from collections.abc import Iterable

from tunnel.errors import ListenFailed
from tunnel.relay.agents import Door, Doors
from tunnel.relay.budget import RegisteredDomains, Use
from tunnel.relay.budget_file import BudgetFile
from tunnel.relay.certificate import OwnCertificate, Source
from tunnel.relay.workers.parcels import HandedListener, key_of
from tunnel.settings.reload import Socket
from tunnel.settings.values import RelaySettings
from tunnel.stream import Address
from tunnel.tls.slots import Certificate, CertificateSlot
from tunnel.transport.accepting import TcpListener
from tunnel.transport.doors import listen_datagrams

PASSING_TIMEOUT = 10.0  # seconds until a socket that was announced has come


class GivenCertificate(OwnCertificate):
    """A certificate that the head looks after: it tells of each new one."""

    def __init__(self, settings: RelaySettings, certificate: Certificate) -> None:
        self._source = Source(settings, certificate)
        self.slot = CertificateSlot(certificate)

    def read(self, settings: RelaySettings) -> Source:
        """Return what is in force: another one comes by `swap`."""
        return Source(settings, self.slot.current)

    def adopt(self, source: Source) -> None:
        self._source = source

    def swap(self, certificate: Certificate) -> None:
        """Have new connections see this one."""
        self.slot.swap(certificate)


class GrantedBudget(BudgetFile):
    """Refuses nothing: what is asked for here, the head has counted already."""

    def __init__(self) -> None:
        """Read nothing."""

    def __repr__(self) -> str:
        return "<GrantedBudget>"

    def order(self, name: str, *, renewal: bool) -> None:
        """Allow it."""

    def reconfigure(self, domains: RegisteredDomains) -> None:
        """Do nothing."""

    def uses(self) -> list[Use]:
        """Return nothing: the head knows."""
        return []

    def close(self) -> None:
        """Do nothing."""


class PassedSockets:
    """Sockets that the head has bound and announced; those on their way are waited for.

    What is announced has a ticket, higher each time, which its sockets bear.
    """

    def __init__(self) -> None:
        self._ticket = 0
        self._least = 0  # of what is still wanted
        self._announced: frozenset[str] = frozenset()
        self._passed: dict[str, tuple[socket.socket, int]] = {}
        self._arrived = asyncio.Event()

    def announce(self, ticket: int, keys: Iterable[str]) -> None:
        """Note which sockets there are to be, and that what was announced before is over."""
        self._ticket = ticket
        self._announced = frozenset(keys)
        self._drop_below(ticket)

    def forsake(self) -> None:
        """Want nothing any more of what was announced last: nobody may hold an address for it."""
        self._drop_below(self._ticket + 1)

    def _drop_below(self, ticket: int) -> None:
        self._least = ticket
        for key, (sock, borne) in list(self._passed.items()):
            if borne < ticket:
                sock.close()
                del self._passed[key]

    def put(self, parcel: HandedListener, sock: socket.socket) -> None:
        """Keep a socket until it is opened; one that nobody wants any more is closed."""
        if parcel.ticket < self._least:
            sock.close()
            return
        self._passed[parcel.key] = (sock, parcel.ticket)
        self._arrived.set()

    def opener(self, doors: Doors) -> "PassedOpener":
        """Return what opens them for these doors."""
        return PassedOpener(self, doors)

    async def take(self, key: str) -> socket.socket | None:
        """Return the socket of a key; None where none was announced. Raises ListenFailed."""
        if key not in self._announced:
            return None
        try:
            async with asyncio.timeout(PASSING_TIMEOUT):
                while key not in self._passed:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            raise ListenFailed(f"no socket for {key} came from the head") from None
        return self._passed.pop(key)[0]


class PassedOpener:
    """Opens what was passed; an Opener."""

    def __init__(self, sockets: PassedSockets, doors: Doors) -> None:
        self._sockets = sockets
        self._doors = doors

    async def open(self, wanted: Socket, beside: Address | None) -> Door | None:
        del beside  # chosen by the head
        sock = await self._sockets.take(key_of(wanted))
        if sock is None:
            return None
        if wanted[0] == "tcp":
            return TcpListener(sock)
        return await listen_datagrams(sock, self._doors.slot, self._doors.options)
