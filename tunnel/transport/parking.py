"""Who holds bytes that a slow reader has not fetched, and who is cut when it is too much.

Sans-I/O. A connection has one `ParkingLot`; all lots of a process share one `ParkingBudget`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class ParkedStream:
    """A stream's entry: its parked bytes, and how to cut it when it has stalled the longest."""

    cut: Callable[[], None]
    lot: "ParkingLot"
    size: int = 0


@dataclass(slots=True)
class ParkingBudget:
    """Everything parked in this process, at most `total` bytes."""

    total: int
    used: int = 0
    # Longest stalled first; kept by the lots.
    queue: dict[int, ParkedStream] = field(default_factory=dict, repr=False)


@dataclass(slots=True, eq=False)
class ParkingLot:
    """Everything parked on one connection, at most `limit` bytes."""

    limit: int
    budget: ParkingBudget
    used: int = 0
    # Longest stalled first.
    _queue: dict[int, ParkedStream] = field(default_factory=dict, repr=False)

    def enter(self, cut: Callable[[], None]) -> ParkedStream:
        """Return the entry of a new stream; `cut` must abort it and have `leave` called."""
        return ParkedStream(cut, self)

    def park(self, stream: ParkedStream, size: int) -> None:
        """Count `size` more bytes waiting for `stream`'s reader; may cut stalled streams."""
        if not stream.size:
            self._queue[id(stream)] = stream
            self.budget.queue[id(stream)] = stream
        self._count(stream, size)
        while self.used > self.limit and self._queue:
            self._cut(next(iter(self._queue.values())))
        while self.budget.used > self.budget.total and self.budget.queue:
            self._cut(next(iter(self.budget.queue.values())))

    def fetch(self, stream: ParkedStream, size: int) -> None:
        """Count `size` bytes that the reader took: the stream has stalled least long now."""
        self._forget(stream)
        self._count(stream, -size)
        if stream.size:
            self._queue[id(stream)] = stream
            self.budget.queue[id(stream)] = stream

    def leave(self, stream: ParkedStream) -> None:
        """Forget the stream and what it holds; a second call does nothing."""
        self._forget(stream)
        self._count(stream, -stream.size)
        stream.cut = _cut_already  # the way back to the stream: kept, it would need a collector

    def _count(self, stream: ParkedStream, size: int) -> None:
        stream.size += size
        self.used += size
        self.budget.used += size

    def _forget(self, stream: ParkedStream) -> None:
        self._queue.pop(id(stream), None)
        self.budget.queue.pop(id(stream), None)

    @staticmethod
    def _cut(stream: ParkedStream) -> None:
        cut = stream.cut
        stream.lot.leave(stream)
        cut()


def _cut_already() -> None:
    """Do nothing: the stream has left."""
