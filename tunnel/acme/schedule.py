"""When a certificate is renewed, and when an order is tried again.

After 1, 2, 3 and more orders that failed in a row the next one waits `RETRY_DELAYS`; while there
is a certificate in force, no longer than a quarter of the life that it has left (and no less than
`URGENT_DELAY`), so that a short one does not expire though the CA is back. Neither counts against
a longer Retry-After, or against the limit of orders that fail in an hour. Every wait is up to a
tenth longer, by the draw of whoever waits: a fleet that failed together does not come back so.

Pure: moments are aware, in UTC, and passed in, as is randomness; nothing here reads or writes.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

RETRY_DELAYS = (60.0, 600.0, 6000.0, 86400.0)  # seconds, after 1, 2, 3, and 4 or more failures
URGENT_DELAY = 60.0  # seconds: the least between two orders, however short the life that is left
RETRY_JITTER = 1 / 10  # of a delay
POSTPONED_DELAYS = (60.0, 60.0, 600.0)  # seconds, after 1, 2, and 3 or more postponements
POSTPONED_MIN = 10.0  # seconds: a relay or a CA that says "retry after 0" is not asked in a loop
RETRY_AFTER_MAX = 7 * 86400.0  # seconds: the longest period of a rate limit that CAs have
CREDIBLE_WAIT = timedelta(days=8)  # what is further ahead was written while the clock was wrong

FAILURES_PER_HOUR = 5  # Let's Encrypt's own limit, per name and account
HOUR = timedelta(hours=1)

SHORT_LIFETIME = timedelta(days=10)  # below it, half of the life is left for retries, not a third
JITTER = 1 / 50  # of the lifetime
WINDOW_MARGIN = 1 / 10  # of the lifetime, kept free before the end whatever window a CA suggests

ERROR_LIMIT = 500  # characters kept of what a CA said
VERSION = 1  # of the JSON form
LEAF = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class RenewalWindow:
    """When the CA suggests to renew (RFC 9773 §4.1)."""

    start: datetime
    end: datetime


def renewal_time(
    not_before: datetime,
    not_after: datetime,
    *,
    renew_before: float | None,
    window: RenewalWindow | None,
    draw: float,
) -> datetime:
    """Return when to renew a certificate; what lies in the past is due at once.

    `renew_before` (seconds before the end, but never before half of the life) overrides all; next
    comes the CA's window, in which `draw` (0 ≤ draw < 1) picks the place; else a third of the life
    is left, half of a short one, and up to `JITTER` more, so that a fleet made together spreads.
    """
    lifetime = max(not_after - not_before, timedelta(0))
    if renew_before is not None:
        # A longer one would have each new certificate renewed at once, in a loop.
        return not_after - timedelta(seconds=min(renew_before, lifetime.total_seconds() / 2))
    if window is not None and window.start < window.end:  # RFC 9773 §4.2: others are no window
        picked = window.start + (window.end - window.start) * draw
        return min(picked, not_after - lifetime * WINDOW_MARGIN)
    left = lifetime / 2 if lifetime < SHORT_LIFETIME else lifetime / 3
    return not_after - left - lifetime * JITTER * draw


def retry_delay(failures: int, retry_after: float | None, left: float = 0.0) -> float:
    """Return the seconds to wait after that many failed orders in a row (at least one).

    `left` are the seconds for which a certificate is still in force, 0 or less if none is. Never
    less than `retry_after`, as far as that is credible.
    """
    delay = RETRY_DELAYS[min(failures, len(RETRY_DELAYS)) - 1]
    if left > 0:
        delay = min(delay, max(URGENT_DELAY, left / 4))
    return max(delay, min(retry_after or 0.0, RETRY_AFTER_MAX))


def _postponed_delay(postponements: int, retry_after: float | None) -> float:
    if retry_after is None:
        return POSTPONED_DELAYS[min(postponements, len(POSTPONED_DELAYS)) - 1]
    return max(POSTPONED_MIN, min(retry_after, RETRY_AFTER_MAX))


def _spread(seconds: float, draw: float) -> timedelta:
    return timedelta(seconds=seconds * (1 + RETRY_JITTER * draw))


@dataclass(frozen=True, slots=True)
class Record:
    """What is remembered of one certificate over restarts."""

    failures: int = 0  # orders failed in a row
    failed_at: tuple[datetime, ...] = ()  # failed orders of the last hour, oldest first, the newest
    last_error: str | None = None
    retry_at: datetime | None = None  # not before this
    leaf: str | None = None  # hex SHA-256 of the leaf that the next two are about
    window: RenewalWindow | None = None
    draw: float = 0.0  # the place chosen for this leaf: a restart does not choose anew
    postponements: int = 0  # in a row
    chain: int | None = None  # certificates that came with the leaf, it included; None: not known

    def failed(
        self,
        error: str,
        now: datetime,
        retry_after: float | None = None,
        *,
        not_after: datetime | None = None,
        draw: float = 0.0,
    ) -> "Record":
        """Return the record after an order that failed; `not_after` is that of what is in force."""
        failures = self.failures + 1
        left = (not_after - now).total_seconds() if not_after else 0.0
        delay = _spread(retry_delay(failures, retry_after, left), draw)
        return replace(
            self,
            failures=failures,
            failed_at=(*self._recent(now), now)[-FAILURES_PER_HOUR:],
            last_error=error[:ERROR_LIMIT],
            retry_at=now + delay,
            postponements=0,
        )

    def postponed(
        self, reason: str, now: datetime, retry_after: float | None = None, *, draw: float = 0.0
    ) -> "Record":
        """Return the record after an attempt in which nothing was ordered: no failed order.

        Whatever was to be waited for before, such as a Retry-After, still is.
        """
        postponements = self.postponements + 1
        delay = _spread(_postponed_delay(postponements, retry_after), draw)
        return replace(
            self,
            last_error=reason[:ERROR_LIMIT],
            retry_at=max(now + delay, self._retry_at(now)),
            postponements=postponements,
        )

    def lost(self, now: datetime) -> "Record":
        """Return the record after an order of an earlier process that came to nothing unseen.

        It counts like any that failed, but delays nothing.
        """
        return replace(self, failed_at=(*self._recent(now), now)[-FAILURES_PER_HOUR:])

    def issued(self, leaf_hash: bytes, draw: float, chain: int | None = None) -> "Record":
        """Return the record of a new certificate: only the hour's failed orders still count."""
        return Record(failed_at=self.failed_at, leaf=leaf_hash.hex(), draw=draw, chain=chain)

    def with_window(self, window: RenewalWindow | None) -> "Record":
        """Return the record with another window for the same leaf."""
        return replace(self, window=window)

    def may_order_at(self, now: datetime) -> datetime:
        """Return the first moment from `now` on at which an order may be placed.

        That is `retry_at`, unless it is incredible, and never makes it possible that more than
        FAILURES_PER_HOUR orders fail in one hour.
        """
        moments = [now, self._retry_at(now)]
        recent = self._recent(now)
        if len(recent) >= FAILURES_PER_HOUR:
            moments.append(recent[-FAILURES_PER_HOUR] + HOUR)
        return max(moments)

    def _retry_at(self, now: datetime) -> datetime:
        """Return `retry_at` if there is one that is credible, else `now`."""
        if self.retry_at is None or self.retry_at - now > CREDIBLE_WAIT:
            return now
        return self.retry_at

    def _recent(self, now: datetime) -> tuple[datetime, ...]:
        """The failed orders of the last hour; one in the future tells of a clock set back."""
        return tuple(moment for moment in self.failed_at if now - HOUR < moment <= now)

    def to_json(self) -> bytes:
        """Return what `from_json` reads back exactly."""
        fields = {"version": VERSION, **asdict(self)}
        return json.dumps(fields, default=datetime.isoformat, indent=1).encode()

    @classmethod
    def from_json(cls, content: bytes) -> "Record":
        """Return the record in a file; raises ValueError saying what is wrong with it."""
        try:
            fields = json.loads(content)
        except (ValueError, RecursionError):
            raise ValueError("is not JSON") from None
        if not isinstance(fields, dict):
            raise ValueError("is not a JSON object")  # noqa: TRY004 - one error for any content
        if fields.get("version") != VERSION:
            raise ValueError(f"is not of version {VERSION}")
        fields.setdefault("chain", None)  # earlier programs did not count it
        read: dict[str, Any] = {name: _read(fields, name, each) for name, each in _READERS.items()}
        return cls(**read)


