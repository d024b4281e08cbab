"""The look at each frame's header before anything is buffered, and the limits on floods.

Sans-I/O. h2 has neither: it buffers a frame of 16 MiB before it judges its length, and answers
any number of PINGs (CVE-2019-9512 and its kin, CVE-2023-44487).
"""

from tunnel.errors import RemoteProtocolError
from tunnel.transport.http2.frames import DATA, END_STREAM, PING, RST_STREAM, SETTINGS
from tunnel.transport.options import STREAMS_ADVERTISED

KNOWN_KINDS = frozenset({0, 1, 3, 4, 5, 6, 7, 8, 9})  # without PRIORITY and extensions

MAX_PER_SECOND = {SETTINGS: 50, PING: 100}
MAX_RESETS_PER_SECOND = 100
MAX_USELESS_PER_SECOND = 100
USELESS = -1  # DATA without bytes or end, and frames this protocol has no use for
PERIOD = 1.0  # seconds
EXCUSED_MAX = 2 * STREAMS_ADVERTISED  # a full house that leaves, while another one is coming


class FrameMeter:
    """Counts the frames of one direction of one connection."""

    __slots__ = ("_counts", "_max_bytes", "_resets", "_since")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._since = float("-inf")
        self._counts: dict[int, int] = {}
        self._resets = 0  # of RST_STREAM frames in this period; below 0: excused in advance

    def tick(self, now: float) -> None:
        """Begin another period if it is time."""
        if now - self._since >= PERIOD:
            self._since = now
            self._counts.clear()
            self._resets = min(self._resets, 0)

    def judge(self, size: int, kind: int, flags: int) -> None:
        """Count a frame by its header; raises RemoteProtocolError if it must not be."""
        if size > self._max_bytes:
            raise RemoteProtocolError(f"frame of {size} bytes, {self._max_bytes} are allowed")
        if kind not in KNOWN_KINDS or (kind == DATA and not size and not flags & END_STREAM):
            self._count(USELESS, MAX_USELESS_PER_SECOND)
        elif kind in MAX_PER_SECOND:
            self._count(kind, MAX_PER_SECOND[kind])
        elif kind == RST_STREAM:
            self._resets += 1

    def excuse_reset(self) -> None:
        """Do not count one RST_STREAM, come or still to come: a stream has begun.

        It may come long after, and for a stream that has ended here: the peer cut it before it
        had heard of that. A thousand visitors that leave at once are no flood, and no visitor may
        bring a connection down.
        """
        self._resets = max(self._resets - 1, -EXCUSED_MAX)

    def check_resets(self) -> None:
        """Raise RemoteProtocolError if too many RST_STREAMs were not excused."""
        if self._resets > MAX_RESETS_PER_SECOND:
            raise RemoteProtocolError("flood of RST_STREAM frames")

    def _count(self, kind: int, most: int) -> None:
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if self._counts[kind] > most:
            raise RemoteProtocolError(f"flood of {FLOOD_NAMES[kind]} frames")


FLOOD_NAMES = {SETTINGS: "SETTINGS", PING: "PING", USELESS: "empty"}
