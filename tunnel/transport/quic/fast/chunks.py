"""Bytes that wait to be sent for the first time, in the pieces in which they were written."""

from collections import deque

GATHER_BYTES = 64 * 1024  # small pieces are joined up to about this, so that packets are full


class ChunkQueue:
    """A queue of bytes; nothing is copied as long as the pieces are large. Knows no bound."""

    __slots__ = ("_chunks", "_position", "size")

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._position = 0  # of the first byte that is left, in the first piece
        self.size = 0

    def append(self, chunk: bytes) -> None:
        """Add bytes (not empty) at the end."""
        self._chunks.append(chunk)
        self.size += len(chunk)

    def clear(self) -> None:
        """Drop everything."""
        self._chunks.clear()
        self._position = self.size = 0

    def ahead(self, size: int) -> tuple[bytes, int]:
        """Return a piece and the position in it where the queue begins.

        At least `size` bytes follow there; the queue has to hold as many.
        """
        if len(self._chunks[0]) - self._position < size:
            self._gather(size)
        return self._chunks[0], self._position

    def skip(self, size: int) -> None:
        """Drop bytes of the piece that `ahead` has returned."""
        self.size -= size
        self._position += size
        if self._position == len(self._chunks[0]):
            self._chunks.popleft()
            self._position = 0

    def take(self, size: int) -> bytes:
        """Return and drop bytes; the queue has to hold as many."""
        if not size:
            return b""
        chunk, position = self.ahead(size)
        self.skip(size)
        return chunk[position : position + size]

    def _gather(self, size: int) -> None:
        parts = [self._chunks.popleft()[self._position :]]
        gathered = len(parts[0])
        while self._chunks and gathered < max(size, GATHER_BYTES):
            parts.append(self._chunks.popleft())
            gathered += len(parts[-1])
        self._chunks.appendleft(b"".join(parts))
        self._position = 0
