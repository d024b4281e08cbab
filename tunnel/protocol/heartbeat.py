"""When to ping, and when silence means that the far end is gone (docs/protocol.md §4).

Pure: the time comes in as `now`, in seconds of a monotonic clock; nothing is sent from here.
"""

from collections.abc import Callable
from enum import Enum, auto

ANSWER_TIMEOUT = 3.0  # seconds in which something must be heard after a ping
LATENESS_LIMIT = 2.0  # above it our own process was held up, and silence proves nothing
JITTER = 0.2  # of the interval, both ways


class Pulse(Enum):
    """What is believed about the far end."""

    ALIVE = auto()
    ASKED = auto()  # a ping is out, its answer is not yet overdue
    SUSPECT = auto()  # one answer was missed, the second ping is out
    DEAD = auto()


class Action(Enum):
    """What the caller has to do."""

    PING = auto()
    SUSPECT = auto()  # take the connection out of rotation; a client dials the other transport
    RESTORE = auto()  # put it back
    CLOSE = auto()


class Heartbeat:
    """The judge of one connection.

    Call `handle_timeout` at `next_timeout()`, `heard` whenever bytes came from the peer. Where
    the transport only keeps the time of the last bytes, `heard(then)` just before
    `handle_timeout(now)` does as well.

    With an interval of 5 s a path that died is SUSPECT after at most 9 s and DEAD after 12 s.
    """

    __slots__ = ("_asked_at", "_due", "_interval", "_next_ping", "_random", "state")

    def __init__(self, interval: float, now: float, random: Callable[[], float]) -> None:
        self._interval = interval
        self._random = random
        self._asked_at = now
        self._next_ping = self._due = now + self._next_interval()
        self.state = Pulse.ALIVE

    def __repr__(self) -> str:
        return f"<Heartbeat {self.state.name} due={self._due:.3f}>"

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` is to be called, None once the far end is DEAD."""
        return None if self.state is Pulse.DEAD else self._due

    def heard(self, then: float) -> tuple[Action, ...]:
        """Note bytes from the peer that came at `then`; before the last ping they prove nothing."""
        if self.state in (Pulse.ALIVE, Pulse.DEAD) or then < self._asked_at:
            return ()
        was_suspect = self.state is Pulse.SUSPECT
        self.state = Pulse.ALIVE
        self._due = self._next_ping
        return (Action.RESTORE,) if was_suspect else ()

    def handle_timeout(self, now: float) -> tuple[Action, ...]:
        """Return what is to be done at `now`, in this order; nothing before `next_timeout()`."""
        if self.state is Pulse.DEAD or now < self._due:
            return ()
        if self.state is Pulse.ALIVE:
            self.state = Pulse.ASKED
            return self._ask(now)
        if now > self._due + LATENESS_LIMIT:
            return self._ask(now)  # suspended or overloaded ourselves: ask again before judging
        if self.state is Pulse.ASKED:
            self.state = Pulse.SUSPECT
            return (Action.SUSPECT, *self._ask(now))
        self.state = Pulse.DEAD
        return (Action.CLOSE,)

    def _ask(self, now: float) -> tuple[Action, ...]:
        self._asked_at = now
        self._due = now + ANSWER_TIMEOUT
        self._next_ping = now + self._next_interval()
        return (Action.PING,)

    def _next_interval(self) -> float:
        return self._interval * (1 - JITTER + 2 * JITTER * self._random())
