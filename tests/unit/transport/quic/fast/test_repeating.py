"""What is sent twice, when, and what those who ask for little have of it."""

from statistics import quantiles

import pytest
from aioquic.quic.packet_builder import QuicDeliveryState

from tests.unit.transport.quic import wire as wire_module
from tests.unit.transport.quic.fast.test_engine import begin, fast, join
from tests.unit.transport.quic.wire import RELAY, Wire
from tunnel.transport.quic.fast.records import Record
from tunnel.transport.quic.fast.repeating import LATELY_PACKETS, LossShare, Original
from tunnel.transport.quic.fast.sender import chunks_of
from tunnel.transport.quic.fast.sending import TURN_PACKETS

ROUND_TRIP = 0.02  # of the wire


def send(wire: Wire, stream_id: int, data: bytes) -> bytes:
    """Return the one datagram in which the relay sends something."""
    wire.relay.write(stream_id, data)
    (datagram,) = wire.emit(wire.relay)
    return datagram


def lossy() -> tuple[Wire, int]:
    """Return a wire whose relay has lost packets of late, and a stream that both know."""
    wire = join()
    stream_id = begin(wire)
    fast(wire.relay)._recovery.losses.add(lost=5)
    return wire, stream_id


def later(wire: Wire) -> list[bytes]:
    """Return what the relay sends within a fifth of a round trip without hearing anything."""
    sent: list[bytes] = []
    until = wire.now + ROUND_TRIP / 5
    while (timer := wire.relay.get_timer()) is not None and timer < until:
        wire.now = timer
        sent += wire.emit(wire.relay)
    return sent


# The share


def test_one_loss_in_two_hundred_makes_a_path_lossy_until_enough_have_arrived() -> None:
    losses = LossShare()
    losses.add(arrived=199, lost=1)
    assert not losses.is_lossy
    losses.add(lost=1)
    assert losses.is_lossy
    losses.add(arrived=LATELY_PACKETS)
    losses.add(arrived=LATELY_PACKETS)
    assert not losses.is_lossy


def test_what_comes_late_was_not_lost() -> None:
    losses = LossShare()
    losses.add(arrived=10, lost=2)
    losses.add(arrived=2, lost=-2)
    assert not losses.is_lossy


def test_gaps_in_what_comes_tell_of_the_path_too() -> None:
    wire = join()
    stream_id = begin(wire)
    first, second, third = (send(wire, stream_id, b"x") for _ in range(3))
    losses = fast(wire.client)._recovery.losses
    wire.hear(wire.client, first)
    assert not losses.is_lossy
    wire.hear(wire.client, third)
    assert losses.is_lossy
    wire.hear(wire.client, second)
    assert not losses.is_lossy


# What is sent


def test_little_leaves_once_more_a_fraction_of_a_round_trip_later() -> None:
    wire, stream_id = lossy()
    for data in (b"first", b"second"):
        send(wire, stream_id, data)  # lost
    copies = later(wire)
    assert len(copies) == 1
    wire.hear(wire.client, copies[0])
    wire.run(0)
    assert wire.received[wire.client][stream_id] == b"firstsecond"


def test_what_one_packet_has_no_room_for_leaves_in_two() -> None:
    wire, stream_id = lossy()
    for _ in range(3):
        send(wire, stream_id, bytes(600))
    for copy in later(wire):
        wire.hear(wire.client, copy)
    wire.run(0)
    assert len(wire.received[wire.client][stream_id]) == 1800


def test_a_path_that_does_not_lose_carries_everything_once() -> None:
    wire = join()
    stream_id = begin(wire)
    send(wire, stream_id, b"little")
    assert later(wire) == []


def test_bulk_is_not_sent_twice() -> None:
    wire, stream_id = lossy()
    wire.relay._loss._cc.congestion_window = 5 * 1350
    send(wire, stream_id, bytes(100))
    wire.relay.write(stream_id, bytes(1350 * TURN_PACKETS))
    wire.emit(wire.relay)
    assert later(wire) == []


def test_what_has_arrived_is_not_sent_twice() -> None:
    wire, stream_id = lossy()
    datagram = send(wire, stream_id, b"little")
    wire.now += ROUND_TRIP / 20
    wire.hear(wire.client, datagram)
    wire.client.write(stream_id, b"answer")
    wire.hear(wire.relay, wire.emit(wire.client)[0])
    assert later(wire) == []


