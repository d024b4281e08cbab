"""Whatever a visitor sends: a hello, a refusal or a wish for more, and always the same one."""

import sys
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hello import CORPUS, RECORD_HEADER_BYTES, handshake, record, reframe
from tunnel.protocol.hello import (
    MAX_HELLO_BYTES,
    ClientHello,
    HelloReader,
    HelloRefused,
    parse_client_hello,
)
from tunnel.protocol.names import check_host_name

thoroughly = settings(max_examples=500)

Outcome = ClientHello | bytes | None  # a hello, the answer of a refusal, a wish for more


def outcome_of(data: bytes) -> Outcome:
    """Parse; any exception that is not documented escapes."""
    try:
        return parse_client_hello(data)
    except HelloRefused as refused:
        return refused.answer


def outcome_of_pieces(pieces: list[bytes]) -> Outcome:
    reader = HelloReader()
    for piece in pieces:
        try:
            if hello := reader.receive(piece):
                return hello
        except HelloRefused as refused:
            return refused.answer
    return None


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(ends)]


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Overwrite, cut out or put in a few bytes, in one to four places."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


hellos = st.sampled_from(list(CORPUS.values()))
messages = hellos.map(handshake)
sizes = st.lists(st.integers(3, 700), min_size=1, max_size=4)
framed = st.builds(lambda message, sizes: reframe(message, *sizes), messages, sizes)
anything = st.one_of(
    st.binary(max_size=400),
    st.binary(max_size=400).map(record),
    st.binary(max_size=400).map(lambda body: record(b"\1" + len(body).to_bytes(3) + body)),
    damaged(hellos),
    damaged(framed),
    damaged(messages).map(record),
    st.builds(lambda message, sizes: reframe(message, *sizes), damaged(messages), sizes),
)


@thoroughly
@given(anything, st.binary(max_size=50))
def test_an_answer_stands_whatever_follows(data: bytes, rest: bytes) -> None:
    outcome = outcome_of(data)
    assert outcome is None or outcome_of(data + rest) == outcome


@thoroughly
@given(anything, st.lists(st.integers(0), max_size=30))
def test_an_answer_does_not_depend_on_the_pieces(data: bytes, places: list[int]) -> None:
    assert outcome_of_pieces(cut(data, places)) == outcome_of(data)


@thoroughly
@given(anything)
def test_an_answer_is_the_same_when_every_byte_comes_alone(data: bytes) -> None:
    assert outcome_of_pieces([bytes((byte,)) for byte in data]) == outcome_of(data)


@thoroughly
@given(anything)
def test_a_hello_is_whole_records_and_names_a_host(data: bytes) -> None:
    outcome = outcome_of(data)
    if isinstance(outcome, ClientHello):
        ends = {0}
        while max(ends) < outcome.size:
            header = max(ends) + RECORD_HEADER_BYTES
            ends.add(header + int.from_bytes(data[header - 2 : header]))
        assert max(ends) == outcome.size <= min(len(data), MAX_HELLO_BYTES)
        assert all(outcome.alpn) or outcome.alpn == ()
        assert outcome.server_name is None or check_host_name(outcome.server_name)


@settings(max_examples=100)
@given(anything, sizes)
def test_sixteen_kibibytes_are_always_enough_to_tell(data: bytes, sizes: list[int]) -> None:
    endless = b"\1" + (MAX_HELLO_BYTES - 1000).to_bytes(3) + bytes(MAX_HELLO_BYTES)
    for beginning in (data, reframe(endless, *sizes)):
        assert outcome_of(beginning.ljust(MAX_HELLO_BYTES, b"\x16")) is not None


def calls_to_read(hello_bytes: int) -> int:
    """Return how many calls it takes to read a hello of one-byte records, one byte at a time."""
    fields = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0"
    padding = bytes(hello_bytes - len(fields) - 6)
    block = b"\0\x15" + len(padding).to_bytes(2) + padding
    body = fields + len(block).to_bytes(2) + block
    raw = reframe(b"\1" + len(body).to_bytes(3) + body, 1)
    reader, calls = HelloReader(), 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        hellos = [reader.receive(raw[at : at + 1]) for at in range(len(raw))]
    finally:
        sys.setprofile(None)
    assert hellos[-1] == ClientHello(None, (), len(raw))
    return calls


def test_reading_in_the_smallest_pieces_takes_time_in_proportion() -> None:
    assert calls_to_read(2400) < 4.5 * calls_to_read(600)
