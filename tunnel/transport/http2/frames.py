"""Frames as bytes (RFC 9113 §4.1): read off pieces of any size, and built where h2 is too slow.

Sans-I/O. What a frame means is not known here; how long one may be, `judge` says.
"""

from collections.abc import Callable, Iterator
from struct import Struct
from typing import NamedTuple

DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
END_STREAM, END_HEADERS, PADDED = 0x1, 0x4, 0x8

HEADER_BYTES = 9
PREFACE_BYTES = 24  # RFC 9113 §3.4; what it says is for h2 to judge
STREAM_ID_MASK = 0x7FFF_FFFF  # the highest bit is reserved, and ignored
_HEADER = Struct(">HBBBL")  # u24 length, type, flags, u32 stream
_WINDOW_UPDATE = Struct(">HBBBLL")  # the header, and the increment

Judge = Callable[[int, int, int], None]


def frame_header(size: int, kind: int, flags: int, stream_id: int) -> bytes:
    """Return the nine bytes before a payload of `size` bytes."""
    return _HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream_id)


def window_update(stream_id: int, increment: int) -> bytes:
    """Return the frame that grants so many bytes."""
    return _WINDOW_UPDATE.pack(0, 4, WINDOW_UPDATE, 0, stream_id, increment)


class Piece(NamedTuple):
    """The payload of a DATA frame without padding, or a part of it.

    `begins` is the size of the frame whose first piece this is, else -1.
    """

    stream_id: int
    flags: int
    payload: bytes
    begins: int
    ends: bool


class Whole(NamedTuple):
    """Any other frame, complete, with its header in front; the preface is of kind -1."""

    kind: int
    flags: int
    stream_id: int
    octets: bytes

    @property
    def payload(self) -> bytes:
        """What follows the header."""
        return self.octets[HEADER_BYTES:]


class FrameReader:
    """Follows the frames of one direction of one connection.

    `judge` is told size, kind and flags of each one as soon as its header is there, before any of
    its payload is kept, and raises if it must not be. A piece of DATA is copied once.
    """

    __slots__ = (
        "_flags",
        "_held",
        "_is_cut_up",
        "_judge",
        "_kind",
        "_left",
        "_size",
        "_stream_id",
    )

    def __init__(self, judge: Judge, *, has_preface: bool) -> None:
        self._judge = judge
        self._held = bytearray()  # the beginning of a header, or of a frame that is yielded whole
        self._is_cut_up = False
        self._kind = -1
        self._flags = self._stream_id = 0
        self._size = 0  # of the payload
        self._left = PREFACE_BYTES if has_preface else -1  # of it to come; -1: a header is next

    def read(self, data: memoryview) -> Iterator[Piece | Whole]:
        """Yield what is in `data`, which may change once all of it has been taken."""
        at, end = 0, len(data)
        while at < end or not self._left:
            if self._left < 0:
                at = self._read_header(data, at)
                continue
            stop = min(at + self._left, end)
            frame = self._read_payload(data[at:stop])
            at = stop
            if frame is not None:
                yield frame

    def _read_header(self, data: memoryview, at: int) -> int:
        """Take a header, or what there is of it; return where it ends."""
        stop = at + HEADER_BYTES - len(self._held)
        self._held += data[at:stop]
        if len(self._held) < HEADER_BYTES:
            return len(data)
        high, low, self._kind, self._flags, stream_id = _HEADER.unpack(self._held)
        self._stream_id = stream_id & STREAM_ID_MASK
        self._size = self._left = high << 8 | low
        self._judge(self._size, self._kind, self._flags)
        self._is_cut_up = self._kind == DATA and not self._flags & PADDED
        if self._is_cut_up:
            self._held.clear()
        return stop

    def _read_payload(self, part: memoryview) -> Piece | Whole | None:
        begins = self._size if self._left == self._size else -1
        self._left -= len(part)
        ends = not self._left
        if ends:
            self._left = -1
        if self._is_cut_up:
            return Piece(self._stream_id, self._flags, bytes(part), begins, ends)
        self._held += part
        if not ends:
            return None
        octets = bytes(self._held)
        self._held.clear()
        return Whole(self._kind, self._flags, self._stream_id, octets)
