"""The queue of unsent bytes against one long string."""

from hypothesis import given
from hypothesis import strategies as st

from tunnel.transport.quic.fast.chunks import GATHER_BYTES, ChunkQueue


def queue_of(*chunks: bytes) -> ChunkQueue:
    queue = ChunkQueue()
    for chunk in chunks:
        queue.append(chunk)
    return queue


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=50), st.integers(1, 40)), max_size=60))
def test_bytes_come_out_as_they_went_in_however_they_are_cut(
    steps: list[bytes | int],
) -> None:
    queue, left = ChunkQueue(), b""
    for step in steps:
        if isinstance(step, bytes):
            queue.append(step)
            left += step
        else:
            size = min(step, queue.size)
            assert queue.take(size) == left[:size]
            left = left[size:]
        assert queue.size == len(left)
    assert queue.take(queue.size) == left


def test_a_large_piece_is_not_copied() -> None:
    chunk = bytes(100_000)
    queue = queue_of(chunk)
    assert queue.ahead(1310) == (chunk, 0)
    queue.skip(1310 * 16)
    assert queue.ahead(1310) == (chunk, 1310 * 16)
    assert queue.ahead(1310)[0] is chunk


def test_small_pieces_are_joined_when_a_packet_needs_more_than_one() -> None:
    queue = queue_of(*[bytes([number]) * 100 for number in range(50)])
    joined, position = queue.ahead(1310)
    assert (len(joined), position) == (5000, 0)


def test_pieces_are_joined_only_up_to_a_bound() -> None:
    queue = queue_of(b"x", *[bytes(16_384)] * 20)
    joined, _ = queue.ahead(1310)
    assert GATHER_BYTES <= len(joined) < GATHER_BYTES + 16_384 + 1


def test_a_cleared_queue_begins_anew() -> None:
    queue = queue_of(b"old" * 10)
    queue.skip(4)
    queue.clear()
    queue.append(b"new")
    assert (queue.size, queue.take(3)) == (3, b"new")
