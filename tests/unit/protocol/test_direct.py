"""The bytes of direct connections: preludes, counters, sealed headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.errors import LocalProtocolError, RemoteProtocolError
from tunnel.protocol.direct import (
    COUNTER_MAX,
    PRELUDE_BYTES,
    SEALED_MAX_BYTES,
    WINDOW,
    Counters,
    Prelude,
    is_prelude,
    parse_prelude,
    sealed_frame,
    split_sealed,
)

PRELUDE = Prelude(b"S" * 16, 258, b"P" * 32)
RAW = b"TUNNEL/1" + b"S" * 16 + bytes(6) + b"\x01\x02" + b"P" * 32


def test_a_prelude_is_64_bytes_and_reads_back() -> None:
    assert bytes(PRELUDE) == RAW
    assert len(RAW) == PRELUDE_BYTES == 64
    assert parse_prelude(RAW) == PRELUDE
    assert PRELUDE.claim == RAW[:32]


@pytest.mark.parametrize("size", range(PRELUDE_BYTES))
def test_a_truncated_prelude_is_none_yet(size: int) -> None:
    assert parse_prelude(RAW[:size]) is None


@pytest.mark.parametrize(
    "foreign", [b"TUNNEL/2", b"TUNNEL/2" + RAW[8:], b"TRACE / HTTP/1.1\r\n", b"Tu"]
)
def test_a_foreign_prelude_is_refused_with_its_first_wrong_byte(foreign: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="another kind"):
        parse_prelude(foreign)


def test_a_spare_that_speaks_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="more than a prelude"):
        parse_prelude(RAW + b"\x16")


def test_neither_tls_nor_a_proxy_header_looks_like_a_prelude() -> None:
    assert is_prelude(b"T")
    assert not is_prelude(b"\x16\x03\x01")
    assert not is_prelude(b"PROXY TCP4")
    assert not is_prelude(b"\r\n\r\n\x00\r\nQUIT\n")
    assert not is_prelude(b"")


@given(st.binary(max_size=80))
def test_anything_else_is_refused_or_incomplete_and_nothing_else_escapes(beginning: bytes) -> None:
    try:
        prelude = parse_prelude(beginning)
    except RemoteProtocolError:
        return
    assert bytes(prelude) == beginning if prelude else RAW.startswith(beginning[:8])


# -- counters


def test_each_counter_is_taken_once() -> None:
    counters = Counters()
    assert [counters.take(number) for number in (0, 1, 1, 0, 5, 3, 3, 4, 5)] == [
        *(True, True, False, False, True, True, False, True, False)
    ]


def test_a_counter_below_the_window_is_never_taken() -> None:
    counters = Counters()
    assert counters.take(WINDOW + 10)
    assert counters.take(10)
    assert not counters.take(9)


def test_a_great_jump_forgets_no_replay() -> None:
    counters = Counters()
    assert counters.take(1)
    assert counters.take(COUNTER_MAX)
    assert not counters.take(COUNTER_MAX)
    assert counters.take(COUNTER_MAX - WINDOW)
    assert not counters.take(1)


@given(st.lists(st.integers(0, 3 * WINDOW), max_size=200))
def test_counters_agree_with_a_plain_set(numbers: list[int]) -> None:
    counters, taken = Counters(), set[int]()
    for number in numbers:
        is_new = number not in taken and number >= max(taken, default=0) - WINDOW
        assert counters.take(number) is is_new
        taken.add(number)


# -- sealed headers


def test_a_sealed_header_is_split_from_what_follows() -> None:
    sealed = b"s" * 40
    framed = sealed_frame(sealed)
    assert split_sealed(framed + b"hello") == (sealed, b"hello")
    assert [split_sealed(framed[:size]) for size in range(len(framed))] == [None] * len(framed)


@pytest.mark.parametrize("length", [0, 16, SEALED_MAX_BYTES + 1, 65535])
def test_a_length_that_no_header_has_is_refused_at_once(length: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"of {length} bytes"):
        split_sealed(length.to_bytes(2, "big"))


def test_a_header_that_is_too_long_is_our_fault() -> None:
    with pytest.raises(LocalProtocolError):
        sealed_frame(bytes(SEALED_MAX_BYTES + 1))
