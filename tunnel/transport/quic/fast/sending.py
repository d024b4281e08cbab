"""Filling 1-RTT packets: runs of one stream's bytes in bulk, everything else frame by frame.

The order is that of `writing`: acknowledgements, what keeps the connection going, credit, then the
control stream, then the others in turn, then copies (`repeating`). Rare frames are left to
aioquic's own writer, in packets of their own.
"""

from collections.abc import Callable
from typing import Any

from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream

from tunnel.transport.quic.fast.bypass import BypassConnection
from tunnel.transport.quic.fast.codec import (
    MAX_STREAM_DATA,
    PING,
    RESET_STREAM,
    SIZED_HEADER,
    STOP_SENDING,
    WHOLE_HEADER,
    ack_frame,
    push_varint,
    sized_header,
)
from tunnel.transport.quic.fast.records import Handlers, Record, Run
from tunnel.transport.quic.fast.repeating import Original, Originals, wait_before_copy
from tunnel.transport.quic.fast.sealing import OVERHEAD_BYTES, Sealer, sealing_keys
from tunnel.transport.quic.fast.sender import Frame, chunks_of
from tunnel.transport.quic.halves import number_of
from tunnel.transport.quic.trains import Burst

TURN_PACKETS = 16  # of one stream, before the next one has its turn
TURN_SECONDS, TURN_MOST_PACKETS = 0.001, 48  # or as many as leave in so long, but no more than that
TURN_ALONE_PACKETS = 192  # where no other waits: a run costs as much as several packets
LEAST_ROOM_BYTES = 64  # what is left of a packet below it is not worth a frame
CUT_BYTES = 64  # RESET_STREAM and STOP_SENDING at their longest
NUMBERS_MAX = 1 << 14  # not acknowledged: their 2 bytes have to stay unambiguous (RFC 9000 §A.2)
ACKS_ALONE_MAX = 64  # packets in a row that nobody acknowledges; the records of them pile up
ACKS_WITH_GAPS_MAX = 8  # and where there are gaps they grow long


class Flight:
    """The packets of one call: what may still leave, and what has."""

    __slots__ = ("allowed", "datagram_bytes", "eliciting", "is_awaited", "now", "sealer", "tails")

    def __init__(self, sealer: Sealer, allowed: int, datagram_bytes: int, now: float) -> None:
        self.sealer = sealer
        self.allowed = allowed  # packets that ask for an acknowledgement
        self.datagram_bytes = datagram_bytes
        self.now = now
        self.eliciting = 0
        self.is_awaited = False  # a writer has been told that there is room: more comes at once
        self.tails: set[int] = set()  # streams whose last bytes wait for that to fill a packet


class Content:
    """The frames of one packet in the making."""

    __slots__ = ("_acks", "_parts", "handlers", "is_eliciting", "room")

    def __init__(self, room: int) -> None:
        self._acks: list[bytes] = []
        self._parts: list[bytes] = []
        self.handlers: Handlers = []  # those of acknowledgements first
        self.is_eliciting = False
        self.room = room  # bytes

    def add(self, frame: bytes, told: Callable[..., None] | None, *arguments: Any) -> None:
        """Add a frame that asks for an acknowledgement; `told` hears what has become of it."""
        self._parts.append(frame)
        self.room -= len(frame)
        self.is_eliciting = True
        if told is not None:
            self.handlers.append((told, arguments))

    def add_ack(self, frame: bytes, told: Callable[..., None], *arguments: Any) -> None:
        """Add an ACK frame, which asks for nothing; before all others."""
        self._acks.append(frame)
        self.room -= len(frame)
        self.handlers.append((told, arguments))

    @property
    def plain(self) -> bytes:
        """The frames, b"" if there are none."""
        return b"".join((*self._acks, *self._parts))

    def original(self, record: Record) -> Original:
        """Return what may be sent once more of the packet that was made of it."""
        return Original(record, b"".join(self._parts), len(self._acks))


