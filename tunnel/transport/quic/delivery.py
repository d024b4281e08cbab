"""How fast the path delivers, measured with every acknowledgement (draft-ietf-ccwg-bbr-05 §4.1)."""

from typing import Any, NamedTuple, Protocol


class Stamp(NamedTuple):
    """What had been delivered when a packet left."""

    delivered: int  # bytes
    delivered_at: float  # when the last of them was acknowledged
    first_sent_at: float  # when the packet was sent that this acknowledgement was for
    is_app_limited: bool  # whether there was too little to send to fill the path


class SentPacket(Protocol):
    """A packet in flight, or a run of them that left at once; a controller adds a `Stamp`."""

    sent_bytes: int
    sent_time: Any  # seconds; aioquic's is None until the packet leaves


class Sample(NamedTuple):
    """What one acknowledgement tells: `rate` in bytes/s, and the stamp of its newest packet."""

    rate: float
    stamp: Stamp


class DeliveryRate:
    """Turns sent and acknowledged packets into samples of the path's rate.

    The rate is that of all bytes delivered between the departure of the newest packet and its
    acknowledgement. The longer one of the times in which they were sent and in which they were
    acknowledged counts, so neither acknowledgements nor packets in a lump exaggerate it.
    """

    def __init__(self) -> None:
        self.delivered = 0  # bytes acknowledged so far
        self._delivered_at = 0.0
        self._first_sent_at = 0.0
        self._limited_until = -1  # count of delivered bytes; nothing is limited below 0
        self._newest: tuple[Stamp, float] | None = None  # acknowledged since the last sample

    def on_sent(self, packet: SentPacket, in_flight: int) -> None:
        """Stamp a packet that leaves while `in_flight` bytes are on their way."""
        if not in_flight:
            self._first_sent_at = self._delivered_at = packet.sent_time
        packet.stamp = Stamp(  # type: ignore[attr-defined]  # added to whatever the engine has
            self.delivered, self._delivered_at, self._first_sent_at, self._limited_until >= 0
        )

    def on_acked(self, packet: SentPacket, now: float) -> None:
        """Count a packet that has arrived."""
        self.delivered += packet.sent_bytes
        self._delivered_at = now
        stamp: Stamp = packet.stamp  # type: ignore[attr-defined]  # as in `on_sent`
        newest = self._newest
        if newest is None or packet.sent_time >= newest[1]:
            self._newest = stamp, packet.sent_time
            self._first_sent_at = packet.sent_time

    def take_sample(self, shortest: float) -> Sample | None:
        """Return what was learned since the last call.

        A rate over less than `shortest` seconds, the path's round trip, says nothing and is 0.
        """
        if self._newest is None:
            return None
        (stamp, sent_at), self._newest = self._newest, None
        if self.delivered > self._limited_until:
            self._limited_until = -1
        elapsed = max(self._delivered_at - stamp.delivered_at, sent_at - stamp.first_sent_at)
        rate = (self.delivered - stamp.delivered) / elapsed if elapsed >= shortest > 0 else 0.0
        return Sample(rate, stamp)

    def note_app_limited(self, in_flight: int) -> None:
        """Mark what is in flight, and what follows until it has arrived, as no measure."""
        self._limited_until = self.delivered + in_flight
