"""What goes into each 1-RTT packet, and in which order.

aioquic writes the frames; which streams are looked at is decided here, so that a packet costs the
same whether ten or a thousand streams are open. The order: acknowledgements and what keeps the
connection going, credit, then the control stream, then the others in turn.
"""

from collections import deque
from typing import Any

from aioquic.quic.connection import QuicConnection, QuicNetworkPath
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicPacketBuilderStop
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch

from tunnel.transport.options import CONTROL_RESERVE_BYTES
from tunnel.transport.quic.halves import Sender, StreamTable, number_of, sender_of

CONTROL_STREAM = 1  # the first bidirectional stream that a QUIC server opens
LEAST_ROOM_BYTES = 32  # a STREAM frame's header and a few bytes: below it, the next packet


class SendQueue:
    """The streams that want to send, each once; the control stream before all others."""

    def __init__(self) -> None:
        self._turns: deque[int] = deque()
        self._queued: set[int] = set()

    def __len__(self) -> int:
        return len(self._turns)

    @property
    def first(self) -> int:
        """The stream whose turn it is."""
        return self._turns[0]

    def add(self, stream_id: int) -> None:
        """Queue a stream, unless it is queued already."""
        if stream_id in self._queued:
            return
        self._queued.add(stream_id)
        if stream_id == CONTROL_STREAM:
            self._turns.appendleft(stream_id)
        else:
            self._turns.append(stream_id)

    def append(self, stream: QuicStream) -> None:
        """Queue a stream that aioquic has just made (its own queue is a list)."""
        self.add(number_of(stream))

    def yield_turn(self) -> None:
        """Let the first stream wait until the others had their turn; the control stream never."""
        if self.first != CONTROL_STREAM:
            self._turns.rotate(-1)

    def remove_first(self) -> None:
        """Drop the stream whose turn it is."""
        self._queued.discard(self._turns.popleft())


