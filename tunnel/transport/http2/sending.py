"""What goes out and in which order: control frames at once, then streams as there is room.

Room is the smaller of what the socket takes, the stream's credit and the connection's; the last
of the connection's credit is the control stream's alone.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from tunnel.transport.http2.engine import CONTROL_ID
from tunnel.transport.http2.frames import HEADER_BYTES
from tunnel.transport.http2.shortcuts import ShortcutEngine
from tunnel.transport.options import CONTROL_RESERVE_BYTES

# With its header a frame fills TLS records of 16 KiB, so that none of a few bytes follows it.
FRAME_BYTES = 64 * 1024 - HEADER_BYTES
FRAME_SHARED_BYTES = 16 * 1024 - HEADER_BYTES  # of a stream while others wait for their turn
STREAM_BACKLOG_BYTES = 64 * 1024  # a stream's `send` returns when no more than this is queued
BATCH_BYTES = 128 * 1024  # framed before the socket is asked again
SOCKET_HIGH_BYTES, SOCKET_LOW_BYTES = 128 * 1024, 32 * 1024
CONTROL_MAX_BYTES = 256 * 1024  # of control frames that a peer leaves unread


class Outbox:
    """The bytes of one stream that wait for their turn, and the end after them."""

    __slots__ = ("_chunks", "_room", "has_ended", "is_ending", "size", "stream_id")

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id
        self.size = 0
        self.is_ending = False
        self.has_ended = False  # nothing of this stream will be framed any more
        self._chunks: deque[memoryview] = deque()
        self._room: asyncio.Future[None] | None = None

    def put(self, data: bytes) -> None:
        """Append bytes, which must not change afterwards."""
        self._chunks.append(memoryview(data))
        self.size += len(data)

    def take(self, size: int) -> list[memoryview]:
        """Remove and return `size` bytes in pieces, of which there must be as many."""
        self.size -= size
        parts = []
        while size:
            chunk = self._chunks.popleft()
            if len(chunk) > size:
                self._chunks.appendleft(chunk[size:])
                chunk = chunk[:size]
            parts.append(chunk)
            size -= len(chunk)
        self.wake()
        return parts

    def drop(self) -> None:
        """Forget all: the stream was cut."""
        self._chunks.clear()
        self.size = 0
        self.has_ended = True
        self.wake()

    def end(self) -> None:
        """Note that the end has been framed."""
        self.has_ended = True
        self.wake()

    def wake(self) -> None:
        """Let the task that waits look again."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def wait_for_room(self) -> None:
        """Wait until little is queued or the stream was cut."""
        while self.size > STREAM_BACKLOG_BYTES:
            await self._wait()

    async def wait_for_end(self) -> None:
        """Wait until the end has been framed or the stream was cut."""
        while not self.has_ended:
            await self._wait()

    async def _wait(self) -> None:
        self._room = asyncio.get_running_loop().create_future()
        try:
            await self._room
        finally:
            self._room = None


class Sender:
    """Writes one connection's frames.

    `stalled` is told when the peer leaves control unread, `failed` what the engine raises while
    nobody else could hear of it.
    """

    def __init__(
        self,
        engine: ShortcutEngine,
        stalled: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._engine = engine
        self._stalled = stalled
        self._failed = failed
        self._transport: asyncio.Transport | None = None
        self._ready: dict[int, Outbox] = {}  # in turn; may send as far as its own stream goes
        self._is_scheduled = False
        self._is_writable = True

    def start(self, transport: asyncio.Transport) -> None:
        """Write to this transport from now on."""
        self._transport = transport
        transport.set_write_buffer_limits(high=SOCKET_HIGH_BYTES, low=SOCKET_LOW_BYTES)
        self.fill()

    def stop(self) -> None:
        """Write what is framed and nothing more."""
        self._ready.clear()
        self._write()
        self._transport = None

    def queue(self, outbox: Outbox) -> None:
        """Let a stream with something to send, or with new credit, have its turns."""
        if outbox.size or (outbox.is_ending and not outbox.has_ended):
            self._ready[outbox.stream_id] = outbox
            self.schedule()

    def forget(self, outbox: Outbox) -> None:
        """Send nothing more of this stream."""
        self._ready.pop(outbox.stream_id, None)

    def schedule(self) -> None:
        """Fill soon: what several streams say in one turn of the loop goes out in one write."""
        if not self._is_scheduled and self._transport is not None:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._fill_as_scheduled)

    def pause(self) -> None:
        """Frame nothing more: the socket holds enough."""
        self._is_writable = False

    def resume(self) -> None:
        """Go on after `pause`."""
        self._is_writable = True
        self.schedule()

    def fill(self) -> None:
        """Write what is framed, then frame and write as much as there is room for."""
        self._write()
        while self._is_writable and self._frame_batch():
            self._write()

    def _fill_as_scheduled(self) -> None:
        self._is_scheduled = False
        try:
            self.fill()
        except Exception as error:  # noqa: BLE001 - the owner decides, and logs
            self._failed(error)

    def _write(self) -> None:
        framed = self._engine.take_framed()
        if framed and self._transport is not None:
            self._transport.write(framed)
            if self._transport.get_write_buffer_size() > SOCKET_HIGH_BYTES + CONTROL_MAX_BYTES:
                self._stalled()

    def _frame_batch(self) -> int:
        """Frame about a batch; return its size, 0 if no stream may send."""
        batch = 0
        while batch < BATCH_BYTES and self._ready:
            outbox = self._ready.get(CONTROL_ID) or next(iter(self._ready.values()))
            room = self._connection_credit(outbox)
            if outbox.size and not room:
                break
            batch += self._frame(outbox, room)
        return batch

    def _connection_credit(self, outbox: Outbox) -> int:
        credit = self._engine.outbound_flow_control_window
        reserve = 0 if outbox.stream_id == CONTROL_ID else CONTROL_RESERVE_BYTES
        return max(credit - reserve, 0)

    def _frame(self, outbox: Outbox, room: int) -> int:
        """Frame one turn of a stream; return the bytes it made, at least 1 if any."""
        del self._ready[outbox.stream_id]
        share = FRAME_SHARED_BYTES if self._ready else FRAME_BYTES
        # A peer that lowers its window leaves less than no credit (RFC 9113 §6.9.2).
        credit = max(self._engine.local_flow_control_window(outbox.stream_id), 0)
        size = min(outbox.size, room, share, credit, self._engine.max_outbound_frame_size)
        is_last = outbox.is_ending and size == outbox.size
        if not size and not is_last:
            return 0  # new credit will queue it again
        self._engine.frame_data(outbox.stream_id, outbox.take(size), size, is_last=is_last)
        if is_last:
            outbox.end()
        elif outbox.size:
            self._ready[outbox.stream_id] = outbox
        return size + 1
