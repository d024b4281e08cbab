"""Two engines joined by a wire in memory, with its own clock: it loses and reorders as told."""

import datetime
import heapq
import random
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import count

from aioquic.quic.events import QuicEvent, StreamDataReceived

from tunnel.settings.values import FlowSettings
from tunnel.tls.certificates import self_signed
from tunnel.tls.contexts import Trust
from tunnel.transport.options import TransportOptions
from tunnel.transport.quic.configuration import (
    ENGINES,
    client_configuration,
    relay_configuration,
)
from tunnel.transport.quic.engine import Engine

CERTIFICATE = self_signed(["relay.test"], now=datetime.datetime.now(datetime.UTC))
KINDS = {"relay": "stock", "client": "stock"}  # which engine is at which end
TICK = 1e-6  # seconds that a timer fires late: aioquic compares sums of floats with differences
RELAY, CLIENT = ("192.0.2.1", 443), ("192.0.2.2", 5000)


@dataclass
class Wire:
    """A relay's engine and a client's, `delay` seconds apart; the handshake has been done.

    Where it loses, it delays some more than others, by up to `jitter` of the delay.
    """

    flow: FlowSettings = field(default_factory=FlowSettings)
    loss: float = 0.0
    seed: int = 0
    delay: float = 0.01
    now: float = 1000.0
    jitter: float = 1.0

    def __post_init__(self) -> None:
        options = TransportOptions(flow=self.flow)
        trust = Trust("relay.test", pin=CERTIFICATE.pin)
        self.client = ENGINES[KINDS["client"]](client_configuration(trust, options))
        self.client.connect(RELAY, self.now)
        original = self.client.original_destination_connection_id
        self.relay = ENGINES[KINDS["relay"]](
            relay_configuration(CERTIFICATE, options), b"k" * 32, original
        )
        self.events: dict[Engine, list[QuicEvent]] = {self.relay: [], self.client: []}
        self.received: dict[Engine, dict[int, bytearray]] = {
            self.relay: defaultdict(bytearray),
            self.client: defaultdict(bytearray),
        }
        self._random = random.Random(self.seed)
        self._flying: list[tuple[float, int, Engine, bytes]] = []
        self._order = count()
        loss, self.loss = self.loss, 0.0
        self.run(1.0)
        self.loss = loss

    def other(self, engine: Engine) -> Engine:
        return self.client if engine is self.relay else self.relay

    def emit(self, engine: Engine) -> list[bytes]:
        """Return what an engine sends now, and keep it off the wire."""
        if engine.get_peer_address() is None:
            return []
        return [datagram for datagram, _ in engine.datagrams_to_send(self.now)]

    def hear(self, engine: Engine, datagram: bytes) -> None:
        """Hand a datagram to an engine, as if the other had sent it."""
        source = CLIENT if engine is self.relay else RELAY
        engine.receive_burst([datagram], source, self.now)

    def run(self, seconds: float) -> None:
        """Let time pass, everything that is sent being carried."""
        until = self.now + seconds
        while True:
            for engine in (self.relay, self.client):
                self._exchange(engine)
            due = self._next_time()
            if due > until:
                break
            self.now = max(self.now, due) + TICK
            self._deliver()
        self.now = until

    def _exchange(self, engine: Engine) -> None:
        while (event := engine.next_event()) is not None:
            self.events[engine].append(event)
            if isinstance(event, StreamDataReceived):
                self.received[engine][event.stream_id] += event.data
        engine.take_done()
        for datagram in self.emit(engine):
            if self._random.random() >= self.loss:
                jitter = self._random.random() * self.jitter * self.delay if self.loss else 0.0
                arrival = self.now + self.delay + jitter
                entry = (arrival, next(self._order), self.other(engine), datagram)
                heapq.heappush(self._flying, entry)

    def _next_time(self) -> float:
        times = [self._flying[0][0]] if self._flying else []
        for engine in (self.relay, self.client):
            timer = engine.get_timer()
            if timer is not None:
                times.append(timer)
        return min(times, default=float("inf"))

    def _deliver(self) -> None:
        while self._flying and self._flying[0][0] <= self.now:
            _, _, engine, datagram = heapq.heappop(self._flying)
            self.hear(engine, datagram)
        for engine in (self.relay, self.client):
            timer = engine.get_timer()
            if timer is not None and timer <= self.now:
                engine.handle_timer(self.now)
