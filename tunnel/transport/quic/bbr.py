"""BBR: paces by the measured bandwidth of the path, where others wait for losses.

The first version's phases (Cardwell et al., "BBR: Congestion-Based Congestion Control", ACM Queue
14-5, 2016), with the rate samples, the room for lumped acknowledgements, the pacing margin and the
gentler PROBE_RTT of draft-ietf-ccwg-bbr-05, and a bound where losses stay high (`LossBound`).
"""

from collections.abc import Iterable
from enum import Enum, auto
from math import inf

from aioquic.quic.congestion.base import QuicCongestionControl
from aioquic.quic.packet_builder import QuicSentPacket

from tunnel.transport.quic.path_model import PathModel

WINDOW_START, WINDOW_MIN = 32, 4  # datagrams
STARTUP_GAIN = 2.885  # 2 / ln 2: doubles the rate with every round trip
WINDOW_GAIN = 2.0  # a queue of one product at most, so that late acknowledgements stop nothing
CYCLE = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)  # probe, drain the queue of that, cruise
EMPTYING_GAIN = 0.5
EMPTYING_SECONDS = 0.2
PACING_MARGIN = 0.99  # just below the bandwidth, so that queues shrink
PACING_QUANTUM_SECONDS = 0.001
PACING_QUANTUM_BYTES = 64 * 1024


class Phase(Enum):
    """What is being found out."""

    STARTUP = auto()  # how much the path takes: twice as much each round trip
    DRAIN = auto()  # nothing: the queue that STARTUP has made leaves
    PROBE_BANDWIDTH = auto()  # whether it takes more by now
    PROBE_ROUND_TRIP = auto()  # how short it is while it is almost empty


class Cycle:
    """The gains of PROBE_BANDWIDTH, each for about a round trip."""

    def __init__(self, now: float) -> None:
        self._index = 2 + int(now * 1000) % (len(CYCLE) - 2)  # apart from other connections
        self._since = now
        self.has_lost = False  # since the gain was chosen

    @property
    def gain(self) -> float:
        """How much faster than the bandwidth to send."""
        return CYCLE[self._index]

    def advance(self, now: float, in_flight: int, path: PathModel) -> None:
        """Take the next gain if this one has done its work."""
        has_lasted = now - self._since > path.round_trip.seconds
        if self.gain > 1:
            is_over = has_lasted and (self.has_lost or in_flight >= self.gain * path.product)
        else:
            is_over = has_lasted or (self.gain < 1 and in_flight <= path.product)
        if is_over:
            self._index = (self._index + 1) % len(CYCLE)
            self._since, self.has_lost = now, False


class Emptying:
    """One stay in PROBE_ROUND_TRIP; `window` is the one to come back to."""

    def __init__(self, until: float, window: int) -> None:
        self.until = until
        self.window = window
        self.shortest = inf

    def add(self, rtt: float) -> None:
        """Take a measurement."""
        self.shortest = min(self.shortest, rtt)


