"""Noticing that a socket was reset while nobody reads it.

A loop watches no socket whose reading is paused: a visitor that left would keep its place for as
long as the far side does not read. All such sockets are looked at together now and then, which
costs nothing for each chunk of bytes.
"""

import asyncio
import select
from collections.abc import Callable
from weakref import WeakKeyDictionary

SWEEP_INTERVAL = 5.0  # seconds


class ResetWatch:
    """The sockets of one loop that are not read; calls back for each that was reset."""

    def __init__(self) -> None:
        self._lost: dict[int, Callable[[], None]] = {}  # by descriptor
        self._is_scheduled = False

    def add(self, descriptor: int, lost: Callable[[], None]) -> None:
        """Watch a socket; to be taken back before its descriptor is closed."""
        self._lost[descriptor] = lost
        self._schedule()

    def discard(self, descriptor: int) -> None:
        """Watch a socket no more."""
        self._lost.pop(descriptor, None)

    def sweep(self) -> None:
        """Look at all sockets now."""
        poll = select.poll()
        for descriptor in self._lost:
            poll.register(descriptor, 0)  # errors are reported without being asked for
        for descriptor, events in poll.poll(0):
            # POLLHUP alone means that both ends have finished: there may be bytes to read.
            if events & select.POLLERR and (lost := self._lost.pop(descriptor, None)):
                lost()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_later(SWEEP_INTERVAL, self._sweep_as_scheduled)

    def _sweep_as_scheduled(self) -> None:
        self._is_scheduled = False
        self.sweep()
        if self._lost:
            self._schedule()


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, ResetWatch] = WeakKeyDictionary()


def reset_watch() -> ResetWatch:
    """Return the watch of the running loop."""
    return _watches.setdefault(asyncio.get_running_loop(), ResetWatch())
