"""What BBR believes of the path: its bandwidth, its round trip, and what to make of losses.

Times are seconds on the engine's clock, rates bytes per second. Sources: Cardwell et al., "BBR:
Congestion-Based Congestion Control" (ACM Queue 14-5, 2016); draft-ietf-ccwg-bbr-05.
"""

from dataclasses import dataclass
from math import inf

from tunnel.transport.quic.delivery import DeliveryRate, Stamp

BANDWIDTH_ROUNDS = 10
ROUND_TRIP_SECONDS = 10.0  # for which the shortest round trip is believed
GROWTH, PATIENCE_ROUNDS = 1.25, 3  # STARTUP ends after so many rounds with less growth
LOSS_MAX = 0.2  # share of bytes; more of it, for long, is no accident of the medium
LOSS_ROUNDS = 3
BOUND_CUT, RATE_RECOVERY = 0.7, 1.1  # for each round that lost too much, and that did not
QUEUE_LOSS_MAX = 0.02  # where there is a queue
QUEUE_FACTOR, QUEUE_SECONDS = 1.25, 0.001  # longer than the shortest round trip: a queue
LOSS_BYTES_MIN = 8 * 1200  # lost in a round below which its share says nothing


class Maximum:
    """The greatest of the last rounds' values."""

    def __init__(self, rounds: int) -> None:
        self._rounds = [0.0]
        self._kept = rounds
        self.value = 0.0

    def add(self, value: float) -> None:
        """Take one more value of this round."""
        if value > self._rounds[-1]:
            self._rounds[-1] = value
            self.value = max(self.value, value)

    def advance(self) -> None:
        """Begin another round; the oldest one is forgotten."""
        self._rounds = [*self._rounds, 0.0][-self._kept :]
        self.value = max(self._rounds)


class ShortestRoundTrip:
    """The shortest round trip of late; `seconds` is 0 until there is one."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._seen_at = 0.0

    def has_expired(self, now: float) -> bool:
        """Say whether none as short has been seen for long: the path has to be emptied once."""
        return now > self._seen_at + ROUND_TRIP_SECONDS

    def add(self, rtt: float, now: float) -> None:
        """Take one more measurement."""
        if not self.seconds or rtt <= self.seconds:
            self.replace(rtt, now)

    def replace(self, rtt: float, now: float) -> None:
        """Believe a longer one, because the short one is out of date."""
        self.seconds, self._seen_at = rtt, now


class FullPipe:
    """Notices that sending more no longer delivers more."""

    def __init__(self) -> None:
        self.is_full = False
        self._best = 0.0
        self._rounds = 0

    def judge(self, bandwidth: float) -> None:
        """Look at the bandwidth after one more round."""
        if bandwidth >= GROWTH * self._best:
            self._best, self._rounds = bandwidth, 0
            return
        self._rounds += 1
        self.is_full = self.is_full or self._rounds >= PATIENCE_ROUNDS


class Surplus:
    """How much more than the bandwidth explains is acknowledged in one lump.

    Peers acknowledge many packets at once, and so do radio links; without room in the window for
    such lumps, sending would stop between them.
    """

    def __init__(self) -> None:
        self._most = Maximum(BANDWIDTH_ROUNDS)
        self._since = 0.0
        self._acked = 0

    @property
    def bytes(self) -> float:
        """The greatest of the last rounds."""
        return self._most.value

    def add(self, acked: int, bandwidth: float, window: int, now: float) -> None:
        """Take what one acknowledgement was for, in bytes."""
        self._acked += acked
        expected = bandwidth * (now - self._since)
        if self._acked <= expected:
            self._since, self._acked, expected = now, acked, 0.0
        self._most.add(min(self._acked - expected, window))

    def advance(self) -> None:
        """Begin another round."""
        self._most.advance()


@dataclass(frozen=True, slots=True)
class Round:
    """One round trip's worth of acknowledgements, once it is over."""

    arrived: int  # bytes
    lost: int  # bytes
    in_flight: int  # bytes, the most there were
    round_trip: float  # seconds, the shortest there was

    def has_lost(self, share: float) -> bool:
        """Say whether more than this share was lost, and not just a few packets."""
        return self.lost > max(LOSS_BYTES_MIN, share * (self.lost + self.arrived))


class RateBound:
    """A bound of the bandwidth for paths that keep on losing much: policers, tiny buffers.

    Loss alone is no sign of congestion to BBR. A share that stays above LOSS_MAX is: then the
    bound falls from round to round, and rises again when it helped.
    """

    def __init__(self) -> None:
        self.rate = inf
        self._rounds = 0  # in a row that have lost too much

    def judge(self, over: Round, bandwidth: float) -> None:
        """Look back at a round."""
        if not over.has_lost(LOSS_MAX):
            self._rounds = 0
            self.rate = self.rate * RATE_RECOVERY if self.rate < bandwidth else inf
            return
        self._rounds += 1
        if self._rounds >= LOSS_ROUNDS:
            self.rate = min(self.rate, bandwidth) * BOUND_CUT