def _read(fields: dict[str, object], name: str, reader: Callable[[object], object]) -> object:
    try:
        return reader(fields[name])
    except (KeyError, ValueError, TypeError, OverflowError):
        raise ValueError(f"{name} is missing or malformed") from None


def _count(value: object) -> int:
    if type(value) is not int or value < 0:  # a bool is an int
        raise ValueError
    return value


def _fraction(value: object) -> float:
    if not isinstance(value, float) or not 0 <= value < 1:
        raise ValueError
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > ERROR_LIMIT:
        raise ValueError
    return value


def _leaf(value: object) -> str:
    if not LEAF.fullmatch(_text(value)):
        raise ValueError
    return _text(value)


def _moment(value: object) -> datetime:
    moment = datetime.fromisoformat(_text(value))
    if moment.utcoffset() is None:
        raise ValueError
    return moment.astimezone(UTC)


def _moments(value: object) -> tuple[datetime, ...]:
    if not isinstance(value, list) or len(value) > FAILURES_PER_HOUR:
        raise ValueError
    return tuple(_moment(each) for each in value)


def _window(value: object) -> RenewalWindow:
    if not isinstance(value, dict):
        raise ValueError  # noqa: TRY004 - one error for any content
    return RenewalWindow(_moment(value["start"]), _moment(value["end"]))


def _optional(reader: Callable[[object], T]) -> Callable[[object], T | None]:
    return lambda value: None if value is None else reader(value)


_READERS: dict[str, Callable[[object], object]] = {
    "failures": _count,
    "failed_at": _moments,
    "last_error": _optional(_text),
    "retry_at": _optional(_moment),
    "leaf": _optional(_leaf),
    "window": _optional(_window),
    "draw": _fraction,
    "postponements": _count,
    "chain": _optional(_count),
}
