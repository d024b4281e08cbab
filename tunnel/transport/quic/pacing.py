"""How fast packets may leave (RFC 9002 §7.7)."""

from math import ceil
from typing import Protocol, cast

from aioquic.quic.congestion.base import QuicCongestionControl
from aioquic.quic.recovery import QuicPacketPacer

GAIN = 1.25  # over what the window allows for in a round trip, where no rate is given
BURST_PACKETS = 16  # may leave at once after a pause, at least
BURST_SECONDS = 0.002  # and what the rate gives in so long: timers are no finer than 1 ms
NAP_SECONDS = 0.001  # the longest wait for the next burst, if the rate is not tiny
LEAST_SECONDS, MOST_SECONDS = 1e-7, 1.0  # of sending time that a packet costs


class PacedControl(Protocol):
    """What a congestion controller may have besides aioquic's QuicCongestionControl.

    The fast engine calls controllers as aioquic does, in this order for each ACK frame:
    `on_packet_acked` for each record, `on_rtt_measurement` if the newest packet was among them,
    then `on_packets_lost`. A record may be a run of packets: `sent_bytes` is that of all of them,
    `sent_time` the same for all. Lost and acknowledged records may be parts of what
    `on_packet_sent` was shown; attributes that the controller has set on that one they have, too.
    `on_packets_expired` takes records out of what is in flight that count as neither.
    """

    pacing_rate: float | None
    """Bytes per second; None lets the pacer follow the window."""

    def on_app_limited(self) -> None:
        """Note that there is nothing more to send though the window has room."""


def rate_of(control: QuicCongestionControl) -> float | None:
    """Return the rate that a controller wants, if it has a wish."""
    return cast("float | None", getattr(control, "pacing_rate", None))


def has_rate(control: QuicCongestionControl) -> bool:
    """Say whether a controller gives rates at all."""
    return hasattr(control, "pacing_rate")


def note_app_limited(control: QuicCongestionControl) -> None:
    """Tell a controller that wants to know that there is nothing more to send."""
    if has_rate(control):
        cast("PacedControl", control).on_app_limited()


class DebtPacer(QuicPacketPacer):
    """A bucket of sending time that may be overdrawn.

    aioquic's forgives what a burst takes too much: the rate is then exceeded for ever. Here it is
    a debt that the next packets wait for.
    """

    def __init__(self, control: QuicCongestionControl, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self._control = control

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        rate = rate_of(self._control) or GAIN * congestion_window / max(smoothed_rtt, 1e-6)
        size = self._max_datagram_size
        self.packet_time = min(max(LEAST_SECONDS, size / rate), MOST_SECONDS)
        self.bucket_max = max(BURST_PACKETS * self.packet_time, BURST_SECONDS)
        self.bucket_time = min(self.bucket_time, self.bucket_max)

    def update_after_send(self, now: float) -> None:
        self.update_bucket(now=now)
        self.spend(1)

    def packets_allowed(self, now: float) -> int | None:
        """Return how many packets may leave now; None for any number."""
        if self.packet_time is None:
            return None
        self.update_bucket(now=now)
        return max(0, ceil(self.bucket_time / self.packet_time))

    def packets_in(self, seconds: float) -> int:
        """Return how many packets the rate gives in so long; 0 while it is unknown."""
        return int(seconds / self.packet_time) if self.packet_time else 0

    def spend(self, packets: int) -> None:
        """Count packets that have left."""
        if self.packet_time is not None:
            self.bucket_time -= packets * self.packet_time

    def resume_at(self, now: float) -> float:
        """Return when to go on after as many packets have left as were allowed."""
        if self.packet_time is None:
            return now
        return now + max(self.packet_time, min(self.bucket_max / 2, NAP_SECONDS))