class SendingConnection(BypassConnection):
    """The sending side of the fast engine."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._acks_alone = 0
        self._originals = Originals()

    def _build_bursts(self, now: float) -> list[Burst]:
        if not self._is_bypassing():
            return super()._build_bursts(now)
        self._pacing_at = None
        rare = self._write_rare_frames(now) if self._has_rare_frames() else []
        return rare + self._transmit(now)

    def _write_turns(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        if not self._is_writing_rare:
            super()._write_turns(builder, space)

    def _transmit(self, now: float) -> list[Burst]:
        """Return all packets that may leave now."""
        is_mixed_due = self._is_mixed_due(now)
        is_copy_due = _is_due(self._originals.due_at, now)
        if not (is_mixed_due or is_copy_due or self._sending):
            return []
        flight = self._begin_flight(now)
        if is_mixed_due:
            self._seal_mixed(flight)
        self._seal_turns(flight)
        if is_copy_due:
            self._seal_copies(flight)
        return self._end_flight(flight)

    def _is_mixed_due(self, now: float) -> bool:
        """Say whether frames are due that wait for no stream's turn; grants connection credit."""
        is_owed = _is_due(self._space.ack_at, now) or self._connection_limits_due()
        return bool(is_owed or self._limits_due or self._probe_pending)

    def _begin_flight(self, now: float) -> Flight:
        size = self._max_datagram_size
        loss, space = self._recovery, self._space
        allowed = (loss.congestion_window - loss.bytes_in_flight) // size
        paced = loss.pacer.packets_allowed(now)
        if paced is not None and paced < allowed:
            allowed = paced
            self._pacing_at = loss.pacer.resume_at(now)
        known = self._packet_number - space.largest_acked_packet
        allowed = max(int(self._probe_pending), min(allowed, NUMBERS_MAX - known))
        crypto = self._one_rtt
        if crypto._update_key_requested:  # noqa: SLF001 - as aioquic does before it seals
            crypto._update_key("local_update")  # noqa: SLF001 - as above
        sealer = Sealer(
            sealing_keys(crypto.send),
            self._peer_cid.cid,
            self._packet_number,
            phase=crypto.send.key_phase,
            spin=self._spin_bit,
        )
        return Flight(sealer, allowed, size, now)

    def _end_flight(self, flight: Flight) -> list[Burst]:
        path = self._network_paths[0]
        trains = flight.sealer.finish()
        self._packet_number = flight.sealer.number
        path.bytes_sent += flight.sealer.size
        if flight.eliciting:
            self._recovery.pacer.spend(flight.eliciting)
            if not self._ack_eliciting_sent_since_receipt:
                self._close_at = flight.now + self._idle_timeout()
                self._ack_eliciting_sent_since_receipt = True
        if flight.allowed > 0:
            self._pacing_at = None
            if not flight.is_awaited:
                self._recovery.note_app_limited()
        else:
            self._originals.clear()  # what follows is bulk, whose losses are soon known
        address = path.addr
        return [(train, address) for train in trains]

    def _seal_turns(self, flight: Flight) -> None:
        """Seal packets of streams and their credit, for as long as any may leave."""
        while flight.allowed > 0 and (self._sending or self._limits_due):
            if not self._seal_run(flight) and not self._seal_mixed(flight):
                return

    def _seal_run(self, flight: Flight) -> bool:
        """Seal a burst of full packets of the stream whose turn it is, if it has as many bytes."""
        stream = self._streams.get(self._sending.first) if self._sending else None
        if stream is None or stream.receiver.stop_pending:
            return False
        sender = chunks_of(stream)
        size = flight.datagram_bytes - OVERHEAD_BYTES - WHOLE_HEADER.size
        credit = self._allowed_offset(stream) - sender.highest_offset
        count = min(flight.allowed, self._turn_packets(), min(sender.in_runs, credit) // size)
        if count < 1:
            return False
        number = flight.sealer.number
        is_awaited = sender.on_room is not None
        run = Run(sender, number, count, flight.now)
        sender.take_run(run, size)
        if is_awaited:
            flight.is_awaited = True
        if is_awaited and sender.on_room is None:
            flight.tails.add(number_of(stream))
        run.sent_bytes = run.count * flight.datagram_bytes
        flight.sealer.seal_run(run, number_of(stream))
        self._count_sent(flight, run, run.count)
        self._remote_max_data_used += run.count * size
        if sender.has_frame:
            self._sending.yield_turn()
        else:
            self._sending.remove_first()
        return True

    def _turn_packets(self) -> int:
        """Return how many packets one stream may send at once."""
        if len(self._sending) == 1:
            return TURN_ALONE_PACKETS
        soon = self._recovery.pacer.packets_in(TURN_SECONDS)
        return max(TURN_PACKETS, min(soon, TURN_MOST_PACKETS))

    def _seal_mixed(self, flight: Flight) -> bool:
        """Seal one packet of whatever frames are due; return whether there were any."""
        content = Content(flight.datagram_bytes - OVERHEAD_BYTES)
        self._add_ack(content, flight)
        if flight.allowed > 0:
            self._add_control(content)
            self._add_turns(content, flight)
        plain = content.plain
        if not plain:
            return False
        record = self._seal_record(content, plain, flight)
        if content.is_eliciting and self._recovery.losses.is_lossy:
            due_at = flight.now + wait_before_copy(self._recovery.smoothed_rtt)
            self._originals.add(content.original(record), due_at)
        return True

    def _seal_copies(self, flight: Flight) -> None:
        """Seal packets of the frames of the last ones that may still be on their way, or lost."""
        originals = self._originals.take()
        while originals and flight.allowed > 0:
            content = Content(flight.datagram_bytes - OVERHEAD_BYTES)
            while originals and len(originals[-1].frames) <= content.room:
                original = originals.pop()
                content.add(original.frames, original.twin.note_copy)
            if content.is_eliciting:
                self._seal_record(content, content.plain, flight)
            else:
                originals.pop()  # datagrams have become smaller

    def _seal_record(self, content: Content, plain: bytes, flight: Flight) -> Record:
        number = flight.sealer.number
        flight.sealer.seal(plain)
        self._acks_alone = 0 if content.is_eliciting else self._acks_alone + 1
        record = Record(
            number,
            len(plain) + OVERHEAD_BYTES,
            flight.now,
            content.handlers,
            eliciting=content.is_eliciting,
        )
        self._count_sent(flight, record, int(content.is_eliciting))
        return record

    def _count_sent(self, flight: Flight, record: Record | Run, eliciting: int) -> None:
        self._recovery.on_packet_sent(packet=record, space=self._space)
        flight.eliciting += eliciting
        flight.allowed -= eliciting

    def _add_ack(self, content: Content, flight: Flight) -> None:
        """Acknowledge what has come, if anything new has: it costs little beside other frames."""
        space = self._space
        if space.ack_at is None or space.largest_received_time is None or not len(space.ack_queue):
            return
        delay = int((flight.now - space.largest_received_time) * 1_000_000)
        frame = ack_frame(space.ack_queue, delay >> self._local_ack_delay_exponent)
        content.add_ack(frame, self._on_ack_delivery, space, space.largest_received_packet)
        space.ack_at = None
        self._owed = 0
        most = ACKS_ALONE_MAX if len(space.ack_queue) == 1 else ACKS_WITH_GAPS_MAX
        if self._acks_alone >= most and flight.allowed > 0:
            content.add(bytes((PING,)), None)

    def _add_control(self, content: Content) -> None:
        if self._probe_pending:
            content.add(bytes((PING,)), None)
            self._probe_pending = False
        for limit in self._connection_limits_due():
            frame = _numbers(limit.frame_type, limit.value)
            content.add(frame, self._on_connection_limit_delivery, limit)
            limit.sent = limit.value
        while self._limits_due and content.room >= LEAST_ROOM_BYTES:
            stream = self._streams.get(self._limits_due.pop())
            if stream is not None and not stream.receiver.is_finished:
                self._add_stream_limit(content, stream)

    def _add_stream_limit(self, content: Content, stream: QuicStream) -> None:
        limit = stream.max_stream_data_local
        frame = _numbers(MAX_STREAM_DATA, number_of(stream), limit)
        content.add(frame, self._on_max_stream_data_delivery, stream)
        stream.max_stream_data_local_sent = limit

    def _add_turns(self, content: Content, flight: Flight) -> None:
        for _ in range(len(self._sending)):
            if content.room < LEAST_ROOM_BYTES + CUT_BYTES:
                return
            stream = self._streams.get(self._sending.first)
            if stream is not None and self._add_turn(content, flight, stream):
                self._sending.yield_turn()
            else:
                self._sending.remove_first()

    def _add_turn(self, content: Content, flight: Flight, stream: QuicStream) -> bool:
        """Add what one stream may put into this packet; return whether it has more to send."""
        _add_cut(content, stream)
        sender = chunks_of(stream)
        if not sender.has_frame:
            return False
        if number_of(stream) in flight.tails:
            return True
        max_offset = self._allowed_offset(stream)
        if sender.is_blocked_by(max_offset):
            self._starved.add(number_of(stream))
            return False
        before = sender.highest_offset
        flight.is_awaited = flight.is_awaited or sender.on_room is not None
        frame = sender.take(content.room - SIZED_HEADER.size, max_offset)
        if frame is None:
            return False
        _add_stream_frame(content, stream, frame)
        self._remote_max_data_used += sender.highest_offset - before
        return sender.has_frame


def _add_stream_frame(content: Content, stream: QuicStream, frame: Frame) -> None:
    header = sized_header(number_of(stream), frame.offset, len(frame.data), fin=frame.fin)
    content.add(header + frame.data, chunks_of(stream).on_frame_delivery, frame)


def _add_cut(content: Content, stream: QuicStream) -> None:
    sender, receiver = stream.sender, stream.receiver
    if receiver.stop_pending and not receiver.is_finished:
        stop = receiver.get_stop_frame()
        frame = _numbers(STOP_SENDING, stop.stream_id, stop.error_code)
        content.add(frame, receiver.on_stop_sending_delivery)
    if sender.reset_pending:
        reset = sender.get_reset_frame()
        frame = _numbers(RESET_STREAM, reset.stream_id, reset.error_code, reset.final_size)
        content.add(frame, sender.on_reset_delivery)


def _is_due(moment: float | None, now: float) -> bool:
    """Say whether a moment has come; None never does."""
    return moment is not None and moment <= now


def _numbers(*values: int) -> bytes:
    """Return a frame that is nothing but numbers, its type first."""
    return b"".join(map(push_varint, values))
