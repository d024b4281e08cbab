"""The look at each frame's header before anything is buffered, and the limits on floods.

Sans-I/O. h2 has neither: it buffers a frame of 16 MiB before it judges its length, and answers
any number of PINGs (CVE-2019-9512 and its kin, CVE-2023-44487).
"""

from tunnel.errors import RemoteProtocolError
from tunnel.transport.options import STREAMS_ADVERTISED

HEADER_BYTES = 9  # RFC 9113 §4.1
PREFACE_BYTES = 24  # RFC 9113 §3.4; what it says is for h2 to judge
DATA, RST_STREAM, SETTINGS, PING = 0, 3, 4, 6
KNOWN_KINDS = frozenset({0, 1, 3, 4, 5, 6, 7, 8, 9})  # without PRIORITY and extensions
END_STREAM = 1

MAX_PER_SECOND = {RST_STREAM: 100, SETTINGS: 50, PING: 100}
MAX_USELESS_PER_SECOND = 100
USELESS = -1  # DATA without bytes or end, and frames this protocol has no use for
PERIOD = 1.0  # seconds
EXCUSED_MAX = 2 * STREAMS_ADVERTISED  # a full house that leaves, while another one is coming


class FrameMeter:
    """Follows the frames of one direction of one connection through arbitrary pieces of bytes."""

    __slots__ = ("_counts", "_max_bytes", "_partial", "_resets", "_since", "_skip")

    def __init__(self, max_bytes: int, *, has_preface: bool) -> None:
        self._max_bytes = max_bytes
        self._skip = PREFACE_BYTES if has_preface else 0  # bytes until the next header
        self._partial = b""
        self._since = float("-inf")
        self._counts: dict[int, int] = {}
        self._resets = 0  # of RST_STREAM frames in this period; below 0: excused in advance

    def inspect(self, data: bytes | memoryview, now: float) -> None:
        """Look at all frames that begin in `data`; raises RemoteProtocolError if one must not."""
        if now - self._since >= PERIOD:
            self._since = now
            self._counts.clear()
            self._resets = min(self._resets, 0)
        position, end = self._skip, len(data)
        while position < end:
            missing = HEADER_BYTES - len(self._partial)
            header = self._partial + bytes(data[position : position + missing])
            position += missing
            if len(header) < HEADER_BYTES:
                self._partial = header
                position = end
                break
            self._partial = b""
            position += self._measure(header)
        self._skip = position - end

    def excuse_reset(self) -> None:
        """Do not count one RST_STREAM, come or still to come: a stream has begun.

        It may come long after, and for a stream that has ended here: the peer cut it before it
        had heard of that. A thousand visitors that leave at once are no flood, and no visitor may
        bring a connection down.
        """
        self._resets = max(self._resets - 1, -EXCUSED_MAX)

    def check_resets(self) -> None:
        """Raise RemoteProtocolError if too many RST_STREAMs were not excused."""
        if self._resets > MAX_PER_SECOND[RST_STREAM]:
            raise RemoteProtocolError("flood of RST_STREAM frames")

    def _measure(self, header: bytes) -> int:
        size, kind = int.from_bytes(header[:3]), header[3]
        if size > self._max_bytes:
            raise RemoteProtocolError(f"frame of {size} bytes, {self._max_bytes} are allowed")
        if kind not in KNOWN_KINDS or (kind == DATA and not size and not header[4] & END_STREAM):
            self._count(USELESS, MAX_USELESS_PER_SECOND)
        elif kind in {SETTINGS, PING}:
            self._count(kind, MAX_PER_SECOND[kind])
        elif kind == RST_STREAM:
            self._resets += 1
        return size

    def _count(self, kind: int, most: int) -> None:
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if self._counts[kind] > most:
            raise RemoteProtocolError(f"flood of {FLOOD_NAMES[kind]} frames")


FLOOD_NAMES = {SETTINGS: "SETTINGS", PING: "PING", USELESS: "empty"}
