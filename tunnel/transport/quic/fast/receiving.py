"""Taking 1-RTT packets apart: bulk many packets at a time, common frames one by one.

Whatever else a packet holds, and every packet that is not plain 1-RTT of the path in use, goes to
aioquic.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from aioquic.quic.connection import END_STATES, QuicConnectionError, QuicReceiveContext
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.packet import QuicErrorCode, QuicStreamFrame
from aioquic.quic.recovery import MAX_ACK_RANGES
from aioquic.quic.stream import FinalSizeError, QuicStream
from aioquic.tls import Epoch

from tunnel.transport.inbox import CHUNK_MAX_BYTES
from tunnel.transport.quic.fast.bypass import BypassConnection
from tunnel.transport.quic.fast.codec import (
    ACK,
    PADDING,
    PING,
    STREAM,
    STREAM_FIN,
    STREAM_LENGTH,
    STREAM_OFFSET,
    VARINT_4,
    VARINT_8,
    WHOLE,
    WHOLE_HEADER,
    alike,
    pull_ack,
    pull_varint,
    whole_headers,
)
from tunnel.transport.quic.fast.sealing import (
    SAMPLE_END,
    Opened,
    open_burst,
    open_train,
    opening_keys,
)
from tunnel.transport.quic.halves import receiver_of
from tunnel.transport.quic.routes import CONNECTION_ID_BYTES
from tunnel.transport.quic.trains import Train, remaining, shortest

ACK_PACKETS = 10  # are acknowledged together, or with all others of a burst
ACK_SECONDS = 0.02  # or after so long, or a quarter of a round trip; we announce 25 ms at most
REMEMBERED = 128  # packet numbers by which aioquic knows duplicates; older ones count as such


def gather(burst: Opened, index: int, offset: int, limit: int) -> list[bytes]:
    """Return what consecutive packets bring of the stream of the one at `index`, from `offset` on.

    Each holds one frame that fills it; the bytes follow each other and stay below `limit`.
    """
    plains = burst.plains[index:]
    if burst.is_train and (pieces := _gather_alike(plains, offset, limit)):
        return pieces
    pieces = []
    number, wanted = burst.numbers[index], plains[0][:5]  # the type and the stream
    head, unpack = WHOLE_HEADER.size, WHOLE_HEADER.unpack_from
    for found, plain in zip(burst.numbers[index:], plains, strict=True):
        size = len(plain) - head
        if found != number or size <= 0 or plain[:5] != wanted:
            break
        if unpack(plain)[2] ^ VARINT_8 != offset or offset + size > limit:
            break
        pieces.append(plain[head:])
        offset += size
        number += 1
    return pieces


def _gather_alike(plains: Sequence[bytes], offset: int, limit: int) -> list[bytes]:
    """Do so at a glance for the packets of a train that are one run; none says nothing."""
    first, head = plains[0], WHOLE_HEADER.size
    size = len(first) - head
    if size <= 0:
        return []
    count = min(len(plains) - (len(plains[-1]) != len(first)), (limit - offset) // size)
    stream_id = WHOLE_HEADER.unpack_from(first)[1] ^ VARINT_4
    headers = b"".join([plain[:head] for plain in plains[:count]])
    count = alike(headers, whole_headers(stream_id, offset, size, count), head)
    return [plain[head:] for plain in plains[:count]]


class ReceivingConnection(BypassConnection):
    """The receiving side of the fast engine."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._is_disordered = False  # a packet of this burst came out of order

    def receive_burst(self, payloads: Sequence[bytes], source: Any, now: float) -> None:
        while payloads:
            looked_at = self._hear_burst(payloads, now) if self._may_hear(payloads, source) else 0
            if not looked_at:
                self.receive_datagram(payloads[0], source, now)
            payloads = remaining(payloads, looked_at or 1)

    def _may_hear(self, payloads: Sequence[bytes], source: Any) -> bool:
        return (
            self._is_bypassing()
            and source == self._network_paths[0].addr
            and len(self.host_cid) == CONNECTION_ID_BYTES
            and shortest(payloads) >= SAMPLE_END
        )

    def _hear_burst(self, payloads: Sequence[bytes], now: float) -> int:
        """Take packets up to the first that is aioquic's; return how many datagrams they were."""
        recv, space = self._one_rtt.recv, self._space
        about = opening_keys(recv), self.host_cid, recv.key_phase
        expected = space.largest_received_packet + 1
        burst = open_train(*about, payloads, expected) if isinstance(payloads, Train) else None
        if burst is None:
            burst = open_burst(*about, payloads, expected)
        self._is_disordered = False
        before = space.largest_received_packet
        owed = self._owed
        try:
            heard = self._hear_packets(burst, now)
        except QuicConnectionError as error:
            self.close(error.error_code, error.frame_type, error.reason_phrase)
            return len(payloads)
        if self._state in END_STATES or self._close_pending:
            return len(payloads)
        if heard:
            self._close_at = now + self._idle_timeout()
            self._ack_eliciting_sent_since_receipt = False
        if space.largest_received_packet > before:
            self._follow_spin(spin=burst.spin)
        if self._owed > owed:
            self._schedule_ack(now)
        return burst.looked_at

    def _follow_spin(self, *, spin: bool) -> None:
        """Show the path's observers its round trip (RFC 9000 §17.4)."""
        self._spin_bit = spin != self._is_client
        self._spin_highest_pn = self._space.largest_received_packet

    def _schedule_ack(self, now: float) -> None:
        """Acknowledge at once what came out of order or in numbers, the rest soon."""
        space = self._space
        if self._is_disordered or self._owed >= ACK_PACKETS:
            space.ack_at = now
        elif space.ack_at is None:
            quarter = self._recovery.smoothed_rtt / 4
            space.ack_at = now + min(ACK_SECONDS, max(self._ack_delay, quarter))

    def _hear_packets(self, burst: Opened, now: float) -> int:
        """Return how many packets were new."""
        index = heard = 0
        space = self._space
        while index < len(burst.plains):
            number, plain = burst.numbers[index], burst.plains[index]
            is_newest = number > space.largest_received_packet
            taken = self._hear_bulk(burst, index) if is_newest and plain[:1] == _BULK else 0
            if taken:
                self._note_received(number, number + taken, now)
                self._owed += taken
                self.decrypted += taken
            elif is_newest or number not in space.received_packets:
                taken = 1
                self._owed += self._hear_frames(plain, now)
                if self._state in END_STATES or self._close_pending:
                    break
                self._note_received(number, number + 1, now)
            heard += taken
            index += taken or 1
        return heard

    def _note_received(self, start: int, stop: int, now: float) -> None:
        """Remember packet numbers, for acknowledgements and to know duplicates."""
        space = self._space
        missed = start - space.largest_received_packet - 1
        if missed:
            self._is_disordered = True
        # What comes late was counted as lost before.
        lost = missed if missed >= 0 else start - stop
        self._recovery.losses.add(arrived=stop - start, lost=lost)
        space.ack_queue.add(start, stop)
        if len(space.ack_queue) > MAX_ACK_RANGES:
            space.ack_queue.shift()
        window = space.received_packets
        window._received.update(range(max(start, stop - REMEMBERED), stop - 1))  # noqa: SLF001 - one by one they cost as much as the bytes
        window.add(stop - 1)
        if stop - 1 > space.largest_received_packet:
            space.largest_received_packet = stop - 1
            space.largest_received_time = now
        space.expected_packet_number = max(space.expected_packet_number, stop)

    def _hear_bulk(self, burst: Opened, index: int) -> int:
        """Take packets that hold consecutive bytes of one stream; return how many they are."""
        plain = burst.plains[index]
        if len(plain) <= WHOLE_HEADER.size:
            return 0
        _, marked_id, marked_offset = WHOLE_HEADER.unpack_from(plain)
        stream = self._streams.get(marked_id ^ VARINT_4)
        if stream is None:
            return 0
        receiver = receiver_of(stream)
        start = marked_offset ^ VARINT_8
        if start != receiver.next_offset:
            return 0
        credit = self._local_max_data
        room = min(credit.value - credit.used, CHUNK_MAX_BYTES)
        limit = min(stream.max_stream_data_local, start + room)
        pieces = gather(burst, index, start, limit)
        if pieces:
            data = b"".join(pieces)
            receiver.advance(len(data))
            credit.used += len(data)
            event = StreamDataReceived(data=data, end_stream=False, stream_id=marked_id ^ VARINT_4)
            self._events.append(event)
        return len(pieces)

    def _hear_frames(self, plain: bytes, now: float) -> bool:
        """Take one packet's frames; return whether they ask for an acknowledgement."""
        at, is_eliciting = 0, False
        with suppress(IndexError):  # cut short: aioquic says so
            while at < len(plain):
                kind = plain[at]
                after = self._hear_frame(kind, plain, at, now)
                if after is None:
                    break
                at = after
                is_eliciting = is_eliciting or kind not in {ACK, PADDING}
        if at < len(plain) or not plain:
            return self._hear_rare(plain[at:], now) or is_eliciting
        self.decrypted += 1
        return is_eliciting

    def _hear_frame(self, kind: int, plain: bytes, at: int, now: float) -> int | None:
        """Take the frame that begins there; return where the next does, None if it is aioquic's."""
        if kind == ACK:
            return self._hear_ack(plain, at, now)
        if kind & 0xF8 == STREAM:
            return self._hear_stream(plain, at)
        return at + 1 if kind in {PING, PADDING} else None

    def _hear_rare(self, frames: bytes, now: float) -> bool:
        context = QuicReceiveContext(
            epoch=Epoch.ONE_RTT,
            host_cid=self.host_cid,
            network_path=self._network_paths[0],
            quic_logger_frames=None,
            time=now,
            version=None,
        )
        is_eliciting, _ = self._payload_received(context, frames)
        return is_eliciting

    def _hear_ack(self, plain: bytes, at: int, now: float) -> int | None:
        try:
            ranges, delay, after = pull_ack(plain, at)
        except ValueError:
            return None
        if ranges[-1].stop > self._packet_number:
            reason = "a packet is acknowledged that was never sent"
            raise _fault(QuicErrorCode.PROTOCOL_VIOLATION, ACK, reason)
        seconds = (delay << self._remote_ack_delay_exponent) / 1_000_000
        self._recovery.on_ack_received(
            ack_rangeset=ranges, ack_delay=seconds, now=now, space=self._space
        )
        return after

    def _hear_stream(self, plain: bytes, at: int) -> int | None:
        """Take a STREAM frame and return where the next is; None if aioquic should judge it."""
        kind = plain[at]
        stream_id, at = pull_varint(plain, at + 1)
        offset, at = pull_varint(plain, at) if kind & STREAM_OFFSET else (0, at)
        size, at = pull_varint(plain, at) if kind & STREAM_LENGTH else (len(plain) - at, at)
        after = at + size
        if after > len(plain):
            return None
        stream = self._streams.get(stream_id) or self._open_by_peer(kind, stream_id)
        if stream is None or offset + size > stream.max_stream_data_local:
            return None
        receiver, credit = stream.receiver, self._local_max_data
        new = max(0, offset + size - receiver.highest_offset)
        if credit.used + new > credit.value:
            return None
        frame = QuicStreamFrame(data=plain[at:after], fin=bool(kind & STREAM_FIN), offset=offset)
        try:
            event = receiver.handle_frame(frame)
        except FinalSizeError as error:
            raise _fault(QuicErrorCode.FINAL_SIZE_ERROR, kind, str(error)) from error
        credit.used += new
        if event is not None:
            self._events.append(event)
        return after

    def _open_by_peer(self, kind: int, stream_id: int) -> QuicStream | None:
        """Return the stream that a frame of the peer opens; None if aioquic should judge it."""
        streams = self._local_max_streams_bidi
        is_next = streams.used <= stream_id // 4 < streams.value
        if not is_next or stream_id & 2 or not self._is_peers(stream_id):
            return None
        stream: QuicStream = self._get_or_create_stream(kind, stream_id)
        return stream


_BULK = bytes((WHOLE,))


def _fault(code: QuicErrorCode, kind: int, reason: str) -> QuicConnectionError:
    return QuicConnectionError(error_code=code, frame_type=kind, reason_phrase=reason)
