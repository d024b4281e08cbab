"""Two sockets joined: bytes are moved both ways until both have ended, or either is cut."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from tunnel.errors import Code
from tunnel.stream import TOLD_BYTES, Tally
from tunnel.transport.direct.poller import ENDING, FAILED, READABLE, WRITABLE, Poller
from tunnel.transport.direct.way import Way, messenger
from tunnel.transport.tcp import reset

MESSAGES = 16  # after which a pair is taken to stay, and moved to where it is answered sooner


@dataclass(slots=True)
class Terms:
    """How long a pair may be still, in seconds, and where its bytes are counted.

    After one side has finished, `linger_timeout` holds for the other besides. `before_close` is
    called with the near socket while there still is something to be asked of it.
    """

    linger_timeout: float | None = None
    idle_timeout: float | None = None
    tally: Tally = field(default_factory=Tally)
    before_close: Callable[[socket.socket], None] | None = None


class Joint:
    """A pair; `settle` is called once, with OK after a clean end of both ways, else with the code.

    It owns both sockets from `start` on. A cut of either is a cut of both: it never looks like an
    end.
    """

    __slots__ = (
        "_messages",
        "_poller",
        "_settle",
        "_terms",
        "_timer",
        "_waits_since",
        "back",
        "far",
        "forth",
        "near",
    )

    def __init__(
        self,
        poller: Poller,
        near: socket.socket,
        far: socket.socket,
        terms: Terms,
        settle: Callable[[Code], None],
    ) -> None:
        self._poller = poller
        self._terms = terms
        self._settle: Callable[[Code], None] | None = settle
        self._timer: asyncio.TimerHandle | None = None
        self._messages = 0
        self.near = near
        self.far = far
        self.forth = Way(near, far, poller.pipes)
        self.back = Way(far, near, poller.pipes)
        self._waits_since = 0.0

    def __repr__(self) -> str:
        state = "joined" if self._settle is not None else "over"
        return f"<Joint {state} forth={self.forth!r} back={self.back!r}>"

    @property
    def is_over(self) -> bool:
        """Whether it has been settled."""
        return self._settle is None

    def start(self) -> None:
        """Take the sockets over and move what they have already.

        If the way forth was said not to be `is_ending`, the near side has nothing to be read now.
        """
        self._watch()
        self._wait_at_most(self._terms.idle_timeout)
        self._pump(self.back)
        if self.forth.is_ending or self.forth.rest:
            self._pump(self.forth)

    def cut(self, code: Code = Code.ABORTED) -> None:
        """Reset both; after the end it does nothing."""
        if self._settle is None:
            return
        for sock in (self.near, self.far):
            reset(sock)
        self._end(code)

    def cut_unfinished(self, code: Code) -> None:
        """Reset both unless all there is left is to bring the near side its last bytes."""
        if not (self.forth.has_ended and self.back.is_ending):
            self.cut(code)

    # -- events

    def _watch(self) -> None:
        self._messages = 0
        self._poller.watch(self.near, partial(self._wake, self.forth, self.back))
        self._poller.watch(self.far, partial(self._wake, self.back, self.forth))

    def _wake(self, outward: Way, inward: Way, events: int) -> None:
        """One socket has news: `outward` begins at it, `inward` ends there."""
        if events & WRITABLE and inward.is_blocked:
            inward.is_blocked = False
            self._pump(inward)
        if events & READABLE:
            if events & ENDING:
                outward.is_ending = True
            self._pump(outward)
            self._messages += 1
            if self._messages == MESSAGES:
                self._move_to_loop()
        if events & FAILED:
            self.cut()

    def _move_to_loop(self) -> None:
        """Let the loop read both sockets from now on, unless there is more to it than messages."""
        self._messages = 0
        if self._settle is not None and self.forth.is_plain and self.back.is_plain:
            now = self._poller.loop.time
            for way in (self.forth, self.back):
                stop = partial(self._note_stop, way)
                read = messenger(way, now, stop, self.cut)
                self._poller.move(way.source, read, self._wake_failed)

    def _note_stop(self, way: Way) -> None:
        """Tell what has passed if it is enough; watch both again after more than a message."""
        if way.passed >= TOLD_BYTES:
            self._tell()
        if not way.is_plain:
            self._watch()

    def _wake_failed(self, _events: int) -> None:
        """A socket has failed or hung up while the loop read it."""
        self._watch()

    def _pump(self, way: Way) -> None:
        if self._settle is None or way.has_ended:
            return
        try:
            has_more = way.pump()
            if way.has_ended:
                self._finish(way)
        except OSError:
            self.cut()
            return
        way.moved_at = self._poller.now
        if way.passed >= TOLD_BYTES:
            self._tell()
        if has_more:
            self._messages = 0  # the pair is not moved to the loop with its next turn still due
            self._poller.revisit(partial(self._pump, way))

    # -- what follows

    def _finish(self, way: Way) -> None:
        """One way has ended: say so to its sink, or close both if that was the last one."""
        if self.forth.has_ended and self.back.has_ended:
            self._end(Code.OK)
        else:
            way.sink.shutdown(socket.SHUT_WR)
            self._wait_at_most(self._terms.linger_timeout)

    def _tell(self) -> None:
        tally, forth, back = self._terms.tally, self.forth, self.back
        tally.count_forth(forth.passed)
        tally.count_back(back.passed)
        forth.passed = back.passed = 0

    def _end(self, code: Code) -> None:
        if self._settle is None:
            return
        settle, self._settle = self._settle, None
        if self._timer is not None:
            self._timer.cancel()
        self._tell()
        for way in (self.forth, self.back):
            way.drop()
        if self._terms.before_close is not None:
            self._terms.before_close(self.near)
        for sock in (self.near, self.far):
            self._poller.close(sock)
        settle(code)

    # -- stillness

    def _wait_at_most(self, timeout: float | None) -> None:
        """Cut the pair once nothing has moved for so long; a shorter time-out takes over."""
        if timeout is None:
            return
        loop = self._poller.loop
        self._waits_since = loop.time()
        due = self._waits_since + timeout
        if self._timer is None or due < self._timer.when():
            self._arm(due, timeout)

    def _arm(self, due: float, timeout: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._poller.loop.call_at(due, self._check, timeout)

    def _check(self, timeout: float) -> None:
        due = max(self._waits_since, self.forth.moved_at, self.back.moved_at) + timeout
        if self._poller.loop.time() < due:
            self._arm(due, timeout)
        else:
            self.cut(Code.TIMEOUT)
