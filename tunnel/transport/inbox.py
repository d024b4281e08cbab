"""The receiving half of a stream: bytes that arrived and wait for their one reader."""

import asyncio
from collections import deque

from tunnel.errors import Code, StreamReset

CHUNK_MAX_BYTES = 256 * 1024  # what one `receive` returns at most (tunnel.stream.Stream)
SMALL_BYTES = 1024  # below it a chunk costs more to keep than it holds


class Inbox:
    """Bytes in order, then an end, or a cut at any time. Knows no bound: its owner has one."""

    __slots__ = ("_chunks", "_cut", "_waiter", "has_ended", "size")

    def __init__(self) -> None:
        self._chunks: deque[bytes | bytearray] = deque()
        self._cut: Code | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.has_ended = False
        self.size = 0

    @property
    def is_cut(self) -> bool:
        """Whether nothing will ever come out again."""
        return self._cut is not None

    def check(self) -> None:
        """Raise StreamReset after a cut."""
        if self._cut is not None:
            raise StreamReset(self._cut)

    @property
    def is_awaited(self) -> bool:
        """Whether the reader waits and has not been woken yet."""
        return self._waiter is not None and not self._waiter.done()

    def put(self, chunk: bytes) -> None:
        """Append bytes (not empty, at most CHUNK_MAX_BYTES).

        Small ones are gathered: a peer that sends byte by byte would otherwise take thirty times
        the memory that it is allowed.
        """
        self.size += len(chunk)
        if self._chunks and len(chunk) < SMALL_BYTES and len(self._chunks[-1]) < SMALL_BYTES:
            self._gather(chunk)
        else:
            self._chunks.append(chunk)
        self._wake()

    def end(self) -> None:
        """Nothing follows what was put."""
        self.has_ended = True
        self._wake()

    def cut(self, code: Code) -> None:
        """Drop what was put and let `get` raise; the first code stays."""
        if self._cut is None:
            self._cut = code
            self._chunks.clear()
            self.size = 0
            self._wake()

    async def get(self) -> bytes:
        """Return what is there, b"" at the end; cancel-safe. Raises StreamReset after a cut."""
        while not self._chunks:
            self.check()
            if self.has_ended:
                return b""
            await self._wait()
        return self._take()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _gather(self, chunk: bytes) -> None:
        last = self._chunks[-1]
        if isinstance(last, bytes):
            last = self._chunks[-1] = bytearray(last)
        last += chunk

    def _take(self) -> bytes:
        chunk = self._chunks.popleft()
        if self._chunks and len(chunk) + len(self._chunks[0]) <= CHUNK_MAX_BYTES:
            chunk = self._join(chunk)
        self.size -= len(chunk)
        return chunk if isinstance(chunk, bytes) else bytes(chunk)

    def _join(self, first: bytes | bytearray) -> bytes:
        parts, size = [first], len(first)
        while self._chunks and size + len(self._chunks[0]) <= CHUNK_MAX_BYTES:
            parts.append(self._chunks.popleft())
            size += len(parts[-1])
        return b"".join(parts)
