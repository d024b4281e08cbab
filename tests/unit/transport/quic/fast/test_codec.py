"""Frames that we write and read ourselves, byte by byte against aioquic's own."""

import pytest
from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # not in its __all__
from aioquic.quic.packet import pull_ack_frame, push_ack_frame
from aioquic.quic.rangeset import RangeSet
from hypothesis import given
from hypothesis import strategies as st

from tunnel.transport.quic.fast import codec

NUMBERS = st.integers(0, (1 << 62) - 1)


@st.composite
def range_sets(draw: st.DrawFn) -> list[range]:
    """Draw what an ACK frame may tell of: ascending, with gaps between."""
    edge, ranges = draw(st.integers(0, 1 << 20)), []
    for length, gap in draw(
        st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=40)
    ):
        ranges.append(range(edge, edge + length))
        edge += length + gap
    return ranges


@given(NUMBERS)
def test_varints_are_those_of_aioquic(value: int) -> None:
    buf = Buffer(capacity=8)
    buf.push_uint_var(value)
    assert codec.push_varint(value) == buf.data
    assert codec.pull_varint(b"?" + buf.data + b"?", 1) == (value, 1 + len(buf.data))


@given(NUMBERS, st.data())
def test_a_varint_cut_short_is_told(value: int, data: st.DataObject) -> None:
    whole = codec.push_varint(value)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(IndexError):
        codec.pull_varint(cut, 0)


@given(st.integers(1, 5), st.lists(st.tuples(st.binary(min_size=5, max_size=5), st.booleans())))
def test_pieces_are_alike_up_to_the_first_that_differs(
    size: int, pieces: list[tuple[bytes, bool]]
) -> None:
    one = b"".join(piece[:size] for piece, _ in pieces)
    other = b"".join(bytes((piece[0] ^ differs,)) + piece[1:size] for piece, differs in pieces)
    differing = [index for index, (_, differs) in enumerate(pieces) if differs]
    assert codec.alike(one, other, size) == min(differing, default=len(pieces))


@given(range_sets(), st.integers(0, 1 << 14))
def test_aioquic_reads_our_ack_frames(ranges: list[range], delay: int) -> None:
    buf = Buffer(data=codec.ack_frame(ranges, delay)[1:])
    told, encoded = pull_ack_frame(buf)
    assert (list(told), encoded) == (ranges[-codec.ACK_RANGES_MAX :], delay)
    assert buf.eof()


@given(range_sets(), st.integers(0, 1 << 14))
def test_we_read_aioquics_ack_frames(ranges: list[range], delay: int) -> None:
    buf = Buffer(capacity=4000)
    push_ack_frame(buf, RangeSet(ranges), delay, 4000)
    frame = b"\x02" + buf.data
    assert codec.pull_ack(frame + b"\x01", 0) == (ranges, delay, len(frame))


@given(st.binary(max_size=60))
def test_any_bytes_read_as_an_ack_frame_give_what_aioquic_gives_or_a_known_error(
    noise: bytes,
) -> None:
    try:
        expected = list(pull_ack_frame(Buffer(data=noise))[0])
    except ValueError:  # BufferReadError is one
        expected = None
    try:
        found = codec.pull_ack(b"\x02" + noise, 0)[0]
    except (IndexError, ValueError):
        found = None
    assert found == expected or (
        expected is not None and RangeSet(found or []) == RangeSet(expected)
    )


@given(st.integers(0, (1 << 30) - 1), NUMBERS, st.binary(max_size=200), st.booleans())
def test_stream_frames_are_what_their_bytes_say(
    stream_id: int, offset: int, data: bytes, fin: bool
) -> None:
    buf = Buffer(data=codec.sized_header(stream_id, offset, len(data), fin=fin) + data)
    assert buf.pull_uint_var() == 0x0E | fin
    assert [buf.pull_uint_var() for _ in range(3)] == [stream_id, offset, len(data)]
    assert buf.pull_bytes(len(data)) == data
    assert buf.eof()


@given(st.integers(0, (1 << 30) - 1), NUMBERS)
def test_the_header_of_bulk_is_a_stream_frame_to_the_end_of_the_packet(
    stream_id: int, offset: int
) -> None:
    header = codec.whole_headers(stream_id, offset, 1, 1)
    assert len(header) == codec.WHOLE_HEADER.size
    buf = Buffer(data=header)
    assert [buf.pull_uint_var() for _ in range(3)] == [0x0C, stream_id, offset]
