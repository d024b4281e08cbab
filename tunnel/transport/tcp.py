"""Plain TCP and Unix sockets: those that listen, and connected ones as streams.

No protocol is known here, and nothing is read off a socket before it is wrapped. These streams are
read by the loop's own transports; visitors and targets are streams of `tunnel.transport.direct`.
"""

import asyncio
import errno
import os
import resource
import socket
import struct
from collections.abc import Awaitable
from functools import lru_cache
from ipaddress import ip_address

from tunnel.errors import Code, ConnectionLost, LocalProtocolError
from tunnel.stream import BULK_BYTES, Address, Splicing, Stream
from tunnel.transport.inbox import Inbox
from tunnel.transport.read_buffer import read_buffer
from tunnel.transport.resets import reset_watch

BACKLOG = 1024
OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
BACKOFF_MIN, BACKOFF_MAX = 0.05, 1.0  # seconds
ACCEPTS_PER_TURN = 32
DESCRIPTOR_SHARE = 0.8  # of RLIMIT_NOFILE; the rest is for targets, files and clients
TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)  # linux/tcp.h; named since 3.12
UNSENT_MAX_BYTES = 64 * 1024  # per socket in the kernel, besides what the far end has room for
Accepted = tuple[socket.socket, Address]  # and the peer
_LINGER_ZERO = struct.pack("ii", 1, 0)  # struct linger: close() sends RST


class TcpStream(asyncio.BufferedProtocol):
    """A connected socket as a Stream (tunnel.stream); one read at most waits to be fetched.

    The code of an abort stays on this side: TCP carries none.
    """

    __slots__ = (
        "_buffer",
        "_descriptor",
        "_inbox",
        "_is_finished",
        "_is_reading",
        "_is_writable",
        "_room",
        "_transport",
        "_watch",
    )

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._inbox = Inbox()
        self._buffer = read_buffer(BULK_BYTES)  # loops fill it and call `buffer_updated` in one go
        self._descriptor = -1
        self._watch = reset_watch()
        self._room: asyncio.Future[None] | None = None
        self._is_reading = True
        self._is_writable = True
        self._is_finished = False

    def __repr__(self) -> str:
        halves = (("finished", self._is_finished), ("ended", self._inbox.has_ended))
        states = ["cut"] if self._inbox.is_cut else [word for word, claim in halves if claim]
        return f"<TcpStream {self.peer} {' '.join(states) or 'open'}>"

    @property
    def peer(self) -> Address:
        """The far end; an empty host for a Unix socket."""
        return address_of(self._transport.get_extra_info("peername"))

    async def receive(self) -> bytes:
        if not self._is_reading and not self._inbox.size:
            self._inbox.check()
            self._is_reading = True
            self._watch.discard(self._descriptor)
            self._transport.resume_reading()
        return await self._inbox.get()

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_finished:
            raise LocalProtocolError("send after finish")
        self._check()
        # uvloop writes later from the very object it was given, so it must be ours for ever.
        self._transport.write(data if isinstance(data, bytes) else bytes(data))
        if not self._is_writable:
            await self._wait_for_room()

    async def finish(self) -> None:
        """Send FIN, and return once everything before it is with the kernel."""
        if self._is_finished:
            return
        self._check()
        self._is_finished = True
        try:
            self._transport.write_eof()
        except OSError:  # the peer's RST overtook us
            self.abort()
        await self._wait_for_room()

    def abort(self, code: Code = Code.ABORTED) -> None:
        if self._inbox.is_cut:
            return
        if self._inbox.has_ended and self._is_finished and self._is_writable:
            self._transport.close()
        else:
            self._reset()
        self._cut(code)

    def join(self, far: Stream, terms: Splicing) -> Awaitable[None] | None:
        del far, terms  # pairs of `DirectStream` alone are joined
        return None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's have no common base
        self._descriptor = transport.get_extra_info("socket").fileno()
        # `send` returns once the kernel has it all: whoever grants credit then, grants for bytes
        # that have left the process.
        self._transport.set_write_buffer_limits(high=0)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        arrived = bytes(self._buffer[:nbytes])
        if not self._inbox.is_awaited:
            self._is_reading = False
            self._transport.pause_reading()
            self._watch.add(self._descriptor, self._lose)
        self._inbox.put(arrived)

    def eof_received(self) -> bool:
        self._watch.add(self._descriptor, self._lose)
        self._inbox.end()
        return True  # our own half stays open

    def pause_writing(self) -> None:
        self._is_writable = False

    def resume_writing(self) -> None:
        self._is_writable = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - RST or our own abort
        self._cut(Code.ABORTED)

    def _reset(self) -> None:
        if not self._transport.is_closing():
            reset(self._transport.get_extra_info("socket"))
        self._transport.abort()

    def _lose(self) -> None:
        self._reset()
        self._cut(Code.ABORTED)

    def _cut(self, code: Code) -> None:
        self._watch.discard(self._descriptor)
        self._inbox.cut(code)
        self._wake()

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def _wait_for_room(self) -> None:
        while not self._is_writable and not self._inbox.is_cut:
            self._room = asyncio.get_running_loop().create_future()
            try:
                await self._room
            finally:
                self._room = None
        self._check()

    def _check(self) -> None:
        """Raise StreamReset after a cut, also one that the loop knows of and has not told yet.

        A transport whose socket failed takes bytes in silence until `connection_lost` has its turn.
        """
        if self._transport.is_closing():
            self._cut(Code.ABORTED)
        self._inbox.check()


