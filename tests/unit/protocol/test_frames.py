from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.errors import LocalProtocolError, RemoteProtocolError
from tunnel.protocol.frames import (
    AUTHENTICATED_LIMIT,
    HEADER_LIMIT,
    UNAUTHENTICATED_LIMIT,
    FrameReader,
    frame,
)


def read_all(reader: FrameReader, chunks: Iterable[bytes]) -> list[bytes]:
    payloads = []
    for chunk in chunks:
        reader.feed(chunk)
        while (payload := reader.next_frame()) is not None:
            payloads.append(payload)
    return payloads


def test_a_frame_is_its_length_in_four_bytes_and_the_payload() -> None:
    assert frame(b"abc") == b"\x00\x00\x00\x03abc"


def test_a_frame_above_the_limit_is_our_own_fault() -> None:
    with pytest.raises(LocalProtocolError, match="frame of 17 bytes, at most 16"):
        frame(b"x" * 17, 16)


@given(st.lists(st.binary(max_size=40), max_size=6), st.data())
def test_frames_read_alike_however_the_bytes_are_cut(
    payloads: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(map(frame, payloads))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    edges = [0, *cuts, len(stream)]
    chunks = [stream[a:b] for a, b in pairwise(edges)]
    assert read_all(FrameReader(), chunks) == payloads


def test_a_frame_as_long_as_the_limit_is_read() -> None:
    payload = b"x" * UNAUTHENTICATED_LIMIT
    assert read_all(FrameReader(), [frame(payload)]) == [payload]


def test_a_frame_over_the_limit_is_refused_on_its_length_alone() -> None:
    reader = FrameReader()
    with pytest.raises(RemoteProtocolError, match="frame of 16385 bytes, at most 16384"):
        reader.feed((UNAUTHENTICATED_LIMIT + 1).to_bytes(4, "big"))


def test_nothing_of_a_refused_frame_is_kept() -> None:
    reader = FrameReader()
    with pytest.raises(RemoteProtocolError):
        reader.feed(b"\xff" * 1000)
    assert reader.held_bytes == 0


def test_an_oversized_frame_behind_a_good_one_is_refused_after_it() -> None:
    reader = FrameReader(8)
    reader.feed(frame(b"good") + b"\x00\x00\x00\x09")
    assert reader.next_frame() == b"good"
    with pytest.raises(RemoteProtocolError):
        reader.next_frame()


def test_a_raised_limit_holds_for_the_very_next_frame_of_the_same_chunk() -> None:
    reader = FrameReader()
    long = b"x" * AUTHENTICATED_LIMIT
    reader.feed(frame(b"welcome") + frame(long))
    assert reader.next_frame() == b"welcome"
    reader.limit = AUTHENTICATED_LIMIT
    assert reader.next_frame() == long


def test_raw_bytes_after_the_header_frame_are_handed_back_once() -> None:
    reader = FrameReader(HEADER_LIMIT)
    reader.feed(frame(b"header") + b"\xff\xff\xff\xffraw")
    assert reader.next_frame() == b"header"
    assert [reader.take_rest(), reader.take_rest()] == [b"\xff\xff\xff\xffraw", b""]


def test_a_cut_frame_shows_as_held_bytes() -> None:
    reader = FrameReader()
    assert read_all(reader, [frame(b"whole"), frame(b"cut")[:-1]]) == [b"whole"]
    assert reader.held_bytes == len(frame(b"cut")) - 1
