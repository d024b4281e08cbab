"""The room that sockets are read into, one for all that one thread reads.

It belongs to whoever reads until it has copied the bytes, or handed them to the kernel: in one go,
without returning to the loop, and calling nothing meanwhile that may read a socket itself. Threads
have one each, as a read lets other threads run. It is anonymous memory: what is never filled is
never resident.
"""

import mmap
import threading

ROOM_BYTES = 512 * 1024  # the most that can be asked for


class _Rooms(threading.local):
    """Those of one thread: the same memory, by how much of it is shown."""

    def __init__(self) -> None:
        self.whole = memoryview(mmap.mmap(-1, ROOM_BYTES))
        self.parts: dict[int, memoryview] = {}


_rooms = _Rooms()


def room(size: int) -> memoryview:
    """Return the first `size` bytes of this thread's room; they are for use in this thread only."""
    part = _rooms.parts.get(size)
    if part is None:
        part = _rooms.parts[size] = _rooms.whole[:size]
    return part
