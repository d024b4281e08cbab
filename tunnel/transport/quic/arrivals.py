"""What one wake-up reads off a UDP socket: datagrams of one size in a row are one train.

The kernel joins 64 datagrams at most. What is done for each train costs as much as ten packets, so
that trains which continue each other are coupled; they are read one behind the other for that.
"""

from typing import Any

from tunnel.transport.quic.trains import Burst, Train
from tunnel.transport.read_buffer import read_buffer

READ_BYTES = 65_535  # the kernel joins up to 64 datagrams, no more than this
BATCH_BYTES = 8 * READ_BYTES  # for what is read before anything is copied


class Arrivals:
    """Takes what is read into `room`, one wake-up's worth."""

    __slots__ = ("_buffer", "_bursts", "_is_open", "_size", "_source", "_start", "_stop", "count")

    def __init__(self) -> None:
        self.count = 0  # datagrams
        self._buffer = read_buffer(BATCH_BYTES)
        self._bursts: list[Burst] = []
        self._start = self._stop = 0  # of the train that is being coupled
        self._size = 0  # of its datagrams
        self._source: Any = None
        self._is_open = False  # it ends with a whole datagram

    @property
    def has_room(self) -> bool:
        """Whether another read fits."""
        return self._stop + READ_BYTES <= BATCH_BYTES

    @property
    def room(self) -> memoryview:
        """Where the next read goes."""
        return self._buffer[self._stop :]

    def add(self, read_bytes: int, segment_bytes: int, source: Any) -> None:
        """Take datagrams of `segment_bytes` each, the last perhaps of fewer; of 0, one alone."""
        size = min(segment_bytes or read_bytes, read_bytes)
        self.count += -(-read_bytes // size) if size else 1
        if not size:
            return  # nothing was in it
        if not (self._continues(read_bytes, size) and source == self._source):
            self._finish_train()
            self._size, self._source = size, source
        self._stop += read_bytes
        self._is_open = read_bytes % self._size == 0

    def _continues(self, read_bytes: int, size: int) -> bool:
        return self._is_open and (size == self._size or read_bytes == size < self._size)

    def take(self) -> list[Burst]:
        """Return all, in their order."""
        self._finish_train()
        return self._bursts

    def _finish_train(self) -> None:
        start, self._start = self._start, self._stop
        if start == self._stop:
            return
        joined = bytes(self._buffer[start : self._stop])
        if len(joined) > self._size:
            self._bursts.append((Train(joined, self._size), self._source))
            return
        last, whose = self._bursts[-1] if self._bursts else ((), None)
        if isinstance(last, list) and whose == self._source:
            last.append(joined)
        else:
            self._bursts.append(([joined], self._source))
