"""What is remembered of packets that were sent, until they are acknowledged or lost.

They take the place of aioquic's QuicSentPacket, for its recovery and for congestion controllers. A
controller may set attributes of its own on what `on_packet_sent` shows it: they stay with each part
of a run that is split.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicDeliveryHandler, QuicSentPacket
from aioquic.tls import Epoch

if TYPE_CHECKING:
    from tunnel.transport.quic.fast.sender import ChunkSender

Handlers = list[tuple[QuicDeliveryHandler, Any]]


class Record(QuicSentPacket):
    """One 1-RTT packet of frames of any kind."""

    epoch = Epoch.ONE_RTT
    packet_type = QuicPacketType.ONE_RTT
    is_crypto_packet = False
    quic_logger_frames = []  # noqa: RUF012 - nothing is ever logged here

    def __init__(  # the dataclass's own asks for what is the same for all
        self, number: int, sent_bytes: int, sent_time: float, handlers: Handlers, *, eliciting: bool
    ) -> None:
        self.packet_number = number
        self.sent_bytes = sent_bytes
        self.sent_time = sent_time
        self.delivery_handlers = handlers
        self.is_ack_eliciting = self.in_flight = eliciting


class Run(QuicSentPacket):
    """`count` packets with consecutive numbers, sent at once, each full of one stream's bytes.

    Packet i holds `size` bytes of the stream from `offset + i * size` on, which stand in `chunk`
    from `position + i * size` on. `sent_bytes` is that of all of them together.
    """

    epoch = Epoch.ONE_RTT
    packet_type = QuicPacketType.ONE_RTT
    is_crypto_packet = False
    is_ack_eliciting = in_flight = True
    quic_logger_frames = []  # noqa: RUF012 - nothing is ever logged here

    def __init__(self, sender: "ChunkSender", number: int, count: int, sent_time: float) -> None:
        self.sender = sender
        self.packet_number = number
        self.count = count
        self.sent_time = sent_time
        self.sent_bytes = self.offset = self.position = self.size = 0
        self.chunk = b""

    def carry(self, offset: int, chunk: bytes, position: int, size: int) -> None:
        """Say what the packets hold."""
        self.offset = offset
        self.chunk = chunk
        self.position = position
        self.size = size

    @property
    def delivery_handlers(self) -> Handlers:  # type: ignore[override]  # a list is kept there
        """Who is told what has become of the packets."""
        return [(self.sender.on_run_delivery, (self,))]

    @property
    def data(self) -> bytes:
        """A copy of the stream's bytes in all packets."""
        return self.chunk[self.position : self.position + self.count * self.size]

    def part(self, start: int, stop: int) -> "Run":
        """Return the record of the packets numbered `start` to `stop` - 1 alone."""
        part = Run.__new__(Run)
        part.__dict__.update(self.__dict__)
        skipped = (start - self.packet_number) * self.size
        part.packet_number = start
        part.count = stop - start
        part.sent_bytes = self.sent_bytes // self.count * part.count
        part.offset += skipped
        part.position += skipped
        return part


def count_of(packet: QuicSentPacket) -> int:
    """Return how many packets a record stands for."""
    return packet.count if isinstance(packet, Run) else 1


def parts_of(packet: QuicSentPacket, cuts: Sequence[int]) -> list[QuicSentPacket]:
    """Split a record before each of these packet numbers (ascending, all inside of it)."""
    if not isinstance(packet, Run):
        return [packet]
    edges = [packet.packet_number, *cuts, packet.packet_number + packet.count]
    return [packet.part(start, stop) for start, stop in pairwise(edges)]
