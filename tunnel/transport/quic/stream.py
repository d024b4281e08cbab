"""One stream of a QUIC connection, as everything above sees it."""

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from tunnel.errors import Code, LocalProtocolError
from tunnel.stream import Splicing, Stream
from tunnel.transport.inbox import Inbox
from tunnel.transport.quic.writing import CONTROL_STREAM
from tunnel.transport.window import ReceiveWindow

if TYPE_CHECKING:
    from tunnel.transport.quic.connection import TunnelConnection


class TunnelStream:
    """Implements tunnel.stream.Stream; made by the connection only."""

    def __init__(
        self, connection: "TunnelConnection", stream_id: int, window: ReceiveWindow
    ) -> None:
        self._connection = connection
        self._id = stream_id
        self._window = window
        self._parked = connection.lot.enter(self._cut_as_too_slow)
        self._inbox = Inbox()  # once it is cut, the stream is
        self._lent_bytes = 0  # handed to the reader, who may still hold them
        self._has_finished = False
        self._writer: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        incoming = "ended" if self._inbox.has_ended else "open"
        outgoing = "ended" if self._has_finished else "open"
        state = "cut" if self._inbox.is_cut else f"in {incoming} out {outgoing}"
        return f"<quic stream {self._id} {state} of {self._connection!r}>"

    @property
    def has_ended(self) -> bool:
        """Whether both directions have ended cleanly."""
        return self._inbox.has_ended and self._has_finished

    async def receive(self) -> bytes:
        self._return_lent()
        data = await self._inbox.get()
        self._lent_bytes = len(data)
        if self._parked.size:
            self._connection.lot.fetch(self._parked, len(data))
        return data

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        self._inbox.check()
        if self._has_finished:
            raise LocalProtocolError("send after finish")
        engine = self._connection.engine
        engine.write(self._id, data)
        del data  # was copied, and is not to be held while this waits
        self._connection.schedule_flush()
        if engine.is_full(self._id):
            await self._wait_for_room()
            self._inbox.check()

    async def finish(self) -> None:
        self._inbox.check()
        if not self._has_finished:
            self._has_finished = True
            self._connection.engine.write(self._id, b"", end=True)
            self._connection.schedule_flush()

    def abort(self, code: Code = Code.ABORTED) -> None:
        if not self.has_ended:
            self._cut(code)
        elif self._inbox.size:
            self.end_cut(code)  # here only: what we sent still arrives
        else:
            self._connection.lot.leave(self._parked)

    def join(self, far: Stream, terms: Splicing) -> Awaitable[None] | None:
        del far, terms  # never below Python
        return None

    # What the connection tells

    def feed(self, data: bytes) -> None:
        """Take bytes that arrived; may cut this or another stream if too much is parked."""
        if self._inbox.is_cut:
            return
        self._window.receive(len(data))
        self._inbox.put(data)
        if self._id != CONTROL_STREAM:  # whose window is small, and whose end would end all
            self._connection.lot.park(self._parked, len(data))

    def feed_end(self) -> None:
        """Note that the peer has finished."""
        if not self._inbox.is_cut:
            self._inbox.end()

    def end_cut(self, code: Code) -> None:
        """Note that the stream is cut, in both directions; whoever waits gets StreamReset."""
        self._inbox.cut(code)
        self._connection.lot.leave(self._parked)
        self._report_room()

    def cut_by_peer(self, code: Code) -> None:
        """Cut what is left of the stream, because the peer has cut one half of it."""
        if not self.has_ended:
            self._cut(code)

    # Inside

    def _cut_as_too_slow(self) -> None:
        self._cut(Code.BUSY)

    def _cut(self, code: Code) -> None:
        if not self._inbox.is_cut:
            self._connection.engine.cut(self._id, code)
            self._connection.schedule_flush()
            self.end_cut(code)

    def _return_lent(self) -> None:
        """Grant credit for bytes that the reader has got rid of."""
        lent, self._lent_bytes = self._lent_bytes, 0
        if lent and self._window.consume(lent):
            self._connection.engine.grant(self._id, self._window.limit)
            self._connection.schedule_flush()

    async def _wait_for_room(self) -> None:
        self._writer = asyncio.get_running_loop().create_future()
        self._connection.engine.when_room(self._id, self._report_room)
        try:
            await self._writer
        finally:
            self._writer = None
            # What filled no packet has waited for what the writer writes now, if anything.
            self._connection.schedule_flush()

    def _report_room(self) -> None:
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)
