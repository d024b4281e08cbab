"""A socket of the poller as a Stream, and the way from a pair of them to a joint."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from tunnel.errors import Code, LocalProtocolError, StreamReset
from tunnel.stream import BULK_BYTES, Address, Splicing, Stream
from tunnel.transport.dialling import connect_socket, connect_unix_socket
from tunnel.transport.direct.joint import Joint, Terms
from tunnel.transport.direct.poller import ENDING, FAILED, READABLE, WRITABLE, poller
from tunnel.transport.tcp import reset, tune_for

MESSAGE_BYTES = 4 * 1024  # a read of less stands for itself: another is not tried at once
TURN_READS = 16  # reads in a row that never had to wait; then the rest of the loop has its turn


class DirectStream:
    """A connected non-blocking socket, which it takes over; `first` was read off it already.

    `before_close` is called with the socket while there still is something to be asked of it.

    The code of an abort stays on this side: TCP carries none.
    """

    __slots__ = (
        "_cut",
        "_first",
        "_is_drained",
        "_is_ending",
        "_is_finished",
        "_joint",
        "_poller",
        "_reader",
        "_reads",
        "_sock",
        "_writer",
        "before_close",
        "has_ended",
    )

    def __init__(
        self,
        sock: socket.socket,
        first: bytes = b"",
        before_close: Callable[[socket.socket], None] | None = None,
    ) -> None:
        self._sock = sock
        self._first = first
        self.before_close = before_close
        self._poller = poller()
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._cut: Code | None = None
        self._is_finished = False
        self._joint: Joint | None = None
        self._reads = 0
        self.has_ended = False
        # A socket that is watched from now on tells by itself what it has. If it was watched
        # before, its last owner may have been told of the end: no event may come any more.
        self._is_ending = self._poller.watch(sock, self._wake)
        self._is_drained = not self._is_ending

    def __repr__(self) -> str:
        halves = (("finished", self._is_finished), ("ended", self.has_ended))
        states = ["cut"] if self._cut is not None else [word for word, claim in halves if claim]
        return f"<DirectStream {' '.join(states) or 'open'}>"

    async def receive(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        self._check()
        self._reads += 1
        if self._reads > TURN_READS:
            self._reads = 0
            await asyncio.sleep(0)
        while not self.has_ended:
            self._check()
            if self._is_drained:
                await self._wait_to_read()
                continue
            try:
                data = self._sock.recv(BULK_BYTES)
            except BlockingIOError:
                self._is_drained = True
                self._is_ending = False  # or the end would have been read
            except OSError:
                self.abort()
            else:
                self.has_ended = not data
                # It was emptied, and what comes later is an event of its own; of more than a
                # message, the next may well have come while this was handled.
                self._is_drained = len(data) < MESSAGE_BYTES and not self._is_ending
                return data
        return b""

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_finished:
            raise LocalProtocolError("send after finish")
        self._check()
        left = memoryview(data).cast("B")
        while left:
            try:
                left = left[self._sock.send(left) :]
            except BlockingIOError:
                await self._wait_to_write()
            except OSError:
                self.abort()
            self._check()

    async def finish(self) -> None:
        if self._is_finished:
            return
        self._check()
        self._is_finished = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:  # the peer's RST overtook us
            self.abort()
            self._check()

    def abort(self, code: Code = Code.ABORTED) -> None:
        if self._cut is not None:
            return
        self._cut = code
        if self._joint is not None:
            self._joint.cut(code)
        else:
            if self.before_close is not None:
                self.before_close(self._sock)
            if not (self.has_ended and self._is_finished):
                reset(self._sock)
            self._poller.close(self._sock)
        for waiter in (self._reader, self._writer):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def part(self) -> tuple[socket.socket, bytes]:
        """Give the socket away, and what was read off it already; the stream is over then."""
        self._cut = Code.OK
        return self._sock, self._first

    def join(self, far: Stream, terms: Splicing) -> Awaitable[None] | None:
        if not isinstance(far, DirectStream) or self._is_halved or far._is_halved:  # noqa: SLF001 - of our own kind
            return None
        self._check()
        far._check()  # noqa: SLF001 - as above
        return self._run_joint(far, terms)

    @property
    def _is_halved(self) -> bool:
        """Whether either half has ended already, of which a joint would know nothing."""
        return self.has_ended or self._is_finished

    async def _run_joint(self, far: "DirectStream", terms: Splicing) -> None:
        ended: asyncio.Future[Code] = asyncio.get_running_loop().create_future()

        def settle(code: Code) -> None:
            if not ended.done():
                ended.set_result(code)

        rules = Terms(terms.linger_timeout, tally=terms.tally, before_close=self.before_close)
        far_sock = far._sock  # noqa: SLF001 - as above
        joint = Joint(self._poller, self._sock, far_sock, rules, settle)
        joint.forth.rest, self._first = self._first, b""
        joint.back.rest, far._first = far._first, b""  # noqa: SLF001 - as above
        self._joint = far._joint = joint  # noqa: SLF001 - as above
        joint.start()
        code = await ended
        if code is not Code.OK:
            raise StreamReset(code)

    # -- waiting

    def _wake(self, events: int) -> None:
        if events & FAILED:
            self.abort()
            return
        if events & READABLE:
            self._is_drained = False
            self._is_ending = self._is_ending or bool(events & ENDING)
            if self._reader is not None and not self._reader.done():
                self._reader.set_result(None)
        if events & WRITABLE and self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    async def _wait_to_read(self) -> None:
        self._reads = 0
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    async def _wait_to_write(self) -> None:
        self._writer = asyncio.get_running_loop().create_future()
        try:
            await self._writer
        finally:
            self._writer = None

    def _check(self) -> None:
        if self._cut is not None:
            raise StreamReset(self._cut)


async def connect(target: Address | Path, timeout: float) -> DirectStream:
    """Connect to a TCP address, trying all that its name resolves to, or to a Unix socket.

    Raises DialFailed. Cancel-safe.
    """
    if isinstance(target, Path):
        return DirectStream(await connect_unix_socket(target, timeout))
    sock = await connect_socket(target, timeout)
    tune_for(target.host, sock)
    return DirectStream(sock)
