"""Which transport carries a session: the one module that knows what the transports are called.

`Course` decides and never waits: it is told what happened and when, and says what to dial, and
which connections are no longer wanted. Nothing here knows a socket, a task or a message.

QUIC goes first; HTTP/2 follows when QUIC has not registered within its head start, and whichever
registers first serves. If that is HTTP/2, QUIC runs on as the first probe, and once a probe serves
the pool is given up. A missed heartbeat on one starts the other at once (docs/protocol.md §4).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import NamedTuple

from tunnel.client.ending import Ending
from tunnel.protocol.backoff import FIRST_DELAY, HEALTHY_AFTER, Backoff, full_jitter

QUIC = "quic"
HTTP2 = "h2"
AUTO = "auto"

HEAD_START = 1.5  # seconds that QUIC has before HTTP/2 is dialled too
PROBE_INTERVAL_MAX = 900.0


class Lane(NamedTuple):
    """A place for one connection: the transport's word, and a number within its pool."""

    transport: str
    number: int = 0

    def __str__(self) -> str:
        return f"{self.transport}/{self.number}"


class Standing(Enum):
    """How far the connection of a lane has come; a lane without one is idle."""

    DIALLING = auto()
    UP = auto()
    SUSPECT = auto()  # up, but a heartbeat was missed


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings say of one server; the interval is in seconds."""

    mode: str = AUTO  # auto | quic | h2
    pool_size: int = 4
    probe_interval: float = 60.0


_FIRST = Lane(QUIC)


def resolves_name(lane: Lane, proxy: str | None) -> bool:
    """Say whether the relay's name is resolved here: a proxy resolves for itself what it dials."""
    return proxy is None or lane.transport == QUIC


def lanes_of(mode: str) -> tuple[Lane, ...]:
    """Return the first lane of each transport that a mode allows, the preferred one first."""
    return (Lane(QUIC), Lane(HTTP2)) if mode == AUTO else (Lane(mode),)


