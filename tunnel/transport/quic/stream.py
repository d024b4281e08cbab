"""One stream of a QUIC connection, as everything above sees it."""

import asyncio
from collections import deque
from collections.abc import Awaitable
from enum import Enum, auto
from typing import TYPE_CHECKING

from tunnel.errors import Code, LocalProtocolError, StreamReset
from tunnel.stream import Stream
from tunnel.transport.quic.writing import CONTROL_STREAM
from tunnel.transport.window import ReceiveWindow

if TYPE_CHECKING:
    from tunnel.transport.quic.connection import TunnelConnection

RECEIVE_MAX_BYTES = 256 * 1024
HIGH_WATER_BYTES = 128 * 1024  # unsent bytes above which `send` waits


class Half(Enum):
    """Where one direction stands."""

    OPEN = auto()
    ENDED = auto()  # by FIN
    CUT = auto()


class TunnelStream:
    """Implements tunnel.stream.Stream; made by the connection only."""

    def __init__(
        self,
        connection: "TunnelConnection",
        stream_id: int,
        window: ReceiveWindow,
    ) -> None:
        self._connection = connection
        self._id = stream_id
        self._window = window
        self._parked = connection.lot.enter(self._cut_as_too_slow)
        self._chunks: deque[bytes] = deque()
        self._lent_bytes = 0  # handed to the reader, who may still hold them
        self._incoming = Half.OPEN
        self._outgoing = Half.OPEN
        self._code = Code.ABORTED  # of the cut
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        state = f"in {self._incoming.name} out {self._outgoing.name}"
        return f"<quic stream {self._id} {state} of {self._connection!r}>"

    async def receive(self) -> bytes:
        self._return_lent()
        while not self._chunks:
            self._check_cut()
            if self._incoming is Half.ENDED:
                return b""
            self._reader = self._connection.future()
            try:
                await self._reader
            finally:
                self._reader = None
        return self._take()

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        self._check_cut()
        if self._outgoing is Half.ENDED:
            raise LocalProtocolError("send after finish")
        engine = self._connection.engine
        engine.write(self._id, data)
        self._connection.schedule_flush()
        if engine.unsent(self._id) > HIGH_WATER_BYTES:
            await self._wait_for_room()
            self._check_cut()

    async def finish(self) -> None:
        self._check_cut()
        if self._outgoing is Half.OPEN:
            self._outgoing = Half.ENDED
            self._connection.engine.write(self._id, b"", end=True)
            self._connection.schedule_flush()

    def abort(self, code: Code = Code.ABORTED) -> None:
        if self._incoming is Half.ENDED and self._outgoing is Half.ENDED:
            if self._chunks:
                self.end_cut(code)  # here only: what we sent still arrives
        else:
            self._cut(code)

    def join(self, far: Stream) -> Awaitable[None] | None:  # noqa: ARG002 - never below Python
        return None

    # What the connection tells

    def feed(self, data: bytes) -> None:
        """Take bytes that arrived; may cut this or another stream if too much is parked."""
        if self._incoming is not Half.OPEN:
            return
        self._window.receive(len(data))
        self._chunks.append(data)
        self._wake_reader()
        if self._id != CONTROL_STREAM:  # whose window is small, and whose end would end all
            self._connection.lot.park(self._parked, len(data))

    def feed_end(self) -> None:
        """Note that the peer has finished."""
        if self._incoming is Half.OPEN:
            self._incoming = Half.ENDED
            self._wake_reader()

    def end_cut(self, code: Code) -> None:
        """Note that the stream is cut, in both directions; whoever waits gets StreamReset."""
        self._incoming = self._outgoing = Half.CUT
        self._code = code
        self._drop_unread()
        self._wake_reader()
        self._report_room()

    def cut_by_peer(self, code: Code) -> None:
        """Cut what is left of the stream, because the peer has cut one half of it."""
        if self._incoming is Half.ENDED and self._outgoing is Half.ENDED:
            return  # both had ended: nothing is left to be cut
        self.abort(code)

    # Inside

    def _cut_as_too_slow(self) -> None:
        self._cut(Code.BUSY)

    def _cut(self, code: Code) -> None:
        if self._incoming is not Half.CUT:
            self._connection.engine.cut(self._id, code)
            self._connection.schedule_flush()
            self.end_cut(code)

    def _check_cut(self) -> None:
        if self._incoming is Half.CUT:
            raise StreamReset(self._code)

    def _take(self) -> bytes:
        taken = [self._chunks.popleft()]
        size = len(taken[0])
        while self._chunks and size + len(self._chunks[0]) <= RECEIVE_MAX_BYTES:
            taken.append(self._chunks.popleft())
            size += len(taken[-1])
        self._lent_bytes = size
        if self._parked.size:
            self._connection.lot.fetch(self._parked, size)
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def _return_lent(self) -> None:
        """Grant credit for bytes that the reader has got rid of."""
        lent, self._lent_bytes = self._lent_bytes, 0
        if lent and self._window.consume(lent) and self._incoming is Half.OPEN:
            self._connection.engine.grant(self._id, self._window.limit)
            self._connection.schedule_flush()

    def _drop_unread(self) -> None:
        self._chunks.clear()
        self._connection.lot.leave(self._parked)

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def _wait_for_room(self) -> None:
        self._writer = self._connection.future()
        self._connection.engine.when_room(self._id, self._report_room)
        try:
            await self._writer
        finally:
            self._writer = None

    def _report_room(self) -> None:
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)
