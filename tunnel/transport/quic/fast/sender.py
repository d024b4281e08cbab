"""The sending half of a stream, whose bytes move into the records of the packets that carry them.

Nothing is searched or shifted when an acknowledgement comes: it is counted. What is lost comes back
as a copy of its own, so that a small loss does not hold a large piece.
"""

from collections import deque
from typing import NamedTuple, cast

from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.stream import QuicStream

from tunnel.errors import LocalProtocolError
from tunnel.transport.quic.fast.chunks import ChunkQueue
from tunnel.transport.quic.fast.records import Run
from tunnel.transport.quic.halves import Notice, Sender


class Frame(NamedTuple):
    """What one STREAM frame carries."""

    offset: int
    data: bytes
    fin: bool


class ChunkSender(Sender):
    """As Sender; frames are taken by `take`, runs by `take_run`, and each is reported once."""

    def __init__(self, stream: QuicStream, wake: Notice, ended: Notice) -> None:
        super().__init__(stream, wake, ended)
        self._queue = ChunkQueue()
        self._returned: deque[Frame] = deque()  # were lost, go out again before anything else
        self._settled = 0  # bytes acknowledged

    @property
    def held(self) -> int:
        return self._buffer_stop - self._settled

    @property
    def has_frame(self) -> bool:
        if self._reset_error_code is not None:
            return False
        return bool(self._returned or self._queue.size or self._pending_eof or self.must_announce)

    @property
    def in_runs(self) -> int:
        """Bytes that may leave in runs now; the last byte before the end goes out with it."""
        if self._returned or self._reset_error_code is not None:
            return 0
        return self._queue.size - self._pending_eof

    def is_blocked_by(self, max_offset: int) -> bool:
        is_new = not self._returned and self._queue.size > 0
        return is_new and self.highest_offset >= max_offset

    def write(self, data: bytes | bytearray | memoryview, end_stream: bool = False) -> None:  # noqa: FBT001, FBT002 - aioquic's signature
        if self._buffer_fin is not None:
            raise LocalProtocolError("write after the end of a stream")
        if self._reset_error_code is not None:
            raise LocalProtocolError("write to a stream that was reset")
        if data:
            self._queue.append(bytes(data))  # copies nothing that cannot change
            self._buffer_stop += len(data)
        if end_stream:
            self._buffer_fin = self._buffer_stop
            self._pending_eof = True
        self._wake(self._number)

    def take(self, max_size: int, max_offset: int) -> Frame | None:
        """Return the next frame of at most `max_size` bytes; None if it has to wait for credit."""
        if self._returned:
            return self._take_returned(max_size)
        size = min(max_size, max_offset - self.highest_offset, self._queue.size)
        if size <= 0 and not self.must_announce and (self._queue.size or not self._pending_eof):
            return None
        offset = self.highest_offset
        data = self._queue.take(max(0, size))
        self.highest_offset += len(data)
        fin = self.highest_offset == self._buffer_fin
        if fin:
            self._pending_eof = False
        self.must_announce = False
        self._report_any_room()
        return Frame(offset, data, fin)

    def _take_returned(self, max_size: int) -> Frame:
        frame = self._returned.popleft()
        if len(frame.data) <= max_size:
            return frame
        rest = Frame(frame.offset + max_size, frame.data[max_size:], frame.fin)
        self._returned.appendleft(rest)
        return Frame(frame.offset, frame.data[:max_size], fin=False)

    def take_run(self, run: Run, size: int) -> None:
        """Fill a run with packets of `size` bytes, as many as there are, at most as it has."""
        chunk, position = self._queue.ahead(size)
        run.count = min(run.count, (len(chunk) - position) // size)
        run.carry(self.highest_offset, chunk, position, size)
        self._queue.skip(run.count * size)
        self.highest_offset += run.count * size
        self.must_announce = False
        self._report_any_room()

    def on_frame_delivery(self, delivery: QuicDeliveryState, frame: Frame) -> None:
        """Note that a frame was acknowledged or lost."""
        if self._reset_error_code is not None:
            return
        if delivery is QuicDeliveryState.ACKED:
            self._acked_fin = self._acked_fin or frame.fin
            self._settle(len(frame.data))
        elif frame.data or frame.fin:
            self._give_back(frame)
        else:
            self.must_announce = self.highest_offset == 0
            self._wake(self._number)

    def on_run_delivery(self, delivery: QuicDeliveryState, run: Run) -> None:
        """Note that all packets of a run, or of a part of one, were acknowledged or lost."""
        if self._reset_error_code is not None:
            return
        if delivery is QuicDeliveryState.ACKED:
            self._settle(run.count * run.size)
        else:
            self._give_back(Frame(run.offset, run.data, fin=False))

    def reset(self, error_code: int) -> None:
        super().reset(error_code)
        if self.reset_pending:
            self._queue.clear()
            self._returned.clear()

    def _settle(self, size: int) -> None:
        self._settled += size
        self._report_any_room()
        if self._acked_fin and self._settled == self._buffer_fin:
            self.is_finished = True
            self._ended(self._number)

    def _give_back(self, frame: Frame) -> None:
        self._returned.append(frame)
        self._wake(self._number)


def chunks_of(stream: QuicStream) -> ChunkSender:
    """Return the sending half of a stream of the fast engine."""
    return cast(ChunkSender, stream.sender)
