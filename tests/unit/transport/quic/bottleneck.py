"""A path in virtual time: one queue with a rate, a delay and losses, and senders that share it.

Packets are counted, not carried: what a congestion controller decides is all that is seen.
"""

import heapq
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count

from aioquic.quic.congestion.base import QuicCongestionControl
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.tls import Epoch

PACKET = 1350  # bytes
REORDERING = 3  # packets (RFC 9002 §6.1.1)
ACK_EVERY = 10  # packets, or
ACK_DELAY = 0.01  # seconds
BURST = 0.002  # seconds that a pacer makes up for at once
TIMEOUT = 1.0  # seconds without an acknowledgement
STEP = 0.0005  # seconds


def sent_packet(number: int, now: float) -> QuicSentPacket:
    """Return what a controller gets to see of a packet."""
    return QuicSentPacket(
        epoch=Epoch.ONE_RTT,
        in_flight=True,
        is_ack_eliciting=True,
        is_crypto_packet=False,
        packet_number=number,
        packet_type=QuicPacketType.ONE_RTT,
        sent_bytes=PACKET,
        sent_time=now,
    )


@dataclass
class Path:
    """`rate` in bytes/s, `delay` one way in seconds, `room` in bytes of queue, `loss` a share."""

    rate: float
    delay: float
    room: float
    loss: float = 0.0
    dropped: int = 0  # packets that found the queue full
    _free_at: float = 0.0
    _random: random.Random = field(default_factory=lambda: random.Random(1))

    def shuffled(self, count: int) -> list[int]:
        """Return the order in which senders come this time."""
        return self._random.sample(range(count), count)

    def arrival(self, now: float) -> float | None:
        """Return when a packet that enters now leaves at the other end, or None if it is lost."""
        if self._random.random() < self.loss:
            return None
        waiting = max(0.0, self._free_at - now)
        if waiting * self.rate > self.room:
            self.dropped += 1
            return None
        self._free_at = now + waiting + PACKET / self.rate
        return self._free_at + self.delay


class Sender:
    """Sends all the time, or what `has_more(now)` allows; keeps to window and pacing rate."""

    def __init__(self, control: QuicCongestionControl) -> None:
        self.control = control
        self.has_more: Callable[[float], bool] = lambda _now: True
        self.delivered = 0  # bytes
        self.round_trips: list[float] = []
        self._numbers = count()
        self._in_flight: dict[int, QuicSentPacket] = {}
        self._next_at = 0.0  # pacing
        self._heard_at = 0.0

    def send(self, now: float) -> Iterator[int]:
        """Send what may be sent: yields the number of each packet."""
        control = self.control
        while control.bytes_in_flight + PACKET <= control.congestion_window:
            rate = getattr(control, "pacing_rate", None)
            if rate is not None and self._next_at > now:
                return
            if not self.has_more(now):
                getattr(control, "on_app_limited", int)()
                return
            if rate is not None:
                self._next_at = max(self._next_at, now - BURST) + PACKET / rate
            packet = sent_packet(next(self._numbers), now)
            control.on_packet_sent(packet=packet)
            self._in_flight[packet.packet_number] = packet
            yield packet.packet_number

    def acknowledge(self, numbers: Iterable[int], now: float) -> None:
        """Hear that packets have arrived, and take older ones as lost."""
        acked = [self._in_flight.pop(number) for number in numbers if number in self._in_flight]
        self._heard_at = now
        if not acked:
            return
        for packet in acked:
            self.control.on_packet_acked(now=now, packet=packet)
            self.delivered += PACKET
        newest = max(acked, key=lambda packet: packet.packet_number)
        self._lose([n for n in self._in_flight if n < newest.packet_number - REORDERING], now)
        rtt = now - (newest.sent_time or 0.0)
        self.round_trips.append(rtt)
        self.control.on_rtt_measurement(now=now, rtt=rtt)

    def look(self, now: float) -> None:
        """Take everything as lost when nothing has been heard for long."""
        if now - self._heard_at > TIMEOUT:
            self._heard_at = now
            self._lose(list(self._in_flight), now)

    def _lose(self, numbers: list[int], now: float) -> None:
        lost = [self._in_flight.pop(number) for number in numbers]
        if lost:
            self.control.on_packets_lost(now=now, packets=lost)


@dataclass
class Receiver:
    """Collects what to acknowledge."""

    numbers: list[int] = field(default_factory=list)
    since: float = 0.0

    def take(self, now: float) -> list[int]:
        """Return what is to be acknowledged now, as soon as there is much or it is old."""
        if len(self.numbers) < ACK_EVERY and now - self.since < ACK_DELAY:
            return []
        taken, self.numbers, self.since = self.numbers, [], now
        return taken


@dataclass(order=True)
class Arrival:
    """A packet at its receiver, or an acknowledgement at its sender."""

    at: float
    order: int
    owner: Sender = field(compare=False)
    numbers: list[int] = field(compare=False)
    is_ack: bool = field(compare=False, default=False)


class Network:
    """Senders that share a path, as time goes by."""

    def __init__(self, path: Path, *controls: QuicCongestionControl) -> None:
        self.path = path
        self.now = 0.0
        self.senders = [Sender(control) for control in controls]
        self._receivers: defaultdict[Sender, Receiver] = defaultdict(Receiver)
        self._arrivals: list[Arrival] = []
        self._order = count()

    def run(self, seconds: float) -> None:
        """Let all send for a while."""
        end = self.now + seconds
        while self.now < end:
            for index in self.path.shuffled(len(self.senders)):
                self._send(self.senders[index])
            self.now += STEP
            while self._arrivals and self._arrivals[0].at <= self.now:
                self._arrive(heapq.heappop(self._arrivals))
            for sender in self.senders:
                self._acknowledge(sender, self.now)
                sender.look(self.now)

    def _send(self, sender: Sender) -> None:
        for number in sender.send(self.now):
            at = self.path.arrival(self.now)
            if at is not None:
                heapq.heappush(self._arrivals, Arrival(at, next(self._order), sender, [number]))

    def _arrive(self, arrival: Arrival) -> None:
        if arrival.is_ack:
            arrival.owner.acknowledge(arrival.numbers, arrival.at)
            return
        self._receivers[arrival.owner].numbers += arrival.numbers
        self._acknowledge(arrival.owner, arrival.at)

    def _acknowledge(self, sender: Sender, now: float) -> None:
        numbers = self._receivers[sender].take(now)
        if numbers:
            at = now + self.path.delay
            heapq.heappush(self._arrivals, Arrival(at, next(self._order), sender, numbers, True))
