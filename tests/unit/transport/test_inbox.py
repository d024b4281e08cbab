"""What waits for its reader: in order, in pieces of any size, at the price of its bytes."""

import asyncio
import random
import tracemalloc

import pytest

from tunnel.errors import Code, StreamReset
from tunnel.transport.inbox import CHUNK_MAX_BYTES, Inbox


async def drained(inbox: Inbox) -> bytes:
    """Return all that is there, each piece being bytes of a size that is allowed."""
    parts = []
    while inbox.size:
        part = await inbox.get()
        assert type(part) is bytes
        assert 0 < len(part) <= CHUNK_MAX_BYTES
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("largest", [2, 1000, 2000, CHUNK_MAX_BYTES])
def test_bytes_come_out_as_they_went_in(largest: int) -> None:
    source = random.Random(largest)
    pieces = [source.randbytes(source.randint(1, largest)) for _ in range(300)]

    async def body() -> None:
        inbox = Inbox()
        out = b""
        for number, piece in enumerate(pieces):
            inbox.put(piece)
            if number % 50 == 0:
                out += await inbox.get()
        assert out + await drained(inbox) == b"".join(pieces)
        assert inbox.size == 0

    asyncio.run(body())


def test_bytes_that_come_two_by_two_take_little_more_memory_than_they_are() -> None:
    async def body() -> None:
        inbox = Inbox()
        tracemalloc.start()
        for number in range(100_000):
            inbox.put(number.to_bytes(3)[1:])
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert inbox.size == 200_000
        assert used < 2 * inbox.size

    asyncio.run(body())


def test_a_piece_that_was_put_is_never_changed_by_a_later_one() -> None:
    async def body() -> None:
        inbox = Inbox()
        first = b"first"
        inbox.put(first)
        inbox.put(b"second")
        assert await inbox.get() == b"firstsecond"
        assert first == b"first"

    asyncio.run(body())


def test_a_cut_drops_what_waits() -> None:
    async def body() -> None:
        inbox = Inbox()
        inbox.put(b"lost")
        inbox.cut(Code.BUSY)
        inbox.cut(Code.ABORTED)
        with pytest.raises(StreamReset, match="busy"):
            await inbox.get()
        assert inbox.size == 0

    asyncio.run(body())
