"""Connected TCP and Unix sockets: as streams, and what is set for them.

No protocol is known here, and nothing is read off a socket before it is wrapped. These streams are
read by the loop's own transports; visitors and targets are streams of `tunnel.transport.direct`.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable
from functools import lru_cache
from ipaddress import ip_address

from tunnel.errors import Code, LocalProtocolError
from tunnel.stream import BULK_BYTES, Address, Splicing, Stream
from tunnel.transport.inbox import Inbox
from tunnel.transport.read_buffer import read_buffer
from tunnel.transport.resets import reset_watch

TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)  # linux/tcp.h; named since 3.12
UNSENT_MAX_BYTES = 64 * 1024  # per socket in the kernel, besides what the far end has room for
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


def family_of(host: str) -> socket.AddressFamily:
    """Return the family of an IP address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET
