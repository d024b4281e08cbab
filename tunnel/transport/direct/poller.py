"""One edge-triggered epoll for all direct sockets of a loop, and itself one reader of that loop.

The loop is woken once for a whole batch of events, which costs a third less for a new visitor than
a reader per socket. For each message after that, a reader costs less: sockets of those who stay are
moved there.
"""

import asyncio
import select
import socket
from collections.abc import Callable
from weakref import WeakKeyDictionary, ref

from tunnel.errors import LocalProtocolError
from tunnel.log import get_log
from tunnel.transport.direct.pipes import PipeShelf

log = get_log(__name__)

WRITABLE = select.EPOLLOUT
READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
ENDING = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR  # after which no event will come
FAILED = select.EPOLLERR
_WATCHED = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_FAILURES = select.EPOLLET  # alone: errors and hang-ups are always told (epoll_ctl(2))
_BATCH = 512  # events

Wake = Callable[[int], None]
"""Called with the events of a socket; it reads or writes until that would block."""


class Poller:
    """Watches sockets and calls whoever owns them; all in the loop's thread.

    Sockets are closed after a batch, never inside it: their numbers would be given to others of
    whom the batch knows nothing.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)  # who has a poller is kept by nothing of ours
        self.pipes = PipeShelf()
        self._epoll = select.epoll()
        self._wakes: dict[int, Wake] = {}  # by descriptor
        self._moved: set[int] = set()  # descriptors that are readers of the loop
        self._due: list[Callable[[], None]] = []
        self._leaving: list[socket.socket] = []
        self._is_in_turn = False
        self._is_reader = False
        self.now = 0.0  # loop time at which the last turn began

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, at less than what asking for the running one costs."""
        loop = self._loop()
        if loop is None:
            raise LocalProtocolError("the loop of these sockets is gone")
        return loop

    def __repr__(self) -> str:
        return f"<Poller {len(self._wakes)} sockets, {len(self._moved)} of them read by the loop>"

    def watch(self, sock: socket.socket, wake: Wake) -> bool:
        """Call `wake` with every change of a non-blocking socket, the first time very soon.

        Returns True for one that is watched already: it has another owner from now on, who has to
        find out for itself what has changed before.
        """
        descriptor = sock.fileno()
        if descriptor in self._wakes:
            self._wakes[descriptor] = wake
            is_moved = self._take_back(descriptor)
            if is_moved:
                self._epoll.modify(descriptor, _WATCHED)
            return not is_moved
        if not self._is_reader:
            self.loop.add_reader(self._epoll.fileno(), self._turn)
            self._is_reader = True
        self._epoll.register(descriptor, _WATCHED)
        self._wakes[descriptor] = wake
        return False

    def move(self, sock: socket.socket, read: Callable[[], None], wake: Wake) -> None:
        """Have the loop itself call `read` for as long as a watched socket has bytes or an end.

        One epoll less is between the two, for two system calls now and two when `watch` undoes it.
        `wake` is called when the socket has failed: uvloop calls a reader once then, which may be
        too early to find out, and never again.
        """
        descriptor = sock.fileno()
        self._epoll.modify(descriptor, _FAILURES)
        self._wakes[descriptor] = wake
        self.loop.add_reader(descriptor, read)
        self._moved.add(descriptor)

    def forget(self, sock: socket.socket) -> None:
        """Watch a socket no more, which stays open."""
        self._take_back(sock.fileno())
        if self._wakes.pop(sock.fileno(), None) is not None:
            self._epoll.unregister(sock)
        self._rest()

    def close(self, sock: socket.socket) -> None:
        """Close a socket as soon as that is safe, and watch it no more."""
        if sock.fileno() < 0:
            return
        self._take_back(sock.fileno())
        self._wakes.pop(sock.fileno(), None)
        if self._is_in_turn:
            self._leaving.append(sock)
        else:
            sock.close()
            self._rest()

    def revisit(self, work: Callable[[], None]) -> None:
        """Call `work` in the next turn: others come first."""
        if not self._due and not self._is_in_turn:
            self.loop.call_soon(self._turn)
        self._due.append(work)

    def _turn(self) -> None:
        due, self._due = self._due, []
        self._is_in_turn = True
        self.now = self.loop.time()
        try:
            for work in due:
                work()
            for descriptor, events in self._epoll.poll(0, _BATCH):
                wake = self._wakes.get(descriptor)
                if wake is not None:  # else it was given up earlier in this batch
                    try:
                        wake(events)
                    except Exception as error:  # noqa: BLE001 - a bug; others have events too
                        log.error("socket failed", exception=error)
        finally:
            self._is_in_turn = False
            for sock in self._leaving:
                sock.close()
            self._leaving.clear()
            if self._due:
                self.loop.call_soon(self._turn)
            self._rest()

    def _take_back(self, descriptor: int) -> bool:
        """Have the loop read a socket no more; return whether it did."""
        if descriptor not in self._moved:
            return False
        self._moved.remove(descriptor)
        self.loop.remove_reader(descriptor)
        return True

    def _rest(self) -> None:
        """Leave nothing behind in the loop when there is nothing to watch."""
        if self._is_reader and not (self._wakes or self._due):
            self.loop.remove_reader(self._epoll.fileno())
            self._is_reader = False
            self.pipes.close()


_pollers: WeakKeyDictionary[asyncio.AbstractEventLoop, Poller] = WeakKeyDictionary()


def poller() -> Poller:
    """Return the poller of the running loop."""
    loop = asyncio.get_running_loop()
    found = _pollers.get(loop)
    if found is None:
        found = _pollers[loop] = Poller(loop)
    return found
