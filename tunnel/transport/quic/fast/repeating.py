"""What is little is sent twice where the path loses: a copy costs less than waiting for a loss.

A visitor who asks for little notices each loss: it is known after a round trip at best, and that of
a burst's last packet only by a timeout. So, while packets have been lost of late and there is
nothing else to send, the frames of the last few packets leave once more, as many of them in one
packet as it takes, a fraction of a round trip later. Copies are paced, counted as in flight and
acknowledged as all packets are.
"""

from collections import deque

from aioquic.quic.packet_builder import QuicDeliveryState

from tunnel.transport.quic.fast.records import Handlers, Record

LOSSY_SHARE = 0.005  # of the packets of late
LATELY_PACKETS = 1024  # at most; half as many at least, once there were so many
ORIGINALS_MAX = 16  # packets before the first of them is copied
WAIT_SHARE, WAIT_MIN_SECONDS = 1 / 8, 0.002  # of a round trip: losses come in bursts


def wait_before_copy(round_trip: float) -> float:
    """Return seconds from a packet to its copy."""
    return max(WAIT_SHARE * round_trip, WAIT_MIN_SECONDS)


class LossShare:
    """How many of the packets of late were lost."""

    def __init__(self) -> None:
        self._arrived = self._lost = 0.0

    def add(self, *, arrived: int = 0, lost: int = 0) -> None:
        """Count packets whose fate is known; `lost` is negative for those that came after all."""
        self._arrived += arrived
        self._lost = max(0.0, self._lost + lost)
        if self._arrived + self._lost > LATELY_PACKETS:
            self._arrived /= 2
            self._lost /= 2

    @property
    def is_lossy(self) -> bool:
        """Whether the path loses so much that copies pay."""
        return self._lost > LOSSY_SHARE * (self._arrived + self._lost)


class Twin:
    """What has to be told once of frames that are in two packets.

    They have arrived with the first of the two that has; they are lost with the original, unless
    the copy is known to have arrived.
    """

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    @property
    def is_settled(self) -> bool:
        """Whether it is known what has become of the frames."""
        return not self._handlers

    def settle(self, delivery: QuicDeliveryState) -> None:
        """Hear what has become of the original."""
        handlers, self._handlers = self._handlers, []
        for handler, arguments in handlers:
            handler(delivery, *arguments)

    def note_copy(self, delivery: QuicDeliveryState) -> None:
        """Hear what has become of the copy."""
        if delivery is QuicDeliveryState.ACKED:
            self.settle(delivery)


class Original:
    """A packet that may be copied: its frames without acknowledgements, and who is told of them."""

    __slots__ = ("frames", "twin")

    def __init__(self, record: Record, frames: bytes, acknowledging: int) -> None:
        """Take the record of a packet, of whose handlers the first `acknowledging` are for ACKs."""
        self.frames = frames
        self.twin = Twin(record.delivery_handlers[acknowledging:])
        record.delivery_handlers[acknowledging:] = [(self.twin.settle, ())]


class Originals:
    """The last packets that may be copied."""

    def __init__(self) -> None:
        self.due_at: float | None = None  # when they are to be copied
        self._kept: deque[Original] = deque(maxlen=ORIGINALS_MAX)

    def add(self, original: Original, due_at: float) -> None:
        """Keep one more; it is copied with the first, or with others that come before then."""
        self._kept.append(original)
        if self.due_at is None:
            self.due_at = due_at

    def clear(self) -> None:
        """Copy none of them."""
        self._kept.clear()
        self.due_at = None

    def take(self) -> list[Original]:
        """Return those whose fate is not known yet."""
        taken = [each for each in self._kept if not each.twin.is_settled]
        self.clear()
        return taken