def test_what_arrived_with_its_copy_is_not_sent_again() -> None:
    wire, stream_id = lossy()
    send(wire, stream_id, b"little")  # lost
    wire.client.receive_burst(later(wire), RELAY, wire.now)
    wire.run(5)
    assert chunks_of(wire.relay._streams[stream_id]).held == 0
    before = fast(wire.relay)._packet_number
    assert not fast(wire.relay)._space.sent_packets
    wire.run(1)
    assert fast(wire.relay)._packet_number == before


def test_datagrams_that_have_become_smaller_carry_what_fits() -> None:
    wire, stream_id = lossy()
    for size in (1300, 100):
        send(wire, stream_id, bytes(size))
    wire.relay._max_datagram_size = 1200
    wire.relay._is_probing = True  # the larger size is not tried meanwhile
    assert [len(copy) < 200 for copy in later(wire)] == [True]


# Who is told


@pytest.mark.parametrize(
    ("fates", "told"),
    [
        (["original acked", "copy acked"], ["ACKED"]),
        (["copy acked", "original acked"], ["ACKED"]),
        (["copy acked", "original lost"], ["ACKED"]),
        (["copy lost", "original lost"], ["LOST"]),
        (["original lost", "copy acked"], ["LOST"]),
        (["copy lost", "original acked"], ["ACKED"]),
    ],
)
def test_frames_in_two_packets_are_told_of_once(fates: list[str], told: list[str]) -> None:
    heard: list[str] = []
    acknowledging: list[str] = []
    handlers = [
        (lambda delivery: acknowledging.append(delivery.name), ()),
        (lambda delivery: heard.append(delivery.name), ()),
    ]
    record = Record(1, 100, 1.0, handlers, eliciting=True)
    original = Original(record, b"frames", 1)
    for fate in fates:
        which, how = fate.split()
        delivery = QuicDeliveryState[how.upper()]
        if which == "copy":
            original.twin.note_copy(delivery)
        else:
            for handler, arguments in record.delivery_handlers:
                handler(delivery, *arguments)
    assert heard == told
    assert len(acknowledging) == 1


# What it is for


class Visitors:
    """Sixteen who ask ten times a second, over 40 ms; the client's service echoes."""

    def __init__(self, loss: float) -> None:
        wire_module.KINDS.update(relay="fast", client="fast")
        self.wire = Wire(delay=0.02, loss=loss, jitter=0.02)
        wire_module.KINDS.update(relay="stock", client="stock")
        begin(self.wire)  # the control stream
        self.streams = [self.wire.relay.open_stream() for _ in range(16)]
        self.waits: list[float] = []  # seconds
        self._asked: dict[int, float] = {}

    def ask(self, seconds: int) -> None:
        """Let all of them ask for a while."""
        for step in range(seconds * 1000):
            for stream_id in self.streams[step % 100 :: 4] if step % 100 < 4 else ():
                if stream_id not in self._asked:
                    self._asked[stream_id] = self.wire.now
                    self.wire.relay.write(stream_id, b"q" * 100)
            self.wire.run(0.001)
            for stream_id in list(self._asked):
                self._answer(stream_id)

    def _answer(self, stream_id: int) -> None:
        wire = self.wire
        if self._has_new(wire.received[wire.client][stream_id]):
            wire.client.write(stream_id, b"a" * 100)
        if self._has_new(wire.received[wire.relay][stream_id]):
            self.waits.append(wire.now - self._asked.pop(stream_id))

    @staticmethod
    def _has_new(received: bytearray) -> bool:
        """Say whether 100 more bytes have come, and take them."""
        if len(received) < 100:
            return False
        del received[:100]
        return True


def test_those_who_ask_for_little_hardly_notice_losses() -> None:
    visitors = Visitors(loss=0.03)
    visitors.ask(15)
    cuts = quantiles(visitors.waits, n=100)
    assert len(visitors.waits) > 2300
    assert cuts[49] < 0.045
    assert cuts[98] < 0.060  # without copies 0.1: two round trips and a timeout
