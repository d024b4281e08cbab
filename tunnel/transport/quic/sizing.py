"""How large datagrams are: small until the path has shown that it carries larger ones.

A simple kind of RFC 8899: one larger size is tried. A path that drops it without a word (a tunnel
with an MTU of 1280, a firewall that eats ICMP) still carries everything, in smaller pieces.
"""

from typing import Any

from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder
from aioquic.tls import Epoch

from tunnel.transport.quic.trains import Burst, by_address
from tunnel.transport.quic.writing import WritingConnection

SAFE_BYTES = SMALLEST_MAX_DATAGRAM_SIZE  # UDP payload that every path of QUIC carries
PROBES_MAX = 3  # lost ones, before the path counts as one that carries no more
TIMEOUTS_MAX = 3  # in a row, after which a path that carried more may have become a smaller one


class SizingConnection(WritingConnection):
    """aioquic's connection, whose datagrams grow to the configured size where the path allows."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._probed_path: Any = None
        self._probes_left = 0
        self._is_probing = False
        self._max_datagram_size = SAFE_BYTES

    def bursts_to_send(self, now: float) -> list[Burst]:
        """Return what has to be sent now."""
        if self._handshake_confirmed and self._close_event is None:
            self._follow_path()
        bursts = self._build_bursts(now)
        if bursts and self._may_probe():
            bursts += by_address(self._probe(now))
        return bursts

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        """As `bursts_to_send`, one by one."""
        bursts = self.bursts_to_send(now)
        return [(payload, address) for payloads, address in bursts for payload in payloads]

    def _build_bursts(self, now: float) -> list[Burst]:
        return by_address(super().datagrams_to_send(now))

    def _follow_path(self) -> None:
        """Begin anew on another path; shrink on one that has fallen silent."""
        path = self._network_paths[0]
        if path is not self._probed_path:
            self._probed_path = path
            self._probes_left = PROBES_MAX
            self._max_datagram_size = SAFE_BYTES
        elif self._loss._pto_count >= TIMEOUTS_MAX:  # noqa: SLF001 - as aioquic does
            self._probes_left = 1  # it was perhaps an outage
            self._max_datagram_size = SAFE_BYTES

    def _may_probe(self) -> bool:
        is_small = self._max_datagram_size < self._configuration.max_datagram_size
        if not (is_small and self._probes_left) or self._is_probing:
            return False
        is_alive = self._close_event is None and not self._loss._pto_count  # noqa: SLF001 - as above
        return bool(is_alive and self._probed_path.is_validated)

    def _probe(self, now: float) -> list[tuple[bytes, Any]]:
        """Return a datagram of the configured size that carries nothing."""
        size = self._configuration.max_datagram_size
        builder = QuicPacketBuilder(
            host_cid=self.host_cid,
            is_client=self._is_client,
            max_datagram_size=size,
            packet_number=self._packet_number,
            peer_cid=self._peer_cid.cid,
            spin_bit=self._spin_bit,
            version=self._version,  # type: ignore[arg-type]  # known since the first packet
        )
        builder.start_packet(QuicPacketType.ONE_RTT, self._cryptos[Epoch.ONE_RTT])
        path = self._probed_path
        builder.start_frame(
            QuicFrameType.PING, handler=self._on_probe_delivery, handler_args=(path, size)
        )
        padding = builder.start_frame(QuicFrameType.PADDING)
        padding.push_bytes(bytes(builder.remaining_buffer_space))
        self._is_probing = True
        return self._flush_builder(
            builder=builder, network_path=path, peer_cid=self._peer_cid.cid, now=now
        )

    def _on_probe_delivery(self, delivery: QuicDeliveryState, path: Any, size: int) -> None:
        self._is_probing = False
        if path is not self._probed_path:
            return
        if delivery is QuicDeliveryState.ACKED:
            self._max_datagram_size = size
        else:
            self._probes_left = max(0, self._probes_left - 1)