class WritingConnection(QuicConnection):
    """aioquic's connection with our choice of what each packet carries."""

    sender_kind = Sender

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._sending = SendQueue()
        self._starved: set[int] = set()  # want to send, wait for credit of the peer
        self._limits_due: set[int] = set()  # have credit to grant to the peer
        self._done: list[int] = []  # both halves have ended, not yet forgotten
        self._control_reserve = 0
        self._delivered = 0  # bytes of all streams that wait for no others any more
        self._streams = StreamTable(
            self.sender_kind,
            wake=self._sending.add,
            ended=self._note_ended,
            delivered=self._note_delivered,
            opened=self._note_opened,
        )
        self._streams_queue = self._sending  # type: ignore[assignment]  # aioquic only appends

    def _note_opened(self, stream_id: int) -> None:
        """Do something about a stream that has just been made, by either side."""

    def _note_ended(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None and stream.is_finished:
            self._done.append(stream_id)

    def _note_delivered(self, size: int) -> None:
        self._delivered += size

    def _write_application(
        self, builder: QuicPacketBuilder, network_path: QuicNetworkPath, now: float
    ) -> None:
        """Fill packets until nothing is left, or pacing or the congestion window says stop."""
        crypto = self._cryptos[Epoch.ONE_RTT]
        if not crypto.send.is_valid():
            return  # there is no 0-RTT here
        space = self._spaces[Epoch.ONE_RTT]
        while self._may_send(space, now):
            builder.start_packet(QuicPacketType.ONE_RTT, crypto)
            try:
                self._fill_packet(builder, network_path, space, now)
            except QuicPacketBuilderStop:
                if builder.packet_is_empty:
                    raise  # not this packet is full but the congestion window
            if builder.packet_is_empty:
                self._note_app_limited()
                return
            self._loss._pacer.update_after_send(now=now)  # noqa: SLF001 - as aioquic does

    def _note_app_limited(self) -> None:
        """Learn that there is nothing more to send although it might leave."""

    def _may_send(self, space: QuicPacketSpace, now: float) -> bool:
        if space.ack_at is not None and space.ack_at <= now:
            return True
        self._pacing_at = self._loss._pacer.next_send_time(now=now)  # noqa: SLF001 - as aioquic does
        return self._pacing_at is None

    def _fill_packet(
        self,
        builder: QuicPacketBuilder,
        path: QuicNetworkPath,
        space: QuicPacketSpace,
        now: float,
    ) -> None:
        if space.ack_at is not None and space.ack_at <= now:
            self._write_ack_frame(builder=builder, space=space, now=now)
        if self._handshake_complete:
            self._write_path_frames(builder, path, now)
            self._write_connection_ids(builder)
            self._write_connection_limits(builder=builder, space=space)
            self._write_due_limits(builder, space)
        self._write_pings(builder)
        crypto_stream = self._crypto_streams[Epoch.ONE_RTT]
        if not crypto_stream.sender.buffer_is_empty:
            self._write_crypto_frame(builder=builder, space=space, stream=crypto_stream)
        self._write_turns(builder, space)

    def _write_path_frames(
        self, builder: QuicPacketBuilder, path: QuicNetworkPath, now: float
    ) -> None:
        if not (path.is_validated or path.local_challenge_sent):
            self._write_path_challenge_frame(builder=builder, network_path=path)
            if path.validation_deadline is None:
                path.validation_deadline = now + self._validation_timeout()
        if self._handshake_done_pending:
            self._write_handshake_done_frame(builder=builder)
            self._handshake_done_pending = False
        while path.remote_challenges:
            self._write_path_response_frame(builder=builder, challenge=path.remote_challenges[0])
            path.remote_challenges.popleft()

    def _validation_timeout(self) -> float:
        """Seconds until a path is given up: three times the larger PTO (RFC 9000 §8.2.4)."""
        return 3 * max(self._loss.get_probe_timeout(), 2 * self._configuration.initial_rtt)

    def _write_connection_ids(self, builder: QuicPacketBuilder) -> None:
        for connection_id in self._host_cids:
            if not connection_id.was_sent:
                self._write_new_connection_id_frame(builder=builder, connection_id=connection_id)
        while self._retire_connection_ids:
            self._write_retire_connection_id_frame(
                builder=builder, sequence_number=self._retire_connection_ids[0]
            )
            self._retire_connection_ids.pop(0)

    def _write_due_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        while self._limits_due:
            stream_id = next(iter(self._limits_due))
            stream = self._streams.get(stream_id)
            if stream is not None and not stream.receiver.is_finished:
                self._write_stream_limits(builder=builder, space=space, stream=stream)
            self._limits_due.discard(stream_id)

    def _write_pings(self, builder: QuicPacketBuilder) -> None:
        if self._ping_pending:
            self._write_ping_frame(builder, self._ping_pending)
            self._ping_pending.clear()
        if self._probe_pending:
            self._write_ping_frame(builder, comment="probe")
            self._probe_pending = False

    def _write_turns(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        for _ in range(len(self._sending)):
            if builder.remaining_flight_space < LEAST_ROOM_BYTES:
                return
            stream = self._streams.get(self._sending.first)
            if stream is not None and self._write_turn(builder, space, stream):
                self._sending.yield_turn()
            else:
                self._sending.remove_first()

    def _write_turn(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> bool:
        """Write what one stream may put into this packet; return whether it has more to send."""
        sender = sender_of(stream)
        if stream.receiver.stop_pending and not stream.receiver.is_finished:
            self._write_stop_sending_frame(builder=builder, stream=stream)
        if sender.reset_pending:
            self._write_reset_stream_frame(builder=builder, stream=stream)
        if not sender.has_frame:
            return False
        max_offset = self._allowed_offset(stream)
        if sender.is_blocked_by(max_offset):
            self._starved.add(number_of(stream))
            return False
        self._remote_max_data_used += self._write_stream_frame(
            builder=builder, space=space, stream=stream, max_offset=max_offset
        )
        return sender.has_frame

    def _allowed_offset(self, stream: QuicStream) -> int:
        """Return the offset up to which the peer's credit lets the stream send."""
        credit = self._remote_max_data - self._remote_max_data_used
        if stream.stream_id != CONTROL_STREAM:
            credit = max(0, credit - self._control_reserve)
        return int(min(stream.sender.highest_offset + credit, stream.max_stream_data_remote))

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:  # noqa: FBT001, FBT002 - aioquic's signature
        super()._parse_transport_parameters(data, from_session_ticket)
        # A peer with a tiny window must still be able to send anything but control messages.
        self._control_reserve = min(CONTROL_RESERVE_BYTES, self._remote_max_data // 4)

    def _handle_max_data_frame(self, context: Any, frame_type: int, buf: Any) -> None:
        super()._handle_max_data_frame(context, frame_type, buf)
        self._requeue_starved()

    def _handle_max_stream_data_frame(self, context: Any, frame_type: int, buf: Any) -> None:
        start = buf.tell()
        stream_id = buf.pull_uint_var()
        buf.seek(start)
        super()._handle_max_stream_data_frame(context, frame_type, buf)
        if stream_id in self._starved:
            self._starved.discard(stream_id)
            self._sending.add(stream_id)

    def _requeue_starved(self) -> None:
        starved, self._starved = self._starved, set()
        for stream_id in starved:
            self._sending.add(stream_id)

    def _on_max_stream_data_delivery(self, delivery: Any, stream: QuicStream) -> None:
        super()._on_max_stream_data_delivery(delivery, stream)
        if stream.max_stream_data_local_sent != stream.max_stream_data_local:
            self._limits_due.add(number_of(stream))
