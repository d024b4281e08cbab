"""What one wake-up reads, as bursts."""

from hypothesis import given
from hypothesis import strategies as st

from tunnel.transport.quic.arrivals import READ_BYTES, Arrivals
from tunnel.transport.quic.trains import Burst, Train

Read = tuple[bytes, int, str]  # what was read, the length of each datagram in it, from whom

READS = st.lists(
    st.tuples(st.binary(max_size=12), st.integers(0, 4), st.sampled_from("ab")), max_size=12
)


def arrived(*reads: Read) -> list[Burst]:
    arrivals = Arrivals()
    for joined, size, source in reads:
        arrivals.room[: len(joined)] = joined
        arrivals.add(len(joined), size, source)
    return arrivals.take()


def shown(bursts: list[Burst]) -> list[tuple[list[bytes], str, bool]]:
    return [(list(each), source, isinstance(each, Train)) for each, source in bursts]


@given(READS)
def test_every_datagram_arrives_whole_in_order_and_from_its_sender(reads: list[Read]) -> None:
    sent = [
        (joined[start : start + (size or 12)], source)
        for joined, size, source in reads
        for start in range(0, len(joined), size or 12)
    ]
    assert [(each, source) for every, source in arrived(*reads) for each in every] == sent


def test_trains_of_one_size_that_follow_each_other_are_one() -> None:
    found = arrived((b"aabb", 2, "x"), (b"cc", 0, "x"), (b"dde", 2, "x"))
    assert shown(found) == [([b"aa", b"bb", b"cc", b"dd", b"e"], "x", True)]


def test_a_shorter_datagram_is_the_last_one_of_a_train() -> None:
    found = arrived((b"aabb", 2, "x"), (b"c", 0, "x"), (b"ddee", 2, "x"))
    assert shown(found) == [([b"aa", b"bb", b"c"], "x", True), ([b"dd", b"ee"], "x", True)]


def test_each_sender_has_its_own_trains() -> None:
    found = arrived((b"aabb", 2, "x"), (b"cc", 0, "y"), (b"dd", 0, "y"), (b"ee", 0, "x"))
    assert shown(found) == [
        ([b"aa", b"bb"], "x", True),
        ([b"cc", b"dd"], "y", True),
        ([b"ee"], "x", False),
    ]


def test_datagrams_that_become_longer_are_no_train() -> None:
    assert shown(arrived((b"a", 0, "x"), (b"bb", 0, "x"))) == [([b"a", b"bb"], "x", False)]


def test_an_empty_datagram_is_counted_and_dropped() -> None:
    arrivals = Arrivals()
    arrivals.add(0, 0, "x")
    assert (arrivals.count, arrivals.take()) == (1, [])


def test_reading_ends_where_the_next_read_might_not_fit() -> None:
    arrivals, reads = Arrivals(), 0
    while arrivals.has_room:
        assert len(arrivals.room) >= READ_BYTES
        arrivals.add(READ_BYTES, 1350, "x")
        reads += 1
    assert reads > 1
