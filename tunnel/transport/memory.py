"""Connections and streams within one process: the same contract without a wire, for tests."""

import asyncio
from collections.abc import Awaitable

from tunnel.errors import Code, ConnectionLost, LocalProtocolError
from tunnel.stream import Address, Binding, Splicing, Stream
from tunnel.transport.inbox import CHUNK_MAX_BYTES, Inbox
from tunnel.transport.options import TransportOptions
from tunnel.transport.parking import ParkingLot
from tunnel.transport.waiting import Places, Queue

BINDING = Binding("memory", bytes(32))


class MemoryStream:
    """One end of a stream; what is sent lies at the other end until it is fetched there."""

    def __init__(self, connection: "MemoryConnection", *, is_control: bool = False) -> None:
        self._connection = connection
        self._inbox = Inbox()
        self._is_control = is_control
        self._parked = connection.lot.enter(lambda: self.abort(Code.BUSY))
        self._unread = 0  # bytes handed out by the last `receive`
        self._room: asyncio.Future[None] | None = None
        self._is_finished = False
        self.far: MemoryStream = self

    async def receive(self) -> bytes:
        self._unread = 0
        self.far.wake()
        data = await self._inbox.get()
        self._unread = len(data)
        if self._parked.size:
            self._connection.lot.fetch(self._parked, len(data))
        return data

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_finished:
            raise LocalProtocolError("send after finish")
        view = memoryview(data)
        for start in range(0, len(view), CHUNK_MAX_BYTES):
            await self._wait_for_room()
            self.far.take(bytes(view[start : start + CHUNK_MAX_BYTES]))
        self._inbox.check()

    async def finish(self) -> None:
        self._inbox.check()
        if not self._is_finished:
            self._is_finished = True
            self.far.take(b"")

    def abort(self, code: Code = Code.ABORTED) -> None:
        if not (self._is_finished and self._inbox.has_ended):
            self.far.cut(code)
        self.cut(code)
        self._connection.leave(self)

    def join(self, far: Stream, terms: Splicing) -> Awaitable[None] | None:
        del far, terms  # nothing to join below
        return None

    def take(self, data: bytes) -> None:
        """Let the far end hand bytes over, or b"" for its finish."""
        self._connection.last_heard = asyncio.get_running_loop().time()
        if self._inbox.is_cut:
            return
        if data:
            self._inbox.put(data)
            if not self._is_control:  # whose end would end all
                self._connection.lot.park(self._parked, len(data))
        else:
            self._inbox.end()

    def cut(self, code: Code) -> None:
        """End both halves at this end."""
        self._inbox.cut(code)
        self._connection.lot.leave(self._parked)
        self.wake()

    def wake(self) -> None:
        """Let a waiting `send` look again."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def is_full(self) -> bool:
        """Whether a window of bytes lies here unread."""
        return self._inbox.size + self._unread >= self._connection.options.flow.stream_window

    async def _wait_for_room(self) -> None:
        while self.far.is_full() and not self._inbox.is_cut:
            self._room = asyncio.get_running_loop().create_future()
            try:
                await self._room
            finally:
                self._room = None
        self._inbox.check()


class MemoryConnection:
    """One end of a connection; the relay's end opens streams, the client's accepts them."""

    def __init__(self, options: TransportOptions) -> None:
        self.options = options
        self.binding = BINDING
        self.peer = Address("memory", 0)
        self.last_heard = 0.0
        self._is_new = True  # its first stream is the control stream
        self.lot = ParkingLot(options.flow.parked_max, options.budget)
        self.far: MemoryConnection = self
        self._streams: set[MemoryStream] = set()
        self._places = Places(options.max_streams + 1)  # and the control stream
        self._arrivals: Queue[MemoryStream] = Queue()
        self._closed: asyncio.Future[ConnectionLost] = asyncio.get_running_loop().create_future()

    @property
    def is_closed(self) -> bool:
        return self._closed.done()

    async def open_stream(self) -> Stream:
        await self._places.take()
        near, far = (MemoryStream(end, is_control=self._is_new) for end in (self, self.far))
        self._is_new = False
        near.far, far.far = far, near
        self._streams.add(near)
        self.far.arrive(far)
        return near

    async def accept_stream(self) -> Stream:
        return await self._arrivals.get()

    def close(self, code: Code = Code.OK, message: str = "") -> None:
        for end in (self, self.far):
            end.end(ConnectionLost(message or code.word, code))

    async def wait_closed(self) -> ConnectionLost:
        return await asyncio.shield(self._closed)

    def arrive(self, stream: MemoryStream) -> None:
        """Queue a stream that the far end opened."""
        self.last_heard = asyncio.get_running_loop().time()
        self._streams.add(stream)
        self._arrivals.put(stream)

    def leave(self, stream: MemoryStream) -> None:
        """Free the place of an aborted stream."""
        if stream in self._streams:
            self._streams.remove(stream)
            self._places.free()

    def end(self, lost: ConnectionLost) -> None:
        """Cut every stream and let everybody who waits know; a second call does nothing."""
        if self._closed.done():
            return
        self._closed.set_result(lost)
        for stream in list(self._streams):
            stream.cut(Code.ABORTED)
        self._places.close(lost)
        self._arrivals.close(lost)


def memory_pair(
    options_relay: TransportOptions | None = None, options_client: TransportOptions | None = None
) -> tuple[MemoryConnection, MemoryConnection]:
    """Return the relay's and the client's end of a new connection."""
    relay = MemoryConnection(options_relay or TransportOptions())
    client = MemoryConnection(options_client or TransportOptions())
    relay.far, client.far = client, relay
    return relay, client
