"""When the fast paths may be taken, and how what they leave to aioquic gets its turn."""

from typing import Any

from aioquic.quic.connection import QuicConnectionId, QuicConnectionState
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from aioquic.tls import CipherSuite, Epoch

from tunnel.transport.quic.engine import Engine
from tunnel.transport.quic.fast.codec import SIZED_HEADER, sized_header
from tunnel.transport.quic.fast.recovery import RunRecovery
from tunnel.transport.quic.fast.sender import ChunkSender, chunks_of
from tunnel.transport.quic.halves import number_of
from tunnel.transport.quic.routes import CONNECTION_ID_BYTES
from tunnel.transport.quic.trains import Burst


class BypassConnection(Engine):
    """An engine with our recovery and senders, which knows when packets may bypass aioquic."""

    sender_kind = ChunkSender

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        configuration = self._configuration
        self._recovery = self._loss = RunRecovery(
            congestion_control_algorithm=configuration.congestion_control_algorithm,
            initial_rtt=configuration.initial_rtt,
            max_datagram_size=configuration.max_datagram_size,
            peer_completed_address_validation=not self._is_client,
            send_probe=self._send_probe,
        )
        self._owed = 0  # packets that ask for an acknowledgement and have none
        self._is_writing_rare = False
        self._has_new_ids = True  # connection ids that the peer may not know yet

    def _note_app_limited(self) -> None:
        """What aioquic writes here is never all that there is: `SendingConnection` knows."""

    def _confirm_handshake(self) -> None:
        super()._confirm_handshake()
        # Looking them up by Epoch costs a quarter of a microsecond each.
        self._space = self._spaces[Epoch.ONE_RTT]
        self._one_rtt = self._cryptos[Epoch.ONE_RTT]
        self._handshake_stream = self._crypto_streams[Epoch.ONE_RTT]
        self._is_aes = self._one_rtt.send.cipher_suite in {
            CipherSuite.AES_128_GCM_SHA256,
            CipherSuite.AES_256_GCM_SHA384,
        }

    def _is_bypassing(self) -> bool:
        """Whether 1-RTT packets need nothing that only aioquic knows."""
        return (
            self._handshake_confirmed
            and self._is_aes
            and self._state is QuicConnectionState.CONNECTED
            and not self._close_pending
            and self._network_paths[0].is_validated
            and self._quic_logger is None
            and len(self._peer_cid.cid) == CONNECTION_ID_BYTES
        )

    def _has_rare_frames(self) -> bool:
        """Whether anything waits that only aioquic's writer knows."""
        if self._has_new_ids:
            self._has_new_ids = not all(entry.was_sent for entry in self._host_cids)
        path, *others = self._network_paths
        return bool(
            self._has_new_ids
            or self._handshake_done_pending
            or self._retire_connection_ids
            or self._ping_pending
            or path.remote_challenges
            or not self._handshake_stream.sender.buffer_is_empty
            or any(
                other.remote_challenges or not (other.is_validated or other.local_challenge_sent)
                for other in others
            )
        )

    def _write_ack_frame(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, now: float
    ) -> None:
        super()._write_ack_frame(builder, space, now)
        self._owed = 0

    def _write_stream_frame(
        self,
        builder: QuicPacketBuilder,
        space: QuicPacketSpace,  # noqa: ARG002 - aioquic's signature
        stream: QuicStream,
        max_offset: int,
    ) -> int:
        """Write one frame into a packet of aioquic's: before the handshake is confirmed."""
        sender = chunks_of(stream)
        before = sender.highest_offset
        room = builder.remaining_flight_space - SIZED_HEADER.size
        frame = sender.take(room, max_offset) if room > 0 else None
        if frame is None:
            return 0
        header = sized_header(number_of(stream), frame.offset, len(frame.data), fin=frame.fin)
        buf = builder.start_frame(
            header[0],
            capacity=SIZED_HEADER.size,
            handler=sender.on_frame_delivery,
            handler_args=(frame,),
        )
        buf.push_bytes(header[1:])
        buf.push_bytes(frame.data)
        return sender.highest_offset - before

    def _write_rare_frames(self, now: float) -> list[Burst]:
        """Return datagrams with all frames but those of streams."""
        self._is_writing_rare = True
        try:
            return super()._build_bursts(now)
        finally:
            self._is_writing_rare = False

    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()
        self._has_new_ids = True

    def _on_new_connection_id_delivery(
        self, delivery: QuicDeliveryState, connection_id: QuicConnectionId
    ) -> None:
        super()._on_new_connection_id_delivery(delivery, connection_id)
        self._has_new_ids = True