async def wrap(sock: socket.socket) -> TcpStream:
    """Return the stream of an accepted or connected non-blocking socket, which it takes over."""
    loop = asyncio.get_running_loop()
    try:
        tune(sock)
        _, stream = await loop.connect_accepted_socket(TcpStream, sock)
    except BaseException:
        sock.close()
        raise
    return stream


def reset(sock: socket.socket) -> None:
    """Let the close of a socket be a reset; does nothing to one that is closed."""
    if sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)


def tune(sock: socket.socket) -> None:
    """Set what each stream's socket has: no Nagle delay, and keep-alive to notice the dead.

    And little that waits unsent in the kernel, which would take megabytes: a reader that stands
    still would seem to keep up, and be granted ever more (transport.window).
    """
    if sock.family == socket.AF_UNIX:
        return
    tune_local(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


def tune_local(sock: socket.socket) -> None:
    """Set that for a peer on this machine, but no keep-alive: it cannot die unnoticed."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_MAX_BYTES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def tune_for(host: str, sock: socket.socket) -> None:
    """Set it for a peer of this name or IP address."""
    if _is_loopback(host):
        tune_local(sock)
    else:
        tune(sock)


@lru_cache(maxsize=256)
def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def address_of(name: object) -> Address:
    """Return the Address of a socket name as the socket module gives it."""
    if not isinstance(name, tuple):
        return Address("", 0)
    host, port = name[:2]
    if ":" in host:
        host = host.removeprefix("::ffff:").partition("%")[0]
    return Address(host, port)


def reason_of(error: OSError | UnicodeError) -> str:
    """Return what went wrong in a few words, for an operator to read."""
    if isinstance(error, UnicodeError):
        return "not a host name"
    number = error.errno or 0
    # Resolver errors are negative, and asyncio's report on several addresses has no number.
    return os.strerror(number).lower() if number > 0 else error.strerror or str(error)


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
        if self._ready is not None:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
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
        self._accepted_in_a_row = 0
        loop, fd = asyncio.get_running_loop(), self._sock.fileno()
        self._ready = loop.create_future()
        loop.add_reader(fd, self._wake)
        try:
            await self._ready
        finally:
            self._ready = None
            if self._sock.fileno() == fd:
                loop.remove_reader(fd)

    def _wake(self) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)


def descriptor_limit() -> int:
    """Return the descriptor number from which on accepting pauses."""
    return int(resource.getrlimit(resource.RLIMIT_NOFILE)[0] * DESCRIPTOR_SHARE)


def family_of(host: str) -> socket.AddressFamily:
    """Return the family of an IP address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


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