class Course:
    """The state of one session's connections.

    After each call take `take_surplus()` (connections to give up politely) and, at
    `next_timeout()`, `take_due(now)` (lanes to dial). A lane that was taken as surplus is
    forgotten: nothing more is to be reported of that connection.

    `transport` is the one in use, None while none is. `favourite` is the one that won last, None
    unless that says more than the defaults; it may be handed in as `remembered` by a later run.
    """

    def __init__(
        self, rules: Rules, random: Callable[[], float], *, remembered: str | None = None
    ) -> None:
        self._rules = rules
        self._random = random
        self._standing: dict[Lane, Standing] = {}
        self._since: dict[Lane, float] = {}
        self._due: dict[Lane, float] = {}
        self._surplus: list[Lane] = []
        self._backoffs: dict[Lane | None, Backoff] = {}  # None: of the race as a whole
        self._probe = _Probe(rules.probe_interval)
        self._down_since = self._up_since = 0.0
        self._has_registered = False
        self._obstacle = "UDP did not pass last time"  # why QUIC is not in use, once that is so
        self.transport: str | None = None
        self.favourite = remembered

    def __repr__(self) -> str:
        lanes = " ".join(f"{lane}={state.name}" for lane, state in self._standing.items())
        return f"<Course {self._rules.mode} on={self.transport} {lanes or 'idle'}>"

    @property
    def reason(self) -> str:
        """Why `transport` is the one in use, in words for an operator."""
        if self.transport is None:
            return "nothing is registered now" if self._has_registered else "nothing registered yet"
        if self._rules.mode != AUTO:
            return "set by the operator"
        if self.transport == QUIC:
            suspect = self._standing.get(_FIRST) is Standing.SUSPECT
            return "a heartbeat is missing" if suspect else "UDP passes"
        return self._obstacle

    def start(self, now: float) -> None:
        """Begin at `now` (seconds of a monotonic clock, like every time here)."""
        self._down_since = now
        self._race(now)

    def probe_every(self, interval: float, now: float) -> None:
        """Probe at another interval from now on; a probe that is planned comes no later by it."""
        if interval == self._probe.base:
            return
        self._probe = replace(self._probe, base=interval, started_at=now)
        if _FIRST in self._due and self.transport == HTTP2:
            self._due[_FIRST] = min(self._due[_FIRST], now + interval)

    @property
    def next_probe(self) -> float | None:
        """When QUIC is tried while HTTP/2 is in use, None where it is not, or is tried now."""
        return self._due.get(_FIRST) if self.transport == HTTP2 else None

    @property
    def next_race(self) -> float | None:
        """When the relay is dialled again while nothing is in use; None while something is."""
        return self.next_timeout() if self.transport is None else None

    def next_timeout(self) -> float | None:
        """Return when `take_due` will have something, None while nothing is planned."""
        return min(self._due.values(), default=None)

    def take_due(self, now: float) -> tuple[Lane, ...]:
        """Return the lanes to dial now; they count as being dialled from here on."""
        due = tuple(lane for lane, at in self._due.items() if at <= now)
        for lane in due:
            del self._due[lane]
            self._standing[lane] = Standing.DIALLING
            if lane == _FIRST:
                self._probe.started_at = now
        return due

    def take_surplus(self) -> tuple[Lane, ...]:
        """Return the lanes whose connections are to be given up, finishing what they carry."""
        surplus, self._surplus = tuple(self._surplus), []
        return surplus

    def registered(self, lane: Lane, now: float) -> None:
        """The relay has welcomed the connection of this lane."""
        self._standing[lane] = Standing.UP
        self._since[lane] = now
        self._has_registered = True
        if self.transport is None:
            self._up_since = now
            if lane.transport == HTTP2 and _FIRST in self._standing and self.favourite != HTTP2:
                self._obstacle = f"UDP does not pass: no answer within {HEAD_START:g} s"
            self._settle(lane.transport, now)
        elif lane.transport == HTTP2:
            self._dial_pool(now)

    def serving(self, lane: Lane, now: float) -> None:
        """The relay sends visitors to the connection of this lane."""
        if lane == _FIRST and self.transport == HTTP2:
            self._settle(QUIC, now)
            self._probe.has_migrated = True

    def suspect(self, lane: Lane, now: float) -> None:
        """A heartbeat was missed: the other transport is dialled at once."""
        self._standing[lane] = Standing.SUSPECT
        other = Lane(HTTP2) if lane == _FIRST else _FIRST
        if self._rules.mode == AUTO and other not in self._standing:
            self._due[other] = now

    def restored(self, lane: Lane) -> None:
        """The far end was heard again."""
        self._standing[lane] = Standing.UP
        if lane == _FIRST:
            self._drop(HTTP2)

    def ended(self, lane: Lane, now: float, ending: Ending) -> None:
        """The attempt or connection of this lane is over, or takes no new visitors any more."""
        self._standing.pop(lane, None)
        lasted = now - self._since.pop(lane, now)
        if lane == _FIRST:
            self._obstacle = f"{'UDP does not pass' if ending.code is None else 'QUIC'}: {ending}"
        if self.transport is None:
            self._run_failed(lane, now, ending)
        elif not self._is_up():
            self._count_outage(now)
            self._race(now + self._pause(None, now, ending, lasted), ending)
        elif lane != _FIRST:
            self._due[lane] = now + self._pause(lane, now, ending, lasted)
        elif self.transport == QUIC:
            held = self._probe.judge(lasted)
            self._settle(HTTP2, now)
            if held:
                self._due[_FIRST] = now  # the relay may only have been restarted
        else:
            self._due[lane] = max(now, self._probe.after_failure())

    def _count_outage(self, now: float) -> None:
        """Begin an outage, or go on with the last one if what has ended it did not hold.

        Else a relay that welcomes us and breaks off would be dialled without end at FIRST_DELAY.
        """
        lasted = now - self._up_since
        self._down_since = now if lasted >= HEALTHY_AFTER else self._down_since + lasted

    def _is_up(self) -> bool:
        return any(state is not Standing.DIALLING for state in self._standing.values())

    def _runners(self, at: float) -> dict[Lane, float]:
        """Return who runs in a race that begins at `at`, and when each starts."""
        if self._rules.mode == QUIC:
            return {_FIRST: at}
        if self._rules.mode == HTTP2:
            return {Lane(HTTP2): at}
        is_blocked = self.favourite == HTTP2  # where UDP did not pass last time, nobody waits
        return {_FIRST: at, Lane(HTTP2): at if is_blocked else at + HEAD_START}

    def _race(self, at: float, ending: Ending | None = None) -> None:
        """Let the transports run against each other from `at` on; what runs already goes on."""
        self.transport = None
        runners = self._runners(at)
        is_over = ending is not None and ending.is_policy
        for lane in [lane for lane in self._standing if is_over or lane not in runners]:
            self._give_up(lane)
        self._due = {lane: start for lane, start in runners.items() if lane not in self._standing}

    def _run_failed(self, lane: Lane, now: float, ending: Ending) -> None:
        """One runner is out: the race goes on with the other, if policy has not ended it."""
        others = [other for other in (*self._standing, *self._due) if other != lane]
        if ending.is_policy or not others:
            self._race(now + self._pause(None, now, ending, 0.0), ending)

    def _settle(self, transport: str, now: float) -> None:
        """Use `transport` from now on, and plan what goes with it."""
        self.transport = transport
        if self._rules.mode == AUTO:
            self.favourite = transport if transport == HTTP2 else None
        self._due.clear()
        if transport == QUIC:
            self._probe.has_migrated = self._probe.is_extra = False
            self._drop(HTTP2)
            return
        self._dial_pool(now)
        if _FIRST in self._standing:  # it may have lost by a hair
            self._probe.is_extra = True
        elif self._rules.mode == AUTO:
            self._due[_FIRST] = now + self._probe.interval

    def _dial_pool(self, now: float) -> None:
        for number in range(self._rules.pool_size):
            lane = Lane(HTTP2, number)
            if lane not in self._standing:
                self._due.setdefault(lane, now)

    def _drop(self, transport: str) -> None:
        for lane in [lane for lane in self._standing if lane.transport == transport]:
            self._give_up(lane)
        for lane in [lane for lane in self._due if lane.transport == transport]:
            del self._due[lane]

    def _give_up(self, lane: Lane) -> None:
        del self._standing[lane]
        self._since.pop(lane, None)
        self._surplus.append(lane)

    def _pause(self, lane: Lane | None, now: float, ending: Ending, lasted: float) -> float:
        """Return how long to wait before the lane, or the next race, is dialled."""
        backoff = self._backoffs.setdefault(lane, Backoff(self._random))
        delay = backoff.next_delay(ending.code, retry_after=ending.retry_after, healthy_for=lasted)
        if ending.is_policy:
            # A relay that asks us back at once, and refuses us again, is not asked in a loop.
            again = full_jitter(backoff.failures - 1, self._random) if backoff.failures > 1 else 0
            return max(delay, again)
        # After a short outage nobody waits longer than it lasted: refused attempts cost no time,
        # so that their number alone would count a relay's restart for a long failure.
        return min(delay, max(FIRST_DELAY, now - self._down_since))


@dataclass(slots=True)
class _Probe:
    """How often QUIC is tried while HTTP/2 carries the session; times in seconds."""

    base: float
    interval: float = 0.0
    started_at: float = 0.0
    is_extra: bool = False  # the next attempt, or the one under way, is out of turn
    has_migrated: bool = False  # what QUIC carries came from HTTP/2 by a probe

    def __post_init__(self) -> None:
        self.interval = self.base

    def after_failure(self) -> float:
        """Return when to try again; counted from start to start, an attempt takes seconds."""
        if self.is_extra:
            self.is_extra = False
        else:
            self._double()
        return self.started_at + self.interval

    def judge(self, lasted: float) -> bool:
        """QUIC was lost: return whether it had held what it promised, and is tried at once.

        That attempt is extra and doubles nothing. QUIC that never holds is tried less often.
        """
        if self.has_migrated and lasted < HEALTHY_AFTER:
            self._double()
            return False
        self.interval = self.base
        self.is_extra = True
        return True

    def _double(self) -> None:
        self.interval = max(self.base, min(2 * self.interval, PROBE_INTERVAL_MAX))
