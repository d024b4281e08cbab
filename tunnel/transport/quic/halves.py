"""The two halves of a stream inside the engine: aioquic's own, made to say when they want a turn.

aioquic looks at every open stream for every packet. These halves tell instead, so that a thousand
idle streams cost nothing (see `writing`).
"""

from collections.abc import Callable
from typing import Any, cast

from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.events import StreamDataReceived, StreamReset
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicStreamFrame
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.stream import QuicStream, QuicStreamReceiver, QuicStreamSender

from tunnel.errors import LocalProtocolError

LOW_WATER_BYTES = 32 * 1024
"""A writer that waits for room goes on when no more than this is unsent."""

HELD_MAX_BYTES = 8 << 20
"""Of a stream, unsent or not acknowledged: a peer that never acknowledges the first byte but all
others has everything after it kept here."""

PIECES_MAX = 2048
"""Of a stream that came with gaps between them: each frame is compared with all of them."""

Notice = Callable[[int], None]


def number_of(stream: QuicStream) -> int:
    """Return the id of a stream of the peer's or ours (only aioquic's CRYPTO streams have none)."""
    if stream.stream_id is None:
        raise LocalProtocolError("a CRYPTO stream was taken for a stream")
    return stream.stream_id


class Sender(QuicStreamSender):
    """The sending half. `wake(stream_id)` is called whenever it has, or may have, a frame to send.

    `on_room`, if set, is called once, when at most LOW_WATER_BYTES are left unsent (and, of what
    was sent, not too much unacknowledged).
    """

    def __init__(self, stream: QuicStream, wake: Notice, ended: Notice) -> None:
        super().__init__(stream_id=stream.stream_id, writable=not stream.sender.is_finished)
        self._number = number_of(stream)
        self._wake = wake
        self._ended = ended
        self.on_room: Callable[[], None] | None = None
        self.must_announce = False  # the peer has to learn of the stream before it has bytes

    @property
    def unsent(self) -> int:
        """Bytes accepted and never sent yet."""
        return int(self._buffer_stop - self.highest_offset)

    @property
    def held(self) -> int:
        """Bytes kept here, because they were not sent or not acknowledged."""
        return int(self._buffer_stop - self._buffer_start)

    @property
    def has_frame(self) -> bool:
        """Whether a STREAM frame waits to be sent, be it blocked by the peer's credit or not."""
        if self._reset_error_code is not None:
            return False
        return len(self._pending) > 0 or self._pending_eof or self.must_announce

    def is_blocked_by(self, max_offset: int) -> bool:
        """Whether the next frame has to wait until the peer grants more than `max_offset`."""
        return len(self._pending) > 0 and self._pending[0].start >= max_offset

    def write(self, data: bytes | bytearray | memoryview, end_stream: bool = False) -> None:  # noqa: FBT001, FBT002 - aioquic's signature
        """Queue bytes, and the end of the stream after them."""
        super().write(data, end_stream)  # type: ignore[arg-type]  # any buffer may be appended
        self._wake(self._number)

    def get_frame(self, max_size: int, max_offset: int | None = None) -> QuicStreamFrame | None:
        """Return the next frame to send that fits, or None."""
        frame = super().get_frame(max_size, max_offset)
        if frame is None and self.must_announce and max_size >= 0:
            frame = QuicStreamFrame(offset=self.highest_offset)
        if frame is not None:
            self.must_announce = False
        self._report_any_room()
        return frame

    def on_data_delivery(
        self,
        delivery: QuicDeliveryState,
        start: int,
        stop: int,
        fin: bool,  # noqa: FBT001 - aioquic's signature
    ) -> None:
        """Note that a frame was acknowledged or lost."""
        super().on_data_delivery(delivery, start, stop, fin)
        if delivery is QuicDeliveryState.LOST:
            self.must_announce = self.must_announce or self.highest_offset == 0
            self._wake(self._number)
            return
        self._report_any_room()
        if self.is_finished:
            self._ended(self._number)

    def on_reset_delivery(self, delivery: QuicDeliveryState) -> None:
        """Note that our RESET_STREAM was acknowledged or lost."""
        super().on_reset_delivery(delivery)
        if self.is_finished:
            self._ended(self._number)
        else:
            self._wake(self._number)

    def reset(self, error_code: int) -> None:
        """Drop what is unsent and tell the peer, unless everything has been acknowledged."""
        super().reset(error_code)
        if self.reset_pending:
            # The offsets stay: RESET_STREAM carries the final size. The bytes need not.
            self._buffer.clear()
            self._wake(self._number)
        if self.on_room is not None:
            self._report_room()

    def _report_any_room(self) -> None:
        is_roomy = self.unsent <= LOW_WATER_BYTES and self.held <= HELD_MAX_BYTES
        if self.on_room is not None and is_roomy:
            self._report_room()

    def _report_room(self) -> None:
        report, self.on_room = self.on_room, None
        if report is not None:
            report()