QUEUE_BOUND_MAX = 1 << 40  # bytes; more is no bound at all


class QueueBound:
    """A bound of what is in flight, for losses that come with a queue: the sender's own doing.

    On a path without a queue losses are the medium's, and nothing is bound. Where every packet of
    a round has waited in a queue and some were dropped, as many senders share a small buffer, less
    in flight costs nobody anything, and leaves the others their share.
    """

    def __init__(self) -> None:
        self.bytes = inf
        self._growth = 0.0  # bytes; doubles with every round without such losses

    def judge(self, over: Round, shortest: float, datagram: int) -> bool:
        """Look back at a round; say whether it was such a one."""
        has_queue = over.round_trip > QUEUE_FACTOR * shortest + QUEUE_SECONDS
        if has_queue and over.has_lost(QUEUE_LOSS_MAX):
            self.bytes, self._growth = over.in_flight * BOUND_CUT, datagram
            return True
        self.bytes, self._growth = self.bytes + self._growth, 2 * self._growth
        if self.bytes > QUEUE_BOUND_MAX:
            self.bytes, self._growth = inf, 0.0
        return False


class Rounds:
    """Cuts what arrives into rounds: each is over with a packet that was sent after it began."""

    def __init__(self) -> None:
        self.count = 0
        self._ends = 0  # delivered bytes: once a packet is acknowledged that left after so many
        self._start = 0
        self._lost = self._in_flight = 0
        self._round_trip = inf

    def add_lost(self, lost: int) -> None:
        """Count lost bytes."""
        self._lost += lost

    def add(self, rtt: float, in_flight: int) -> None:
        """Take what one acknowledgement shows; `in_flight` was that before it."""
        self._round_trip = min(self._round_trip, rtt)
        self._in_flight = max(self._in_flight, in_flight)

    def end(self, stamp: Stamp, delivered: int) -> Round | None:
        """Return the round if it is over."""
        if stamp.delivered < self._ends:
            return None
        over = Round(delivered - self._start, self._lost, self._in_flight, self._round_trip)
        self.count += 1
        self._ends = self._start = delivered
        self._lost = self._in_flight = 0
        self._round_trip = inf
        return over


class PathModel:
    """The path as the acknowledgements so far show it."""

    def __init__(self, datagram: int) -> None:
        self.delivery = DeliveryRate()
        self.round_trip = ShortestRoundTrip()
        self.rounds = Rounds()
        self.pipe = FullPipe()
        self.surplus = Surplus()
        self.queue_bound = QueueBound()
        self._rate_bound = RateBound()
        self._bandwidth = Maximum(BANDWIDTH_ROUNDS)
        self._datagram = datagram
        self._counted = 0  # delivered bytes at the last update

    @property
    def bandwidth(self) -> float:
        """Bytes per second that the path takes; 0 while that is unknown."""
        return min(self._bandwidth.value, self._rate_bound.rate)

    @property
    def product(self) -> float:
        """Bytes that fill the path without a queue: bandwidth times round trip."""
        return self.bandwidth * self.round_trip.seconds

    def update(self, rtt: float, now: float, in_flight: int, window: int) -> int:
        """Learn from one acknowledgement, after its packets; return how many bytes it was for."""
        self.round_trip.add(rtt, now)
        sample = self.delivery.take_sample(self.round_trip.seconds)
        acked = self.delivery.delivered - self._counted
        self._counted += acked
        if sample is None:
            return acked
        self.rounds.add(rtt, in_flight + acked)
        over = self.rounds.end(sample.stamp, self.delivery.delivered)
        if over is not None:
            self._look_back(over, is_app_limited=sample.stamp.is_app_limited)
        if not sample.stamp.is_app_limited or sample.rate > self._bandwidth.value:
            self._bandwidth.add(sample.rate)
        self.surplus.add(acked, self.bandwidth, window, now)
        return acked

    def _look_back(self, over: Round, *, is_app_limited: bool) -> None:
        self._rate_bound.judge(over, self._bandwidth.value)
        has_overfilled = self.queue_bound.judge(over, self.round_trip.seconds, self._datagram)
        if has_overfilled or over.has_lost(LOSS_MAX):
            self.pipe.is_full = True
        elif not is_app_limited:
            self.pipe.judge(self._bandwidth.value)
        if not is_app_limited:  # else what is known of the path would be forgotten unchallenged
            self._bandwidth.advance()
        self.surplus.advance()
