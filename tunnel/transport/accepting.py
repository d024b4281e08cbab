"""Sockets that listen for TCP connections, and what happens when descriptors are short."""

import asyncio
import errno
import os
import resource
import socket

from tunnel.errors import Code, ConnectionLost
from tunnel.stream import Address
from tunnel.transport.tcp import address_of, family_of, tune

BACKLOG = 1024
OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
BACKOFF_MIN, BACKOFF_MAX = 0.05, 1.0  # seconds
ACCEPTS_PER_TURN = 32
DESCRIPTOR_SHARE = 0.8  # of RLIMIT_NOFILE; the rest is for targets, files and clients
Accepted = tuple[socket.socket, Address]  # and the peer


class TcpListener:
    """A listening socket: bound when made (raises OSError), or taken over from whoever bound it."""

    def __init__(
        self, place: Address | socket.socket, *, backlog: int = BACKLOG, reuse_port: bool = False
    ) -> None:
        if isinstance(place, socket.socket):
            self._sock = place
        else:
            self._sock = bound_socket(place, backlog, reuse_port=reuse_port)
        self._family = self._sock.family
        tune(self._sock)  # what is accepted inherits that (Linux), for nothing
        self._ready: asyncio.Future[None] | None = None
        self._is_reader = False  # of the loop, which looks for whoever comes
        self._accepted_in_a_row = 0
        self._highest = 0  # descriptor number accepted last: all lower ones were in use then
        self.starved = 0  # times that accepting paused for want of descriptors or memory
        self.vanished = 0  # connections that were gone before they were accepted

    @property
    def address(self) -> Address:
        """The address really bound (port 0 resolved)."""
        return address_of(self._sock.getsockname())

    async def accept(self) -> socket.socket:
        """Return the next connection, non-blocking. Cancel-safe; ConnectionLost after `close`.

        Pauses while descriptors are short; what befalls a single connection is only counted.
        """
        ((sock, _),) = await self.accept_some(1)
        return sock

    async def accept_some(self, most: int = ACCEPTS_PER_TURN) -> list[Accepted]:
        """Return the connections that wait, or the next one, as `accept` does, and their peers."""
        backoff = BACKOFF_MIN
        while True:
            await self._take_turns()
            try:
                return self._accept_now(most)
            except BlockingIOError:
                await self._wait_for_peer()
            except OSError as error:
                if self._sock.fileno() < 0:
                    raise ConnectionLost("listener closed", Code.OK) from error
                if error.errno not in OUT_OF_RESOURCES:
                    self.vanished += 1
                    continue
                self.starved += 1
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, BACKOFF_MAX)

    def close(self) -> None:
        """Let go of the socket; those accepted before live on.

        It is not shut down: where somebody else holds it too, whoever knocks waits for them.
        """
        self._look_away()
        self._wake()
        self._sock.close()

    def _accept_now(self, most: int) -> list[Accepted]:
        """Raises what befalls the first one; the others come as far as nothing befalls them."""
        limit = descriptor_limit()
        accepted: list[Accepted] = []
        try:
            while len(accepted) < most:
                self._check_reserve(limit)
                # What `accept` does, but for asking what kind of socket this listener is.
                self._highest, name = self._sock._accept()  # type: ignore[attr-defined] # noqa: SLF001 - see above
                sock = socket.socket(self._family, socket.SOCK_STREAM, 0, self._highest)
                sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
                accepted.append((sock, address_of(name)))
        except OSError as error:
            if not accepted:
                raise
            self.vanished += error.errno not in (errno.EAGAIN, *OUT_OF_RESOURCES)
        self._accepted_in_a_row += len(accepted)
        return accepted

    def _check_reserve(self, limit: int) -> None:
        if self._highest >= limit and self._lowest_free() >= limit:
            raise OSError(errno.EMFILE, "descriptors are kept for other uses")

    def _lowest_free(self) -> int:
        self._highest = os.dup(self._sock.fileno())  # dup(2) takes the lowest free number
        os.close(self._highest)
        return self._highest

    async def _take_turns(self) -> None:
        """Let the rest of the loop run now and then while connections keep waiting."""
        self._accepted_in_a_row += 1
        if self._accepted_in_a_row > ACCEPTS_PER_TURN:
            self._accepted_in_a_row = 0
            await asyncio.sleep(0)

    async def _wait_for_peer(self) -> None:
        """Wait for a peer. The loop goes on looking for the next one: to begin anew costs more."""
        self._accepted_in_a_row = 0
        loop = asyncio.get_running_loop()
        self._ready = loop.create_future()
        if not self._is_reader:
            loop.add_reader(self._sock.fileno(), self._wake)
            self._is_reader = True
        try:
            await self._ready
        except BaseException:
            self._look_away()
            raise
        finally:
            self._ready = None

    def _wake(self) -> None:
        if self._ready is None:
            self._look_away()  # somebody has come for whom nobody waits now
        elif not self._ready.done():
            self._ready.set_result(None)

    def _look_away(self) -> None:
        if self._is_reader:
            self._is_reader = False
            asyncio.get_running_loop().remove_reader(self._sock.fileno())


def descriptor_limit() -> int:
    """Return the descriptor number from which on accepting pauses."""
    return int(resource.getrlimit(resource.RLIMIT_NOFILE)[0] * DESCRIPTOR_SHARE)


def bound_socket(address: Address, backlog: int, *, reuse_port: bool) -> socket.socket:
    """Return a socket that listens on an address; raises OSError."""
    family = family_of(address.host)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address.host, address.port))
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock
