"""What one connection offers to serve, and what the relay has said to it. No I/O, no clock."""

from collections.abc import Callable, Iterable, Mapping
from enum import Enum, auto
from types import MappingProxyType

from tunnel.client.asking import Asking, Verdict
from tunnel.client.challenges import Challenge, Expected
from tunnel.errors import Code
from tunnel.protocol.backoff import DISPLACED_INTERVAL, Backoff, retry_delay
from tunnel.protocol.fields import Reason
from tunnel.protocol.messages import RETRY_AFTER_LIMIT, Serve, Serving

PUT_OFF_BRIEFLY = 30.0  # seconds: for so short a time the relay waits for another instance of ours
PUT_OFF_UNTOLD = 60  # times in a row: five minutes of those that a relay puts a takeover off for

NONE_REFUSED: Mapping[str, Reason] = MappingProxyType({})


def none_expected(_name: str) -> Challenge | None:
    """Expect no validation of any name."""
    return None


class Phase(Enum):
    """How far the offers of a connection have come."""

    PLANNED = auto()
    OPEN = auto()
    WITHDRAWN = auto()


class Offers:
    """The names granted to one connection; each is asked for until the relay serves it.

    Validations are asked for besides, of the names of which they are `expected`. `refused` are
    the names that were not granted, at `now`. `serving` holds those whose visitors come here.
    Times are in seconds of the caller's clock.
    """

    __slots__ = (
        "_again",
        "_aged_at",
        "_asking",
        "_backoffs",
        "_names",
        "_phase",
        "_random",
        "_unanswered",
        "is_superseded",
        "serving",
    )

    def __init__(
        self,
        names: Iterable[str],
        random: Callable[[], float],
        *,
        expected: Expected = none_expected,
        refused: Mapping[str, Reason] = NONE_REFUSED,
        now: float = 0.0,
    ) -> None:
        self._names = tuple(names)
        self._random = random
        self._asking = Asking(expected)
        self._phase = Phase.PLANNED
        self._unanswered: set[str] = set()
        self._again: dict[str, float] = {}
        self._backoffs: dict[str, Backoff] = {}
        self.is_superseded = False  # a newer instance has taken over: it is for the session to wait
        self.serving: set[str] = set()
        pauses = [retry_delay(reason.code, None, 1, random) for reason in refused.values()]
        # What a welcome has refused can only be asked for by another connection.
        self._aged_at = now + max(min(pauses), DISPLACED_INTERVAL) if pauses else None

    def __repr__(self) -> str:
        return f"<Offers {len(self.serving)} of {len(self._names)} names served>"

    @property
    def is_complete(self) -> bool:
        """Whether every offer was answered, one of them at least with yes."""
        return bool(self.serving) and not self._unanswered

    def open(self) -> list[Serve]:
        """Return the first offers."""
        self._phase = Phase.OPEN
        return [self._offer(name) for name in self._names]

    def next_timeout(self) -> float | None:
        """Return when `take_due` or `take_aged` has something, None while nothing is planned."""
        aged = () if self._aged_at is None else (self._aged_at,)
        return min((*self._again.values(), *aged), default=None)

    def take_aged(self, now: float) -> bool:
        """Say, once, that a new connection should ask for the names that were refused here."""
        is_aged = self._aged_at is not None and self._aged_at <= now
        if is_aged:
            self._aged_at = None
        return is_aged

    def take_due(self, now: float) -> list[Serve]:
        """Return the offers to make now: after refusals, and where a validation came or went."""
        due = {name for name, at in self._again.items() if at <= now}
        for name in due:
            del self._again[name]
        return [self._offer(name) for name in self._names if name in due or self._has_news(name)]

    def _has_news(self, name: str) -> bool:
        is_offered = name in self.serving or name in self._unanswered
        return self._phase is Phase.OPEN and is_offered and self._asking.is_outdated(name)

    def takes_part(self, name: str) -> bool:
        """Say whether validations of the name may come here: the relay has not refused the name."""
        if self._phase is not Phase.OPEN:
            return self._phase is Phase.PLANNED and name in self._names
        return name in self.serving or name in self._unanswered

    def verdict(self, name: str) -> Verdict | None:
        """Return what the relay has said to the validation of the name that is expected now."""
        return self._asking.verdict(name)

    def withdraw(self) -> list[Serve]:
        """Return what takes every offer back; nothing is offered again."""
        self._phase = Phase.WITHDRAWN
        self._aged_at = None
        self._again.clear()
        offered = self.serving | self._unanswered
        return [Serve(name, visitors=False, challenge=False) for name in sorted(offered)]

    def answered(self, answer: Serving, now: float) -> Reason | None:
        """Note what the relay does for a name, asked or unasked; return why if it refuses.

        To be put off for a moment is no refusal, unless it goes on for longer than a takeover may.
        """
        if answer.name not in self._names:
            return None
        self._unanswered.discard(answer.name)
        refused_challenge = self._asking.answered(answer)
        if answer.visitors:
            self.serving.add(answer.name)
            self._backoffs.pop(answer.name, None)
            return None
        self.serving.discard(answer.name)
        if self._phase is Phase.WITHDRAWN or answer.reason is None:
            return None
        if answer.reason.code is Code.SUPERSEDED:
            self.is_superseded = True
        elif answer.reason.code is Code.BUSY and refused_challenge is not None:
            # It may be the validation alone that the relay has no room for.
            self._unanswered.add(answer.name)
            self._again[answer.name] = now
            return None
        else:
            backoff = self._backoffs.setdefault(answer.name, Backoff(self._random))
            pause = answer.retry_after
            if pause is not None:  # more is for validations: no visitor waits for those
                pause = min(pause, RETRY_AFTER_LIMIT)
            delay = backoff.next_delay(answer.reason.code, retry_after=pause)
            self._again[answer.name] = now + delay
            if _is_brief(answer) and backoff.failures <= PUT_OFF_UNTOLD:
                return None
        return answer.reason

    def _offer(self, name: str) -> Serve:
        if name not in self.serving:
            self._unanswered.add(name)
        return self._asking.offer(name)


def _is_brief(answer: Serving) -> bool:
    """Say whether a relay only asks for a moment's patience."""
    is_busy = answer.reason is not None and answer.reason.code is Code.BUSY
    return is_busy and answer.retry_after is not None and answer.retry_after <= PUT_OFF_BRIEFLY