class Receiver(QuicStreamReceiver):
    """The receiving half, with the same two notices as the sending one.

    `delivered(size)` is called for bytes that wait for no others any more.
    """

    def __init__(self, stream: QuicStream, wake: Notice, ended: Notice, delivered: Notice) -> None:
        super().__init__(stream_id=stream.stream_id, readable=not stream.receiver.is_finished)
        self._number = number_of(stream)
        self._wake = wake
        self._ended = ended
        self._delivered = delivered

    @property
    def next_offset(self) -> int:
        """The offset of the byte that could be delivered at once; -1 if some wait behind it."""
        if self.is_finished or self._buffer or self._final_size is not None:
            return -1
        return self._buffer_start

    def advance(self, size: int) -> None:
        """Note that bytes from `next_offset` on were delivered by others."""
        self._buffer_start += size
        self.highest_offset = self._buffer_start
        self._delivered(size)

    def handle_frame(self, frame: QuicStreamFrame) -> StreamDataReceived | None:
        """Return the event of bytes that became readable."""
        start = self._buffer_start
        event = super().handle_frame(frame)
        self._delivered(self._buffer_start - start)
        if len(self._ranges) > PIECES_MAX:
            raise QuicConnectionError(
                error_code=QuicErrorCode.PROTOCOL_VIOLATION,
                frame_type=QuicFrameType.STREAM_BASE,
                reason_phrase="stream in too many pieces",
            )
        if self.is_finished:
            self._ended(self._number)
        return event

    def handle_reset(self, **frame: Any) -> StreamReset | None:
        """Return the event of the peer's RESET_STREAM."""
        event = super().handle_reset(**frame)
        if event is not None:
            self._delivered(self.highest_offset - self._buffer_start)
            self._buffer.clear()
            self._ranges = RangeSet()
        self._ended(self._number)
        return event

    def stop(self, error_code: int = 0) -> None:
        """Ask the peer to send no more."""
        super().stop(error_code)
        self._wake(self._number)

    def on_stop_sending_delivery(self, delivery: QuicDeliveryState) -> None:
        """Note that our STOP_SENDING was acknowledged or lost."""
        super().on_stop_sending_delivery(delivery)
        self._wake(self._number)


def sender_of(stream: QuicStream) -> Sender:
    """Return the sending half of a stream that went through a StreamTable."""
    return cast(Sender, stream.sender)


def receiver_of(stream: QuicStream) -> Receiver:
    """Return the receiving half of a stream that went through a StreamTable."""
    return cast(Receiver, stream.receiver)


class StreamTable(dict[int, QuicStream]):
    """aioquic's streams by id; a stream that enters gets our halves."""

    def __init__(
        self,
        sender_kind: type[Sender],
        *,
        wake: Notice,
        ended: Notice,
        delivered: Notice,
        opened: Notice,
    ) -> None:
        super().__init__()
        self._sender_kind = sender_kind
        self._wake = wake
        self._ended = ended
        self._delivered = delivered
        self._opened = opened

    def __setitem__(self, stream_id: int, stream: QuicStream) -> None:
        stream.sender = self._sender_kind(stream, self._wake, self._ended)
        stream.receiver = Receiver(stream, self._wake, self._ended, self._delivered)
        super().__setitem__(stream_id, stream)
        self._opened(stream_id)
