"""Two engines over a bad network in virtual time: everything arrives whole, and nothing is left.

From the command line: python -m tests.unit.transport.quic.soak [SEEDS] [FIRST]
"""

import heapq
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count, product
from typing import Any

from aioquic.quic.events import (
    ConnectionTerminated,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

from tests.unit.transport.quic.wire import CERTIFICATE, CLIENT, RELAY
from tunnel.errors import Code
from tunnel.settings.values import KIB, MIB, FlowSettings, QuicSettings
from tunnel.tls.contexts import Trust
from tunnel.transport.options import TransportOptions
from tunnel.transport.quic.configuration import (
    ENGINES,
    client_configuration,
    relay_configuration,
)
from tunnel.transport.quic.engine import Engine, StreamOpened
from tunnel.transport.quic.trains import trains_of

PAIRS = (("fast", "fast"), ("fast", "stock"), ("stock", "fast"))  # the relay's, the client's
LOSSES = (0.0, 0.01, 0.03, 0.05, 0.1)
SIZES = (0, 1, 100, 1310, 5_000, 60_000, 250_000)
CHUNKS = (1, 500, 1310, 3_000, 20_000, 65_536)
WINDOW = 128 * KIB
LIVE_MAX = 30  # streams at a time
STALL_SECONDS = 90.0  # without a byte: it hangs
PATTERN = random.Random(7).randbytes(320_000)


@dataclass(frozen=True)
class Plan:
    """What one run is like."""

    seed: int
    engines: tuple[str, str] = ("fast", "fast")  # the relay's and the client's
    congestion: str = "reno"
    streams: int = 60

    @property
    def loss(self) -> float:
        return LOSSES[self.seed % len(LOSSES)]


class SoakFailed(AssertionError):  # noqa: N818 - reads as what has happened
    """Something arrived wrong, too late, or not at all."""


@dataclass
class Half:
    """What one end sends on one stream, and what it has got of the other."""

    out: bytes
    sent: int = 0
    got: int = 0
    has_finished: bool = False  # everything is written, or the stream cut
    has_ended: bool = False  # the other end has finished, or cut

    @property
    def is_over(self) -> bool:
        return self.has_finished and self.has_ended


@dataclass
class End:
    """One engine with its streams."""

    engine: Engine
    salt: int
    halves: dict[int, Half] = field(default_factory=dict)
    arriving: list[tuple[float, int, bytes]] = field(default_factory=list)


def content(stream_id: int, size: int, salt: int) -> bytes:
    """Return what is sent on a stream: reproducible, and different for each."""
    start = (stream_id * 7 + salt * 131) % 65_536
    return PATTERN[start : start + size]


class Soak:
    """One run; raises SoakFailed."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.now = 1000.0
        self.moved_at = self.now
        self._random = random.Random(plan.seed)
        self._order = count()
        self._address: Any = CLIENT
        self._opened = 0
        self._updated_at = self.now
        flow = FlowSettings(stream_window=WINDOW, connection_window=MIB)
        quic = QuicSettings(congestion=plan.congestion)
        options = TransportOptions(flow=flow, quic=quic)
        trust = Trust("relay.test", pin=CERTIFICATE.pin)
        client = ENGINES[plan.engines[1]](client_configuration(trust, options))
        client.connect(RELAY, self.now)
        original = client.original_destination_connection_id
        configuration = relay_configuration(CERTIFICATE, options)
        relay = ENGINES[plan.engines[0]](configuration, b"k" * 32, original)
        self.relay, self.client = End(relay, 0), End(client, 1)

    def run(self) -> None:
        """Open, write, lose and move house until every stream has ended; then look around."""
        while self._opened < self.plan.streams or not self._is_quiet():
            self._open_some()
            self._write_some()
            self._disturb()
            self._step()
            if self.now - self.moved_at > STALL_SECONDS:
                raise SoakFailed(f"{self.plan}: stalled with {self._live()}")
        for _ in range(4000):
            if not self._leftovers():
                return
            self._step()
        raise SoakFailed(f"{self.plan}: {self._leftovers()} are never forgotten")

    def _is_quiet(self) -> bool:
        return not self._live()

    def _live(self) -> list[int]:
        ends = (self.relay, self.client)
        return [key for end in ends for key, half in end.halves.items() if not half.is_over]

    def _leftovers(self) -> list[int]:
        """Return streams that are kept, and negative counts of bytes in flight."""
        engines = (self.relay.engine, self.client.engine)
        streams = [stream_id for engine in engines for stream_id in engine._streams]
        return streams + [-flying for engine in engines if (flying := engine._loss.bytes_in_flight)]

    # What the applications do

    def _open_some(self) -> None:
        while (
            self._opened < self.plan.streams
            and self.relay.engine.may_open
            and self.relay.engine._handshake_complete
            and len(self._live()) < LIVE_MAX
        ):
            self._opened += 1
            stream_id = self.relay.engine.open_stream()
            self._begin(self.relay, stream_id)

    def _begin(self, end: End, stream_id: int) -> None:
        size = self._random.choice(SIZES)
        end.halves[stream_id] = Half(content(stream_id, size, end.salt))

    def _write_some(self) -> None:
        for end in (self.relay, self.client):
            for stream_id, half in end.halves.items():
                if not half.has_finished and self._random.random() < 0.3:
                    self._write(end, stream_id, half)

    def _write(self, end: End, stream_id: int, half: Half) -> None:
        if stream_id > 1 and self._random.random() < 0.002:
            end.engine.cut(stream_id, Code.ABORTED)
            half.has_finished = half.has_ended = True
            return
        size = self._random.choice((*CHUNKS, len(half.out)))
        chunk = half.out[half.sent : half.sent + size]
        half.sent += len(chunk)
        half.has_finished = half.sent == len(half.out)
        end.engine.write(stream_id, chunk, end=half.has_finished)

    def _disturb(self) -> None:
        """Now and then move the client to another port, or change the keys."""
        if self._random.random() < 0.001:
            self._address = (f"192.0.2.{self._random.randrange(10, 250)}", 5000)
        relay, client = self.relay.engine, self.client.engine
        is_calm = not (relay._loss._pto_count or client._loss._pto_count)
        if self.now > self._updated_at + 3 and is_calm and client._handshake_confirmed:
            # Of one end at a time: aioquic keeps no old keys for what is still under way.
            self._updated_at = self.now
            self._random.choice((relay, client)).request_key_update()

    # What the network does

    def _step(self) -> None:
        """Send, let time pass until something is due, deliver it."""
        self._send(self.relay, self.client)
        self._send(self.client, self.relay)
        times = list(self._times())
        if times:
            wait = 0.003 if self._random.random() < 0.3 else 1e-6  # let several come together
            self.now = max(self.now, min(times)) + wait
        self._deliver(self.relay, self._address)
        self._deliver(self.client, RELAY)
        for end in (self.relay, self.client):
            timer = end.engine.get_timer() if end.engine.get_peer_address() else None
            if timer is not None and timer <= self.now:
                end.engine.handle_timer(self.now)
            self._settle(end)

    def _times(self) -> Iterator[float]:
        if any(half.sent < len(half.out) for half in self.relay.halves.values()):
            yield self.now + 0.005  # somebody wants to write
        for end in (self.relay, self.client):
            if end.arriving:
                yield end.arriving[0][0]
            timer = end.engine.get_timer() if end.engine.get_peer_address() else None
            if timer is not None:
                yield timer

    def _send(self, source: End, target: End) -> None:
        if source.engine.get_peer_address() is None:
            return
        chance = self._random.random
        for payload, _ in source.engine.datagrams_to_send(self.now):
            if chance() < self.plan.loss:
                continue
            late = 3 if chance() < 0.05 else 1
            arrival = self.now + 0.01 + chance() * 0.005 * late
            heapq.heappush(target.arriving, (arrival, next(self._order), payload))
            if chance() < 0.01:
                heapq.heappush(target.arriving, (arrival + 0.01, next(self._order), payload))

    def _deliver(self, end: End, source: Any) -> None:
        burst = []
        while end.arriving and end.arriving[0][0] <= self.now:
            burst.append(heapq.heappop(end.arriving)[2])
        if burst and self._random.random() < 0.5:
            end.engine.receive_burst(burst, source, self.now)
        else:
            for train in trains_of(burst):
                end.engine.receive_burst(train, source, self.now)

    # What the engines tell

    def _settle(self, end: End) -> None:
        while (event := end.engine.next_event()) is not None:
            self._take(end, event)
        end.engine.take_done()

    def _take(self, end: End, event: QuicEvent) -> None:
        match event:
            case StreamOpened(stream_id=stream_id):
                self._begin(end, stream_id)
            case StreamDataReceived(data=data, end_stream=ended, stream_id=stream_id):
                self._receive(end, stream_id, data, ended=ended)
            case StreamReset(stream_id=stream_id) | StopSendingReceived(stream_id=stream_id):
                end.engine.cut(stream_id, Code.ABORTED)
                half = end.halves[stream_id]
                half.has_finished = half.has_ended = True
            case ConnectionTerminated():
                raise SoakFailed(f"{self.plan}: {event}")

    def _receive(self, end: End, stream_id: int, data: bytes, *, ended: bool) -> None:
        self.moved_at = self.now
        half = end.halves[stream_id]
        if half.has_ended:
            return  # was cut here meanwhile
        other = self.relay if end is self.client else self.client
        whole = other.halves[stream_id].out
        if data != whole[half.got : half.got + len(data)]:
            raise SoakFailed(f"{self.plan}: stream {stream_id} differs at {half.got}")
        half.got += len(data)
        end.engine.grant(stream_id, half.got + WINDOW)
        if ended:
            half.has_ended = True
            if half.got != len(whole):
                raise SoakFailed(f"{self.plan}: stream {stream_id} ended early at {half.got}")


def main(seeds: int = 60, first: int = 0) -> None:
    """Run many seeds on every pair with a fast engine in it; say which failed."""
    began, failures = time.monotonic(), 0
    for engines, congestion in product(PAIRS, ("bbr", "reno", "cubic")):
        plan = Plan(0, engines, congestion)
        for seed in range(first, first + seeds):
            try:
                Soak(replace(plan, seed=seed)).run()
            except SoakFailed as fault:
                failures += 1
                sys.stdout.write(f"{fault}\n")
        sys.stdout.write(f"{' to '.join(engines)}, {congestion}: {seeds} seeds\n")
        sys.stdout.flush()
    sys.stdout.write(f"{failures} failures, {time.monotonic() - began:.0f} s\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
