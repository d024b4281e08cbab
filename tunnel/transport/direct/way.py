"""One direction between two sockets: short messages are copied, long ones spliced.

Copying costs the fewest system calls for a few bytes; splicing moves a bulk transfer through a pipe
without any of it entering Python. A read that fills the buffer is bulk; a wake-up that moves little
ends that. Nothing here waits: the owner calls `pump` when a socket has news.
"""

import os
import socket
from collections.abc import Callable

from tunnel.stream import TOLD_BYTES
from tunnel.transport.direct.pipes import Pipe, PipeShelf
from tunnel.transport.read_buffer import read_buffer

BUFFER_BYTES = 64 * 1024
SPLICE_LEAST_BYTES = 16 * 1024  # a wake-up that splices less goes back to copying
ROUNDS = 16  # reads in one turn, then the others have theirs
_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Way:
    """Bytes from `source` to `sink` in order, until `has_ended`.

    `rest` are bytes that come before all others. `is_blocked` while the sink takes nothing: its
    next event says so. `is_ending` while the source may have had its last event: it is then
    read until it says otherwise. `moved_at` is kept by whoever has it moved.
    """

    __slots__ = (
        "_buffer",
        "_moved",
        "_pipe",
        "_shelf",
        "has_ended",
        "is_blocked",
        "is_bulk",
        "is_ending",
        "moved_at",
        "passed",
        "rest",
        "sink",
        "source",
    )

    def __init__(self, source: socket.socket, sink: socket.socket, shelf: PipeShelf) -> None:
        self.source = source
        self.sink = sink
        self.rest = b""
        self.passed = 0  # bytes that the sink was given
        self.moved_at = 0.0
        self.is_blocked = False
        self.is_bulk = False
        self.is_ending = True
        self.has_ended = False  # and the sink was given all; it is the owner who says so to it
        self._shelf = shelf
        self._buffer = read_buffer(BUFFER_BYTES)  # what is in it never outlives the call
        self._pipe: Pipe | None = None
        self._moved = 0  # spliced since the last wake-up

    def __repr__(self) -> str:
        claims = (("bulk", self.is_bulk), ("blocked", self.is_blocked), ("end", self.has_ended))
        return f"<Way {self.passed} bytes {' '.join(word for word, claim in claims if claim)}>"

    @property
    def is_plain(self) -> bool:
        """Whether nothing but its next message is to be expected of it."""
        special = self.is_blocked or self.is_bulk or self.is_ending or self.has_ended or self.rest
        return not special

    def pump(self) -> bool:
        """Move what can be moved now; return whether there is more, for another turn.

        Raises OSError if either socket has failed.
        """
        self._moved, rounds = 0, ROUNDS
        while rounds and self._give() and self._take():
            rounds -= 1
        return not rounds

    def drop(self) -> None:
        """Give up what is in hand, once no more is to be moved."""
        self.rest = b""
        self._release()

    def _give(self) -> bool:
        """Give the sink what is in hand; return whether it takes more."""
        if self.rest and not self.is_blocked:
            rest, self.rest = self.rest, b""
            self._send(memoryview(rest))
        if self._pipe is not None and not self.is_blocked:
            self._drain(self._pipe)
        return not self.is_blocked

    def _take(self) -> bool:
        """Take more from the source; return whether there is something to give, or may be."""
        return self._splice() if self.is_bulk else self._copy()

    def _send(self, octets: memoryview) -> None:
        try:
            sent = self.sink.send(octets)
        except BlockingIOError:
            sent = 0
        self.passed += sent
        if sent < len(octets):
            self.rest = bytes(octets[sent:])
            self.is_blocked = True

    def _drain(self, pipe: Pipe) -> None:
        """Empty the pipe: only then can a read that would block mean that nothing has come."""
        sink = self.sink.fileno()
        try:
            while pipe.held:
                size = os.splice(pipe.reader, sink, pipe.held, flags=_FLAGS)
                pipe.held -= size
                self.passed += size
        except BlockingIOError:
            self.is_blocked = True

    def _copy(self) -> bool:
        """Copy what the source has, up to a buffer; return whether there may be more."""
        try:
            size = self.source.recv_into(self._buffer)
        except BlockingIOError:
            self.is_ending = False
            return False
        if not size:
            self.has_ended = True
            return False
        self.is_bulk = size == BUFFER_BYTES
        try:
            sent = self.sink.send(self._buffer[:size])
        except BlockingIOError:
            sent = 0
        self.passed += sent
        if sent != size:
            self.rest = bytes(self._buffer[sent:size])
            self.is_blocked = True
        # A short read has emptied the source, and what comes later is an event of its own.
        return not self.is_blocked and (self.is_bulk or self.is_ending)

    def _splice(self) -> bool:
        """Fill the pipe from the source; return whether it holds anything now."""
        pipe = self._pipe or self._shelf.take()
        if pipe is None:
            self.is_bulk = False
            return True
        self._pipe = pipe
        try:
            pipe.held = os.splice(self.source.fileno(), pipe.writer, pipe.capacity, flags=_FLAGS)
        except BlockingIOError:
            self.is_ending = False
            self.is_bulk = self._moved >= SPLICE_LEAST_BYTES
            self._release()
            return False
        if not pipe.held:
            self._release()
            self.has_ended = True
            return False
        self._moved += pipe.held
        return True

    def _release(self) -> None:
        if self._pipe is not None:
            self._shelf.put(self._pipe)
            self._pipe = None


def messenger(
    way: Way, now: Callable[[], float], stop: Callable[[], None], fail: Callable[[], None]
) -> Callable[[], None]:
    """Return what hands on the next message of a plain way: one frame of Python, and no more.

    What it cannot hand on is kept in the way. It calls `stop` when the way is not plain any more
    or its bytes are to be told, and `fail` when either socket has failed.
    """
    receive, send, buffer = way.source.recv_into, way.sink.send, read_buffer(BUFFER_BYTES)

    def hand_on() -> None:
        size = sent = 0
        try:
            size = receive(buffer)
            sent = send(buffer[:size])
        except BlockingIOError:
            pass
        except OSError:
            fail()
            return
        way.moved_at = now()
        way.passed += sent
        if 0 < sent == size < BUFFER_BYTES and way.passed < TOLD_BYTES:
            return
        way.rest = bytes(buffer[sent:size])
        way.is_blocked = sent < size
        way.is_bulk = size == BUFFER_BYTES
        way.is_ending = not size
        stop()

    return hand_on
