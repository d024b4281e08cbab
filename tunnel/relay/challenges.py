"""Whose validations are under way: one session for each name, the one that asked first."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from tunnel.errors import Code, Refused
from tunnel.relay.sessions import LinkState, Session

PENDING_LIMIT = 3600.0  # seconds after which a validation no longer keeps others from theirs
PENDING_RETRY_INTERVAL = 30.0  # seconds after which a validation may well be over
TAKEOVER_LIMIT = 300.0  # seconds after which a validation no longer puts a takeover off
TAKEOVER_RETRY_INTERVAL = 5.0  # short: nobody but the old instance serves the name meanwhile


class OrderBudget(Protocol):
    """Says whether one more certificate may be ordered."""

    def order(self, name: str, *, renewal: bool) -> None:
        """Count an order; raises Refused(BUSY) with the seconds until there is a place."""


@dataclass(frozen=True, slots=True)
class _Pending:
    session: Session
    since: float


class Challenges:
    """The pending validations by name."""

    def __init__(self, budget: OrderBudget, clock: Callable[[], float]) -> None:
        self._budget = budget
        self._clock = clock
        self._pending: dict[str, _Pending] = {}

    def __repr__(self) -> str:
        return f"<Challenges of {len(self._pending)} names>"

    def holder(self, name: str) -> Session | None:
        """Return the session that the name's validations go to."""
        pending = self._pending.get(name)
        return pending.session if pending is not None else None

    def claim(self, session: Session, name: str, *, renewal: bool) -> Session | None:
        """Let validations go to the session; return one that was given up for it, if any.

        That is one that has been waiting for an hour. Raises Refused(BUSY) where another session
        is waiting, or where the budget has no place; asking again costs nothing.
        """
        pending = self._pending.get(name)
        if pending is not None and pending.session is session:
            return None
        if pending is not None and self._clock() - pending.since < PENDING_LIMIT:
            message = "another instance waits for a validation of this name"
            raise Refused(Code.BUSY, message, PENDING_RETRY_INTERVAL)
        self._budget.order(name, renewal=renewal)
        self._pending[name] = _Pending(session, self._clock())
        return pending.session if pending is not None else None

    def put_off(self, losers: Iterable[Session]) -> None:
        """Raise Refused(BUSY) if a takeover would end a validation that is under way.

        A takeover ends whatever its losers serve, so their validations of any name count: those
        of 5 minutes that can come, over a link that answers.
        """
        if any(self._is_under_way(loser) for loser in losers):
            message = "the instance that serves now waits for a validation"
            raise Refused(Code.BUSY, message, TAKEOVER_RETRY_INTERVAL)

    def _is_under_way(self, session: Session) -> bool:
        names = {
            name
            for link in session.links
            if link.state is LinkState.READY
            for name, kinds in link.serving.items()
            if kinds.challenge
        }
        latest = self._clock() - TAKEOVER_LIMIT
        return any(self._pending[name].since > latest for name in names)

    def release(self, session: Session, name: str) -> None:
        """Forget that the session waits, if it does."""
        if self.holder(name) is session:
            del self._pending[name]
