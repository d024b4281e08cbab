"""The bound of what is in flight, over very many rounds."""

from math import inf

from tunnel.transport.quic.path_model import QueueBound, Round

DATAGRAM = 1200
LOSSY = Round(in_flight=100_000, arrived=1_000_000, lost=500_000, round_trip=1.0)
QUIET = Round(in_flight=100_000, arrived=1_000_000, lost=0, round_trip=0.04)


def test_a_bound_is_forgotten_after_a_while_however_long_nothing_is_lost() -> None:
    bound = QueueBound()
    assert bound.judge(LOSSY, 0.04, DATAGRAM)
    assert bound.bytes < LOSSY.in_flight
    for _ in range(5000):
        assert not bound.judge(QUIET, 0.04, DATAGRAM)
    assert bound.bytes == inf
    assert bound.judge(LOSSY, 0.04, DATAGRAM)
    assert bound.bytes < LOSSY.in_flight