class Bbr(QuicCongestionControl):
    """A congestion controller for aioquic's recovery; `pacing_rate` is in bytes per second.

    Whoever sends says `on_app_limited` when it has nothing more to send although it might.
    """

    def __init__(self, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self.congestion_window = WINDOW_START * max_datagram_size
        self.pacing_rate: float | None = None  # until a round trip is known
        self.phase = Phase.STARTUP
        self._datagram = max_datagram_size
        self._path = PathModel(max_datagram_size)
        self._cycle = Cycle(0.0)
        self._emptying: Emptying | None = None
        self._is_restarting = False  # what is in flight are the first packets after a pause

    # What the engine tells

    def on_packet_sent(self, *, packet: QuicSentPacket) -> None:
        """See a packet leave."""
        if not self.bytes_in_flight:
            self._restart()
        self._path.delivery.on_sent(packet, self.bytes_in_flight)
        self.bytes_in_flight += packet.sent_bytes

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        """See a packet arrive."""
        self.bytes_in_flight -= packet.sent_bytes
        self._path.delivery.on_acked(packet, now)

    def on_packets_expired(self, *, packets: Iterable[QuicSentPacket]) -> None:
        """Forget packets that are neither lost nor to be waited for."""
        self.bytes_in_flight -= sum(packet.sent_bytes for packet in packets)

    def on_packets_lost(
        self,
        *,
        now: float,  # noqa: ARG002 - aioquic's signature
        packets: Iterable[QuicSentPacket],
    ) -> None:
        """Count what was lost."""
        lost = sum(packet.sent_bytes for packet in packets)
        self.bytes_in_flight -= lost
        self._path.rounds.add_lost(lost)
        self._cycle.has_lost = True

    def on_persistent_congestion(self) -> None:
        """Begin again with a small window, which grows by what arrives (RFC 9002 §7.6)."""
        self.congestion_window = WINDOW_MIN * self._datagram

    def on_app_limited(self) -> None:
        """Learn that there is nothing to send: what is in flight is not all that the path takes."""
        self._path.delivery.note_app_limited(self.bytes_in_flight)

    def on_rtt_measurement(self, *, now: float, rtt: float) -> None:
        """Decide anew: once for each acknowledgement, after its packets."""
        acked = self._path.update(rtt, now, self.bytes_in_flight, self.congestion_window)
        self._advance(now)
        if self._emptying is not None:
            self._continue_emptying(self._emptying, now, rtt)
        elif self._path.round_trip.has_expired(now):
            self._renew_round_trip(now, rtt)
        self._is_restarting = False
        self._set_pacing_rate()
        self._set_window(acked)

    # Phases

    def _restart(self) -> None:
        """Send at the bandwidth after a pause, neither probing nor holding back."""
        self._is_restarting = True
        if self.phase is Phase.PROBE_BANDWIDTH and self._path.bandwidth:
            self.pacing_rate = PACING_MARGIN * self._path.bandwidth

    def _advance(self, now: float) -> None:
        if self.phase is Phase.STARTUP and self._path.pipe.is_full:
            self.phase = Phase.DRAIN
        if self.phase is Phase.DRAIN and self.bytes_in_flight <= self._path.product:
            self._enter_cycle(now)
        elif self.phase is Phase.PROBE_BANDWIDTH:
            self._cycle.advance(now, self.bytes_in_flight, self._path)

    def _enter_cycle(self, now: float) -> None:
        self.phase, self._cycle = Phase.PROBE_BANDWIDTH, Cycle(now)

    def _renew_round_trip(self, now: float, rtt: float) -> None:
        """Empty the path to measure it anew; after a pause it is empty already."""
        if self._is_restarting:
            self._path.round_trip.replace(rtt, now)
            return
        self.phase = Phase.PROBE_ROUND_TRIP
        until = now + max(EMPTYING_SECONDS, self._path.round_trip.seconds)
        self._emptying = Emptying(until, self.congestion_window)

    def _continue_emptying(self, emptying: Emptying, now: float, rtt: float) -> None:
        emptying.add(rtt)
        if now < emptying.until:
            return
        self._path.round_trip.replace(emptying.shortest, now)
        self.congestion_window = max(emptying.window, self.congestion_window)
        self._emptying = None
        if self._path.pipe.is_full:
            self._enter_cycle(now)
        else:
            self.phase = Phase.STARTUP

    # What follows from them

    @property
    def _gain(self) -> float:
        if self.phase is Phase.PROBE_BANDWIDTH:
            return self._cycle.gain
        return {Phase.STARTUP: STARTUP_GAIN, Phase.DRAIN: 1 / STARTUP_GAIN}.get(self.phase, 1.0)

    def _set_pacing_rate(self) -> None:
        path = self._path
        bandwidth = path.bandwidth or self.congestion_window / path.round_trip.seconds
        rate = max(PACING_MARGIN * self._gain * bandwidth, self._datagram / path.round_trip.seconds)
        if path.pipe.is_full or self.pacing_rate is None or rate > self.pacing_rate:
            self.pacing_rate = rate

    def _set_window(self, acked: int) -> None:
        """Grow by what has arrived, up to the target; shrink to it at once (draft §4.6.4)."""
        target, window = self._target(), self.congestion_window + acked
        if self._path.pipe.is_full:
            window = min(window, target)
        elif self.congestion_window >= target:
            window = self.congestion_window
        if self.phase is Phase.PROBE_ROUND_TRIP:
            window = min(window, int(EMPTYING_GAIN * self._path.product))
        self.congestion_window = max(window, WINDOW_MIN * self._datagram)

    def _target(self) -> int:
        path, rate = self._path, self.pacing_rate or 0.0
        gain = WINDOW_GAIN if self.phase is Phase.PROBE_BANDWIDTH else STARTUP_GAIN
        burst = min(rate * PACING_QUANTUM_SECONDS, PACING_QUANTUM_BYTES)
        surplus = path.surplus.bytes if path.pipe.is_full else 0.0
        wanted = gain * path.product + surplus
        bound = max(path.product, path.queue_bound.bytes)
        return int(min(wanted, bound) + 3 * max(burst, 2 * self._datagram))
