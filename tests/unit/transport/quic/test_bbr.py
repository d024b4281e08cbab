"""BBR over a path in virtual time: what it gets, what it leaves to others, what it learns."""

from collections.abc import Callable
from statistics import median

import pytest
from aioquic.quic.congestion.cubic import CubicCongestionControl

from tests.unit.transport.quic.bottleneck import PACKET, Network, Path, Sender, sent_packet
from tunnel.transport.quic.bbr import WINDOW_MIN, Bbr

RATE = 100e6 / 8  # bytes per second
DELAY = 0.02  # seconds, one way
PRODUCT = RATE * 2 * DELAY


def bbr() -> Bbr:
    return Bbr(max_datagram_size=PACKET)


def path(products: float = 1.0, loss: float = 0.0) -> Path:
    """Return a path of 100 Mbit/s and 40 ms with a queue of so many bandwidth-delay products."""
    return Path(RATE, DELAY, products * PRODUCT, loss)


class Scene(Network):
    """A network whose senders are judged."""

    def shares(self, seconds: float) -> list[float]:
        """Let time pass; return what each got of the path's usual rate."""
        before = [sender.delivered for sender in self.senders]
        for sender in self.senders:
            sender.round_trips.clear()
        self.run(seconds)
        after = [sender.delivered for sender in self.senders]
        return [(b - a) / seconds / RATE for a, b in zip(before, after, strict=True)]

    def round_trip(self) -> float:
        """Return the median of the first sender's round trips since the last look, in seconds."""
        return median(self.senders[0].round_trips)


@pytest.mark.parametrize("products", [0.1, 1.0, 4.0])
def test_it_fills_a_path_and_leaves_its_queue_empty(products: float) -> None:
    scene = Scene(path(products), bbr())
    scene.shares(1)
    assert scene.shares(3)[0] > 0.95
    assert scene.round_trip() < 1.1 * 2 * DELAY


@pytest.mark.parametrize("loss", [0.01, 0.03, 0.1])
def test_losses_of_the_medium_cost_no_more_than_what_is_lost(loss: float) -> None:
    scene = Scene(path(loss=loss), bbr())
    scene.shares(1)
    assert scene.shares(3)[0] > 0.95 * (1 - loss)


def test_it_gives_way_where_most_is_lost_for_long_and_comes_back() -> None:
    scene = Scene(path(loss=0.3), bbr())
    scene.shares(4)
    assert scene.shares(2)[0] < 0.1
    scene.path.loss = 0.0
    scene.shares(8)
    assert scene.shares(2)[0] > 0.9


@pytest.mark.parametrize("products", [1.0, 4.0])
def test_two_share_a_path(products: float) -> None:
    scene = Scene(path(products), bbr(), bbr())
    scene.shares(3)
    shares = scene.shares(8)
    assert sum(shares) > 0.95
    assert min(shares) > 0.4 * sum(shares)


def test_a_late_comer_gets_its_share() -> None:
    scene = Scene(path(1.0), bbr())
    scene.shares(2)
    scene.senders.append(Sender(bbr()))
    scene.shares(10)
    shares = scene.shares(5)
    assert min(shares) > 0.3 * sum(shares)


def test_it_leaves_room_for_cubic_where_the_queue_is_long() -> None:
    scene = Scene(path(4.0), bbr(), CubicCongestionControl(max_datagram_size=PACKET))
    scene.shares(4)
    ours, cubics = scene.shares(10)
    assert cubics > 0.3
    assert ours > 0.3


def test_it_finds_out_that_the_path_has_become_slower_and_faster() -> None:
    scene = Scene(path(1.0), bbr())
    scene.shares(3)
    scene.path.rate = RATE / 4
    scene.path.room /= 4
    scene.shares(2)
    assert scene.shares(2)[0] > 0.95 / 4
    assert scene.round_trip() < 1.5 * 2 * DELAY
    scene.path.rate = RATE
    scene.path.room *= 4
    scene.shares(4)
    assert scene.shares(1)[0] > 0.9


def test_it_finds_out_that_the_path_has_become_longer() -> None:
    scene = Scene(path(1.0), bbr())
    scene.shares(3)
    scene.path.delay = 3 * DELAY
    scene.shares(14)  # the old round trip is believed for 10 s
    assert scene.shares(4)[0] > 0.9


def trickle(start: float, until: float) -> Callable[[float], bool]:
    """Return what gives a sender one hundredth of the path's rate to send, then all it takes."""
    sent = 0

    def has_more(now: float) -> bool:
        nonlocal sent
        if now < until and sent > RATE / 100 * (now - start):
            return False
        sent += PACKET
        return True

    return has_more


def test_a_trickle_does_not_make_it_forget_the_path() -> None:
    scene = Scene(path(1.0), bbr())
    scene.shares(3)
    scene.senders[0].has_more = trickle(3, 12)
    scene.shares(1)
    assert scene.shares(8)[0] < 0.02
    assert scene.shares(1)[0] > 0.9


def test_a_trickle_at_the_beginning_is_not_taken_for_the_path() -> None:
    scene = Scene(path(1.0), bbr())
    scene.senders[0].has_more = trickle(0, 3)
    assert scene.shares(3)[0] < 0.02
    assert scene.shares(1)[0] > 0.7


def test_after_a_pause_it_sends_at_the_bandwidth() -> None:
    scene = Scene(path(1.0), bbr())
    scene.shares(3)
    scene.senders[0].has_more = lambda now: now > 33
    scene.run(30)
    dropped = scene.path.dropped
    assert scene.shares(0.2)[0] > 0.7
    assert scene.shares(2)[0] > 0.95
    assert scene.path.dropped - dropped < 20


def test_its_window_grows_by_what_arrives_after_a_silence() -> None:
    scene = Scene(path(1.0), bbr())
    scene.shares(3)
    control = scene.senders[0].control
    usual = control.congestion_window
    scene.path.loss = 1.0
    scene.run(2)
    control.on_persistent_congestion()
    assert control.congestion_window == WINDOW_MIN * PACKET
    scene.path.loss = 0.0
    scene.run(0.15)
    assert control.congestion_window < usual / 4
    scene.run(2)
    assert control.congestion_window > usual / 2


def test_packets_in_flight_are_counted_until_each_has_an_end() -> None:
    control = bbr()
    packets = [sent_packet(number, 1.0) for number in range(3)]
    for packet in packets:
        control.on_packet_sent(packet=packet)
    assert control.bytes_in_flight == 3 * PACKET
    control.on_packet_acked(now=1.1, packet=packets[0])
    control.on_packets_lost(now=1.1, packets=packets[1:2])
    control.on_packets_expired(packets=packets[2:])
    assert control.bytes_in_flight == 0
