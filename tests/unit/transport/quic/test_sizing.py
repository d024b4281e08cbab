"""Datagrams are as large as the path allows, and everything arrives on paths that allow little."""

from dataclasses import dataclass, field

import pytest

from tests.unit.transport.quic.wire import Wire
from tunnel.transport.quic.configuration import DATAGRAM_BYTES
from tunnel.transport.quic.engine import Engine
from tunnel.transport.quic.sizing import PROBES_MAX, SAFE_BYTES

pytestmark = pytest.mark.usefixtures("engines")


@dataclass
class NarrowWire(Wire):
    """A wire that drops datagrams above `most` bytes without a word."""

    most: int = SAFE_BYTES
    sizes: list[int] = field(default_factory=list)

    def emit(self, engine: Engine) -> list[bytes]:
        datagrams = super().emit(engine)
        self.sizes.extend(map(len, datagrams))
        return [datagram for datagram in datagrams if len(datagram) <= self.most]


def transfer(wire: Wire, size: int, seconds: float) -> bool:
    """Say whether a stream's bytes arrive in time."""
    stream_id = wire.relay.open_stream()
    wire.relay.write(stream_id, bytes(size), end=True)
    wire.run(seconds)
    return len(wire.received[wire.client][stream_id]) == size


def test_everything_arrives_on_a_path_that_carries_no_more_than_it_must() -> None:
    wire = NarrowWire()
    assert transfer(wire, 200_000, 5)
    assert wire.relay._max_datagram_size == SAFE_BYTES


def test_a_narrow_path_is_not_tried_for_ever() -> None:
    wire = NarrowWire()
    for _ in range(20):
        assert transfer(wire, 20_000, 5)
    assert sum(size > SAFE_BYTES for size in wire.sizes) <= 2 * PROBES_MAX


def test_datagrams_grow_where_the_path_allows() -> None:
    wire = NarrowWire(most=DATAGRAM_BYTES)
    assert transfer(wire, 200_000, 5)
    assert wire.relay._max_datagram_size == wire.client._max_datagram_size == DATAGRAM_BYTES
    assert wire.sizes.count(DATAGRAM_BYTES) > 100


def test_a_path_that_becomes_narrow_carries_on() -> None:
    wire = NarrowWire(most=DATAGRAM_BYTES)
    assert transfer(wire, 50_000, 5)
    wire.most = SAFE_BYTES
    assert transfer(wire, 50_000, 30)


def test_an_outage_makes_datagrams_small_for_a_while_only() -> None:
    wire = NarrowWire(most=DATAGRAM_BYTES)
    assert transfer(wire, 50_000, 5)
    wire.most = 0
    assert not transfer(wire, 50_000, 5)
    assert wire.relay._max_datagram_size == SAFE_BYTES
    wire.most = DATAGRAM_BYTES
    assert transfer(wire, 50_000, 30)
    assert wire.relay._max_datagram_size == DATAGRAM_BYTES


def test_another_path_is_tried_anew() -> None:
    wire = NarrowWire(most=DATAGRAM_BYTES)
    assert transfer(wire, 50_000, 5)
    wire.most = SAFE_BYTES
    wire.client.write(wire.relay.open_stream() - 4, b"", end=True)
    moved = wire.emit(wire.client)
    for datagram in moved:
        wire.relay.receive_datagram(datagram, ("192.0.2.3", 5000), wire.now)
    wire.sizes.clear()
    wire.emit(wire.relay)
    assert wire.sizes
    assert max(wire.sizes) <= SAFE_BYTES
