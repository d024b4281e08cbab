"""Datagrams that the kernel joins and cuts, looked at together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.transport.quic.trains import (
    SEGMENTS_BYTES_MAX,
    SEGMENTS_MAX,
    Train,
    by_address,
    coupled,
    remaining,
    shortest,
    trains_of,
)

DATAGRAMS = st.lists(st.integers(1, 4).flatmap(lambda size: st.just(b"x" * size)), max_size=300)


@pytest.mark.parametrize(
    ("joined", "size", "datagrams"),
    [
        (b"abcdefg", 3, [b"abc", b"def", b"g"]),
        (b"abcdef", 3, [b"abc", b"def"]),
        (b"abc", 3, [b"abc"]),
        (b"ab", 3, [b"ab"]),
    ],
)
def test_what_the_kernel_joined_is_cut_again(
    joined: bytes, size: int, datagrams: list[bytes]
) -> None:
    train = Train(joined, size)
    assert list(train) == datagrams
    assert (len(train), train[-1], train[1:]) == (len(datagrams), datagrams[-1], datagrams[1:])
    assert (list(train.first(1)), list(train.after(1))) == (datagrams[:1], datagrams[1:])
    assert list(remaining(train, 2)) == list(remaining(datagrams, 2)) == datagrams[2:]
    assert train.shortest == shortest(datagrams) == shortest(train)


@given(st.binary(min_size=1, max_size=100), st.integers(1, 12), st.data())
def test_a_column_is_cut_out_of_every_datagram(
    joined: bytes, size: int, data: st.DataObject
) -> None:
    train = Train(joined, size)
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start, size))
    assert list(train.columns(start, stop)) == [each[start:stop] for each in train]
    assert list(train.every(start)) == [each[start] for each in train if len(each) > start]


@pytest.mark.parametrize(
    ("joined", "shared"),
    [
        (b"1abc2abc3abc", b"ab"),
        (b"1abc2abc3ab", b"ab"),
        (b"1abc2abc3a", None),
        (b"1abc2xbc3abc", None),
        (b"1abc2abc3xb", None),
    ],
)
def test_what_all_have_in_common_is_in_every_one(joined: bytes, shared: bytes | None) -> None:
    assert Train(joined, 4).shared(1, 3) == shared


def test_what_is_longer_than_the_datagrams_is_in_none_of_them() -> None:
    assert Train(b"aaaa", 2).shared(1, 3) is None


@given(DATAGRAMS)
def test_coupling_keeps_the_datagrams_and_their_order(datagrams: list[bytes]) -> None:
    trains = list(trains_of(datagrams))
    assert [datagram for train in trains for datagram in train] == datagrams
    assert all(len(train) <= SEGMENTS_MAX for train in trains)


@pytest.mark.parametrize(
    ("groups", "trains"),
    [
        ([(1350, 51)], [(1350, 48), (1350, 3)]),
        ([(40, 1), (1350, 3), (90, 1)], [(40, 1), (1350, 4)]),
        ([(1350, 3), (90, 2)], [(1350, 3), (90, 2)]),
        ([(1350, 3), (90, 1), (1350, 2)], [(1350, 4), (1350, 2)]),
        ([(1350, 2), (1350, 2)], [(1350, 4)]),
        ([(9, SEGMENTS_MAX + 1)], [(9, SEGMENTS_MAX), (9, 1)]),
        ([(SEGMENTS_BYTES_MAX + 1, 2)], [(SEGMENTS_BYTES_MAX + 1, 1)] * 2),
        ([], []),
    ],
)
def test_a_train_is_as_long_as_one_system_call_takes(
    groups: list[tuple[int, int]], trains: list[tuple[int, int]]
) -> None:
    assert list(coupled(groups)) == trains


def test_datagrams_to_one_address_in_a_row_are_a_burst() -> None:
    found = by_address([(b"a", 1), (b"b", 1), (b"c", 2), (b"d", 1)])
    assert found == [([b"a", b"b"], 1), ([b"c"], 2), ([b"d"], 1)]
