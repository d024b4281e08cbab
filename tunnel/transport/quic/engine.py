"""The QUIC engine: aioquic's connection with our flow control, limits and identities.

Sans-I/O: datagrams, requests and the time go in, datagrams and events come out. Everything above
uses this class and its events only, so that another engine can take its place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    Limit,
    QuicReceiveContext,
)
from aioquic.quic.events import ConnectionTerminated, QuicEvent
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from aioquic.tls import AlertDescription
from cryptography.x509 import Certificate

from tunnel.errors import LocalProtocolError
from tunnel.transport.options import ALONE, STREAMS_ADVERTISED, Share
from tunnel.transport.quic.frugality import FrugalConnection
from tunnel.transport.quic.halves import HELD_MAX_BYTES, number_of, sender_of
from tunnel.transport.quic.pacing import DebtPacer, has_rate, note_app_limited
from tunnel.transport.quic.reset import is_reset, reset_token
from tunnel.transport.quic.trains import Burst

HIGH_WATER_BYTES = 64 * 1024  # unsent bytes of a stream above which its writer should wait
KEY_UPDATE_PACKETS = 1 << 20  # RFC 9001 §6.6 allows 2^23 for AES-GCM


@dataclass(frozen=True, slots=True)
class StreamOpened(QuicEvent):
    """The peer has opened a stream."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class StreamsAllowed(QuicEvent):
    """The peer allows more streams than before."""


class Engine(FrugalConnection):
    """One QUIC connection. Byte counts are of stream payload; times are those handed in as `now`.

    `reset_key` is what a listener derives its stateless reset tokens from, `original_id` and
    `retry_id` are the connection ids of the client's first packet (RFC 9000 §7.3); `share` is which
    process is to be led to by the ids that this end issues.
    """

    def __init__(
        self,
        configuration: QuicConfiguration,
        reset_key: bytes = b"",
        original_id: bytes | None = None,
        retry_id: bytes | None = None,
        share: Share = ALONE,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_id,
            retry_source_connection_id=retry_id,
        )
        self._pace()
        self._reset_key, self._share = reset_key, share
        self._settle_ids()
        self.host_cid = self._local_initial_source_connection_id = self._host_cids[0].cid
        self._limit_streams(STREAMS_ADVERTISED if configuration.is_client else 0)
        self._key_update_due = KEY_UPDATE_PACKETS
        self.decrypted = 0  # packets of the peer that were authentic

    def _pace(self) -> None:
        """Have a controller that gives a rate paced by it: aioquic's pacer knows windows only."""
        control = self._loss._cc  # noqa: SLF001 - there is no public way to it
        if has_rate(control):
            size = self._configuration.max_datagram_size
            self._loss._pacer = DebtPacer(control, size)  # noqa: SLF001 - nor to this one

    def _note_app_limited(self) -> None:
        note_app_limited(self._loss._cc)  # noqa: SLF001 - as in `_pace`

    def _limit_streams(self, bidirectional: int) -> None:
        streams, one_way = self._local_max_streams_bidi, self._local_max_streams_uni
        streams.value = streams.sent = bidirectional
        one_way.value = one_way.sent = 0

    # Streams

    @property
    def may_open(self) -> bool:
        """Whether the peer allows one more stream of ours."""
        return bool(self._local_next_stream_id_bidi // 4 < self._remote_max_streams_bidi)

    def open_stream(self) -> int:
        """Open the next stream, announce it to the peer and return its id."""
        stream_id: int = self.get_next_available_stream_id()
        stream = self._get_or_create_stream_for_send(stream_id)
        sender_of(stream).must_announce = True
        return stream_id

    def write(
        self, stream_id: int, data: bytes | bytearray | memoryview, *, end: bool = False
    ) -> None:
        """Queue bytes, and the stream's end after them if `end`."""
        sender_of(self._streams[stream_id]).write(data, end)

    def is_full(self, stream_id: int) -> bool:
        """Whether more should be queued on a stream only once there is room (see `when_room`)."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return False
        sender = sender_of(stream)
        return sender.unsent > HIGH_WATER_BYTES or sender.held > HELD_MAX_BYTES

    def when_room(self, stream_id: int, report: Callable[[], None]) -> None:
        """Call `report` once, when little is unsent any more or the stream is reset.

        What does not fill a packet then may stay until the next call of `bursts_to_send`, as more
        is expected to be written at once.
        """
        sender_of(self._streams[stream_id]).on_room = report

    def grant(self, stream_id: int, limit: int) -> None:
        """Let the peer send up to the offset `limit` on a stream."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.max_stream_data_local = limit
            self._limits_due.add(stream_id)

    def cut(self, stream_id: int, code: int) -> None:
        """End both halves that have not ended yet, by RESET_STREAM and STOP_SENDING."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.sender.reset(code)
        if not stream.receiver.is_finished:
            stream.receiver.stop(code)

    def take_done(self) -> list[int]:
        """Forget the streams whose halves have both ended, acknowledged; return their ids."""
        done, self._done = self._done, []
        return [stream_id for stream_id in done if self._forget(stream_id)]

    def _forget(self, stream_id: int) -> bool:
        if self._streams.pop(stream_id, None) is None:
            return False
        self._starved.discard(stream_id)
        if self._is_peers(stream_id):
            self._stream_limit(stream_id).value += 1  # the peer may open another one
        return True

    def _is_peers(self, stream_id: int) -> bool:
        return bool(stream_id & 1) == self._is_client

    def _note_opened(self, stream_id: int) -> None:
        if self._is_peers(stream_id):
            self._events.append(StreamOpened(stream_id))

    def _unblock_streams(self, is_unidirectional: bool) -> None:  # noqa: FBT001 - aioquic's signature
        super()._unblock_streams(is_unidirectional)
        if not is_unidirectional:
            self._events.append(StreamsAllowed())

    # Credit: aioquic would grant it on receipt, without end

    def _write_connection_limits(
        self,
        builder: QuicPacketBuilder,
        space: QuicPacketSpace,  # noqa: ARG002 - aioquic's signature
    ) -> None:
        for limit in self._connection_limits_due():
            self._write_limit(builder, limit)

    def _connection_limits_due(self) -> list[Limit]:
        """Grant connection credit as bytes arrive, stream count as streams end.

        Bytes behind a gap are held by the engine, where no reader and no parking lot sees them:
        they have not arrived.
        """
        credit = self._local_max_data
        owed = self._delivered + self._configuration.max_data - credit.value
        if owed * 4 >= self._configuration.max_data:
            credit.value += owed
        streams = self._local_max_streams_bidi
        due = [credit] if credit.value != credit.sent else []
        # Batched: only once the peer has fewer left than the frame would give it.
        if streams.sent - streams.used < streams.value - streams.sent:
            due.append(streams)
        return due

    def _write_limit(self, builder: QuicPacketBuilder, limit: Limit) -> None:
        buf = builder.start_frame(
            limit.frame_type,
            capacity=CONNECTION_LIMIT_FRAME_CAPACITY,
            handler=self._on_connection_limit_delivery,
            handler_args=(limit,),
        )
        buf.push_uint_var(limit.value)
        limit.sent = limit.value

    def _write_stream_limits(
        self,
        builder: QuicPacketBuilder,
        space: QuicPacketSpace,  # noqa: ARG002 - aioquic's signature
        stream: QuicStream,
    ) -> None:
        """Tell the peer what `grant` allowed."""
        buf = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
            handler=self._on_max_stream_data_delivery,
            handler_args=(stream,),
        )
        buf.push_uint_var(number_of(stream))
        buf.push_uint_var(stream.max_stream_data_local)
        stream.max_stream_data_local_sent = stream.max_stream_data_local

    # The connection as a whole

    @property
    def termination(self) -> ConnectionTerminated | None:
        """Why the connection has ended or is about to, by either side; None while it lives."""
        return self._close_event

    @property
    def peer_chain(self) -> tuple[Certificate, ...]:
        """What the relay has shown, leaf first: for clients, after the handshake."""
        leaf = self.tls._peer_certificate  # noqa: SLF001 - there is no public way to it
        if leaf is None:
            raise LocalProtocolError("no certificate has been shown yet")
        return (leaf, *self.tls._peer_certificate_chain)  # noqa: SLF001 - nor to the others

    def refuse(self, reason: str) -> None:
        """Close, because the relay is not the one that was dialled (RFC 9001 §4.8)."""
        self.close(
            error_code=QuicErrorCode.CRYPTO_ERROR + AlertDescription.bad_certificate,
            frame_type=QuicFrameType.CRYPTO,
            reason_phrase=reason,
        )

    def is_reset(self, datagram: bytes) -> bool:
        """Whether a datagram that was not authentic is the peer's stateless reset."""
        known = (self._peer_cid, *self._peer_cid_available)
        tokens = [entry.stateless_reset_token for entry in known if entry.stateless_reset_token]
        return is_reset(datagram, tokens)

    def receive_burst(self, payloads: Sequence[bytes], source: Any, now: float) -> None:
        """Take datagrams that came one after the other from one address."""
        for payload in payloads:
            self.receive_datagram(payload, source, now)

    def bursts_to_send(self, now: float) -> list[Burst]:
        """Return what has to be sent now."""
        if self._packet_number >= self._key_update_due and self._handshake_confirmed:
            self._key_update_due = self._packet_number + KEY_UPDATE_PACKETS
            self.request_key_update()
        return super().bursts_to_send(now)

    def request_key_update(self) -> None:
        """Change the keys with the next packet, and make sure that it arrives.

        aioquic drops the old keys at once: were that packet an acknowledgement only, and lost,
        both ends would wait for each other until the idle time-out. A PING gets it repeated.
        """
        super().request_key_update()
        self._probe_pending = True

    def _payload_received(
        self,
        context: QuicReceiveContext,
        plain: bytes,
        crypto_frame_required: bool = False,  # noqa: FBT001, FBT002 - aioquic's signature
    ) -> tuple[bool, bool]:
        self.decrypted += 1
        return super()._payload_received(context, plain, crypto_frame_required)

    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()
        self._settle_ids()

    def _settle_ids(self) -> None:
        """Have every id lead to this process, and derive its token; clients send no resets."""
        for entry in self._host_cids:
            entry.cid = self._share.mark(entry.cid)
            if self._reset_key:
                entry.stateless_reset_token = reset_token(self._reset_key, entry.cid)
