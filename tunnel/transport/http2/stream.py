"""One stream of an HTTP/2 connection."""

from collections.abc import Awaitable
from typing import Protocol

from tunnel.errors import Code, LocalProtocolError
from tunnel.stream import Splicing, Stream
from tunnel.transport.http2.engine import CONTROL_ID
from tunnel.transport.http2.sending import Outbox, Sender
from tunnel.transport.inbox import Inbox
from tunnel.transport.parking import ParkingLot
from tunnel.transport.window import ReceiveWindow


class Carrier(Protocol):
    """What a stream needs of its connection."""

    sender: Sender
    lot: ParkingLot

    def grant(self, stream_id: int, credit: int) -> None:
        """Let the peer send `credit` more bytes on the stream."""

    def leave(self, stream: "Http2Stream", code: Code) -> None:
        """Free the stream's place, and cut it on the wire unless both its halves have ended."""


class Http2Stream:
    """A Stream (tunnel.stream) whose connection calls `arrive`, `end_arriving` and `cut`."""

    __slots__ = ("_carrier", "_inbox", "_parked", "_unread", "_window", "outbox")

    def __init__(self, carrier: Carrier, stream_id: int, window: ReceiveWindow) -> None:
        self._carrier = carrier
        self._inbox = Inbox()
        self._parked = carrier.lot.enter(lambda: self.abort(Code.BUSY))
        self._unread = 0  # bytes handed out by the last `receive`: perhaps still in the process
        self._window = window
        self.outbox = Outbox(stream_id)

    def __repr__(self) -> str:
        halves = (("finished", self.outbox.is_ending), ("ended", self._inbox.has_ended))
        states = ["cut"] if self._inbox.is_cut else [word for word, claim in halves if claim]
        return f"<Http2Stream {self.outbox.stream_id} {' '.join(states) or 'open'}>"

    async def receive(self) -> bytes:
        self._return_credit()
        data = await self._inbox.get()
        self._unread = len(data)
        if self._parked.size:
            self._carrier.lot.fetch(self._parked, len(data))
        return data

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        if self.outbox.is_ending:
            raise LocalProtocolError("send after finish")
        self._inbox.check()
        self.outbox.put(data if isinstance(data, bytes) else bytes(data))
        self._carrier.sender.queue(self.outbox)
        await self.outbox.wait_for_room()
        self._inbox.check()

    async def finish(self) -> None:
        """Send END_STREAM, and return once everything before it has been framed."""
        self._inbox.check()
        self.outbox.is_ending = True
        self._carrier.sender.queue(self.outbox)
        await self.outbox.wait_for_end()
        self._inbox.check()

    def abort(self, code: Code = Code.ABORTED) -> None:
        self.cut(code)
        self._carrier.leave(self, code)

    def join(self, far: Stream, terms: Splicing) -> Awaitable[None] | None:
        del far, terms  # no socket of its own
        return None

    def arrive(self, data: bytes) -> None:
        """Take bytes from the wire; raises RemoteProtocolError if they exceed the credit."""
        if data and not self._inbox.is_cut:
            self._window.receive(len(data))
            self._inbox.put(data)
            if self.outbox.stream_id != CONTROL_ID:  # whose end would end all
                self._carrier.lot.park(self._parked, len(data))

    def end_arriving(self) -> None:
        """Note that the peer has finished."""
        self._inbox.end()

    def cut(self, code: Code) -> None:
        """End both halves at this end; the place stays taken until `abort`."""
        self._inbox.cut(code)
        self._carrier.lot.leave(self._parked)
        self._carrier.sender.forget(self.outbox)
        self.outbox.drop()

    def _return_credit(self) -> None:
        if self._unread:
            credit = self._window.consume(self._unread)
            self._unread = 0
            if credit and not self._inbox.has_ended and not self._inbox.is_cut:
                self._carrier.grant(self.outbox.stream_id, credit)
