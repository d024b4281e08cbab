"""Pipes that bytes are spliced through: few, large, and each in use only while bytes move.

A user without privileges may hold about 64 MiB of pipes (pipe(7), pipe-user-pages-soft): above it
a pipe is small, or there is none, and its bytes are copied instead.
"""

import os
from fcntl import F_GETPIPE_SZ, F_SETPIPE_SZ, fcntl

PIPE_BYTES = 1 << 20  # 64 KiB would cost nearly twice the CPU per byte
SMALLEST_BYTES = 64 * 1024  # less moves nothing that copying would not move as cheaply
KEPT = 8  # idle pipes
PIPES_MAX = 64  # idle or in use: each takes two descriptors


class Pipe:
    """A pipe and how many bytes it holds."""

    __slots__ = ("capacity", "held", "reader", "writer")

    def __init__(self, reader: int, writer: int) -> None:
        self.reader = reader
        self.writer = writer
        self.capacity = _grown(writer)
        self.held = 0

    def __repr__(self) -> str:
        return f"<Pipe {self.held} of {self.capacity} bytes>"

    def close(self) -> None:
        """Give both descriptors back, and lose what is held."""
        os.close(self.reader)
        os.close(self.writer)


class PipeShelf:
    """Pipes for whoever moves bytes now."""

    def __init__(self, pipes_max: int = PIPES_MAX) -> None:
        self._idle: list[Pipe] = []
        self._room = pipes_max

    def __repr__(self) -> str:
        return f"<PipeShelf {len(self._idle)} idle>"

    def take(self) -> Pipe | None:
        """Return an empty pipe to be put back; None where none is to be had."""
        if self._idle:
            return self._idle.pop()
        pipe = self._opened() if self._room else None
        if pipe is not None:
            self._room -= 1
        return pipe

    def put(self, pipe: Pipe) -> None:
        """Take a pipe back; one that still holds bytes is never used again."""
        if pipe.held or len(self._idle) >= KEPT:
            self._room += 1
            pipe.close()
        else:
            self._idle.append(pipe)

    def close(self) -> None:
        """Close the idle ones; those in use are closed when they are put back."""
        while self._idle:
            self._idle.pop().close()
            self._room += 1

    def _opened(self) -> Pipe | None:
        try:
            pipe = Pipe(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:  # no descriptor left, or no pipe for this user
            return None
        if pipe.capacity < SMALLEST_BYTES:
            pipe.close()
            return None
        return pipe


def _grown(descriptor: int) -> int:
    """Make the pipe as large as it may be and return its size in bytes."""
    try:
        return fcntl(descriptor, F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:  # above this user's quota: it stays as it is
        return fcntl(descriptor, F_GETPIPE_SZ)
