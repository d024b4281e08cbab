"""The buffer that sockets are read into, one for all that one thread reads.

It belongs to whoever reads until it has copied the bytes, or handed them to the kernel: in one go,
without returning to the loop, and calling nothing meanwhile that may read a socket itself. Threads
have one each, as a read lets other threads run. It is anonymous memory: what is never filled is
never resident.
"""

import mmap
import threading

BUFFER_MAX_BYTES = 512 * 1024  # that can be asked for


class _Buffers(threading.local):
    """That of one thread: the same memory, by how much of it is shown."""

    def __init__(self) -> None:
        self.whole = memoryview(mmap.mmap(-1, BUFFER_MAX_BYTES))
        self.parts: dict[int, memoryview] = {}


_buffers = _Buffers()


def read_buffer(size: int) -> memoryview:
    """Return the first `size` bytes of this thread's buffer; they are for this thread only."""
    part = _buffers.parts.get(size)
    if part is None:
        part = _buffers.parts[size] = _buffers.whole[:size]
    return part
