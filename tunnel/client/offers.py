"""What one connection offers to serve, and what the relay has said to it. No I/O, no clock."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from tunnel.errors import Code
from tunnel.protocol.backoff import DISPLACED_INTERVAL, Backoff, retry_delay
from tunnel.protocol.fields import Reason
from tunnel.protocol.messages import Serve, Serving

NONE_REFUSED: Mapping[str, Reason] = MappingProxyType({})


class Offers:
    """The names granted to one connection; each is asked for until the relay serves it.

    `refused` are those that were not granted, at `now`. `serving` holds those whose visitors come
    here. Times are in seconds of the caller's clock.
    """

    __slots__ = (
        "_again",
        "_aged_at",
        "_backoffs",
        "_is_withdrawn",
        "_names",
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
        refused: Mapping[str, Reason] = NONE_REFUSED,
        now: float = 0.0,
    ) -> None:
        self._names = tuple(names)
        self._random = random
        self._unanswered: set[str] = set()
        self._again: dict[str, float] = {}
        self._backoffs: dict[str, Backoff] = {}
        self._is_withdrawn = False
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
        """Return the offers to repeat now, after refusals."""
        due = [name for name, at in self._again.items() if at <= now]
        for name in due:
            del self._again[name]
        return [self._offer(name) for name in due]

    def withdraw(self) -> list[Serve]:
        """Return what takes every offer back; nothing is offered again."""
        self._is_withdrawn = True
        self._aged_at = None
        self._again.clear()
        offered = self.serving | self._unanswered
        return [Serve(name, visitors=False, challenge=False) for name in sorted(offered)]

    def answered(self, answer: Serving, now: float) -> Reason | None:
        """Note what the relay does for a name, asked or unasked; return why if it refuses."""
        if answer.name not in self._names:
            return None
        self._unanswered.discard(answer.name)
        if answer.visitors:
            self.serving.add(answer.name)
            self._backoffs.pop(answer.name, None)
            return None
        self.serving.discard(answer.name)
        if self._is_withdrawn or answer.reason is None:
            return None
        if answer.reason.code is Code.SUPERSEDED:
            self.is_superseded = True
        else:
            backoff = self._backoffs.setdefault(answer.name, Backoff(self._random))
            delay = backoff.next_delay(answer.reason.code, retry_after=answer.retry_after)
            self._again[answer.name] = now + delay
        return answer.reason

    def _offer(self, name: str) -> Serve:
        self._unanswered.add(name)
        return Serve(name, visitors=True, challenge=False)
