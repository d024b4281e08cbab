"""Keeps certificates valid for as long as the process runs: ordered, stored, renewed in time.

What is in force is served to its end whatever happens here; no fault of an authority, a disk or a
network ends `Issuer.keep`.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tunnel.acme.challenge import ChallengePath
from tunnel.acme.directories import directory_of
from tunnel.acme.ordering import OrderGone, Orders, Request
from tunnel.acme.schedule import Record, renewal_time
from tunnel.acme.store import Store
from tunnel.errors import IssueFailed, NotWritable, OrderPostponed, SettingsError
from tunnel.log import Log, get_log
from tunnel.settings.values import AcmeSettings
from tunnel.tls.slots import Certificate, CertificateKey

if TYPE_CHECKING:
    from tunnel.acme.preflight import Resolver

NAP_MAX = 900.0  # seconds between two looks at the wall clock, which may jump or have slept
ORDERS_AT_ONCE = 4
SAVE_INTERVAL = timedelta(minutes=1)  # between two attempts to write what the disk did not take
REST_MAX = timedelta(days=1)
CREDIBLE_PLAN = timedelta(days=1)  # what is planned further ahead was while the clock was wrong
ASK_SPREAD = 60.0  # seconds over which a fleet that starts at once asks for renewal windows
ASK_AGAIN = timedelta(hours=6)  # RFC 9773 §4.3.3, after a failure

log = get_log(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A certificate that is to be there always, for all of `names` together.

    `install` is called with each new one, `failed` with a cause and the seconds until the next
    attempt.
    """

    names: tuple[str, ...]
    path: ChallengePath
    install: Callable[[Certificate], None]
    failed: Callable[[str, float], None]
    key: CertificateKey | None = None  # that is certified each time; None: a new one each time


@dataclass(frozen=True, slots=True)
class Standing:
    """How one certificate stands; moments are in UTC."""

    activity: str  # what happens now, in words
    not_after: datetime | None = None
    renew_at: datetime | None = None
    last_error: str | None = None
    retry_at: datetime | None = None


@dataclass(slots=True)
class _Kept:
    """What is known of one certificate between two steps."""

    names: tuple[str, ...]
    log: Log
    current: Certificate | None
    record: Record
    ask_at: datetime  # for the renewal window
    save_at: datetime | None = None  # the current one could not be written yet
    rest_until: datetime | None = None  # no order before, whatever a clock or a window says
    activity: str = "not begun"
    is_asked: bool = False  # an operator wants one now
    nap: asyncio.Timeout | None = None  # ended by whoever asks

    def adopt(self, certificate: Certificate, rest_until: datetime, draw: float) -> None:
        """Take another certificate for the one in force."""
        self.current, self.rest_until = certificate, rest_until
        self.record = self.record.issued(certificate.leaf_hash, draw, len(certificate.chain))

    def asked_at(self, now: datetime) -> datetime:
        """Return when an operator may have an order: only the limit of failures counts."""
        return replace(self.record, retry_at=None).may_order_at(now)

    def tell(self, event: str, retry_in: float, bug: Exception | None = None) -> None:
        """Log a failure; a bug with the place where it is."""
        fields = {"cause": self.record.last_error or "", "retry_in": round(retry_in, 1)}
        if bug is None:
            self.log.warning(event, **fields)
        else:
            self.log.error(event, exception=bug, **fields)


class _Step(Enum):
    """What is due next."""

    SAVE = auto()
    ASK = auto()
    ORDER = auto()


class Issuer:
    """Keeps any number of certificates of one authority; made without reaching anybody.

    `now`, `sleep` (which passes as many seconds of it) and `draw` (0 ≤ draw() < 1) may be
    replaced; `resolver` is for the preflight.
    """

    def __init__(
        self,
        settings: AcmeSettings,
        state_dir: Path,
        *,
        resolver: "Resolver | None" = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        directory = directory_of(settings.directory)
        self._store = Store.below(state_dir, directory)
        self._orders = Orders(settings, directory, self._store, resolver)
        self._places = asyncio.Semaphore(ORDERS_AT_ONCE)
        self._now = now
        self._sleep = sleep
        self._draw = draw
        self._log = log.bind(directory=directory.name)
        self._kept: dict[tuple[str, ...], _Kept] = {}

    # -- what is there already

    def cached(self, names: Sequence[str], seed: Path | None = None) -> Certificate | None:
        """Return the certificate that is kept for exactly these names, if it may be used.

        `seed` is a PEM file that is taken over where none is kept.
        """
        kept = self._of(tuple(names))
        if kept.current is None and seed is not None:
            planted = self._store.import_seed(seed, kept.names, self._now())
            if planted is not None:
                kept.adopt(planted, _rested(planted, self._now()), self._draw())
        return kept.current

    def standing(self, names: Sequence[str]) -> Standing:
        """Return how the certificate for exactly these names stands."""
        kept = self._of(tuple(names))
        current = kept.current
        return Standing(
            kept.activity,
            current.not_after if current else None,
            self._renew_at(kept, current) if current else None,
            kept.record.last_error,
            kept.record.retry_at,
        )

    def renew(self, names: Sequence[str]) -> datetime:
        """Have the certificate for exactly these names ordered as soon as that may be; return when.

        What was planned, or was to be waited for after a failure, does not count; the limit of
        orders that fail in an hour does. `keep` has to run, on this event loop.
        """
        kept = self._of(tuple(names))
        kept.is_asked = True
        nap, kept.nap = kept.nap, None
        if nap is not None:
            nap.reschedule(asyncio.get_running_loop().time())
        return kept.asked_at(self._now())

    def _of(self, names: tuple[str, ...]) -> _Kept:
        if names not in self._kept:
            now = self._now()
            record = self._store.record(names)
            current = self._store.load(names, now, record)
            if current is not None and record.leaf != current.leaf_hash.hex():
                record = record.issued(current.leaf_hash, self._draw(), len(current.chain))
            ask_at = now + timedelta(seconds=ASK_SPREAD * self._draw())
            kept_log = self._log.bind(names=list(names))
            rest_until = _rested(current, now) if current else None
            kept = _Kept(names, kept_log, current, record, ask_at, rest_until=rest_until)
            self._kept[names] = kept
        return self._kept[names]

    # -- keeping

    async def keep(self, wanted: Wanted) -> NoReturn:
        """Order and renew, for ever. At most one call for the same names at a time."""
        kept = self._of(wanted.names)
        while True:
            now = self._now()
            step, at = self._next_step(kept, now)
            if at > now:
                kept.activity = _rest_activity(kept.current, now)
                await self._nap(kept, min((at - now).total_seconds(), NAP_MAX))
                continue
            match step:
                case _Step.SAVE:
                    self._save(kept)
                case _Step.ASK:
                    await self._ask(kept)
                case _Step.ORDER:
                    await self._order(kept, wanted)

    async def _nap(self, kept: _Kept, seconds: float) -> None:
        """Sleep, unless somebody asks for an order meanwhile."""
        try:
            async with asyncio.timeout(None) as kept.nap:
                await self._sleep(seconds)
        except TimeoutError:
            kept.log.info("order asked for")
        finally:
            kept.nap = None

    def _next_step(self, kept: _Kept, now: datetime) -> tuple[_Step, datetime]:
        """Decide what is to be done next, and when."""
        steps = [(self._order_at(kept, now), _Step.ORDER)]
        if kept.current is not None:
            if kept.save_at is not None:
                steps.append((_credible(kept.save_at, now), _Step.SAVE))
            if self._settings.renew_before is None:
                steps.append((_credible(kept.ask_at, now), _Step.ASK))
        at, step = min(steps, key=lambda each: each[0])
        return step, at

    def _order_at(self, kept: _Kept, now: datetime) -> datetime:
        if kept.is_asked:
            return kept.asked_at(now)
        allowed = max(kept.record.may_order_at(now), _credible(kept.rest_until or now, now))
        if kept.current is None:
            return allowed
        return max(self._renew_at(kept, kept.current), allowed)

    def _renew_at(self, kept: _Kept, current: Certificate) -> datetime:
        return renewal_time(
            current.leaf.not_valid_before_utc,
            current.not_after,
            renew_before=self._settings.renew_before,
            window=kept.record.window,
            draw=kept.record.draw,
        )

    # -- the steps

    async def _ask(self, kept: _Kept) -> None:
        """Learn when the authority wants the certificate renewed (RFC 9773)."""
        assert kept.current is not None  # noqa: S101 - the step is due only then
        try:
            window, again = await self._orders.renewal_window(kept.current)
        except (IssueFailed, SettingsError) as error:
            kept.log.debug("no renewal window", cause=_line(error))
            kept.ask_at = self._now() + ASK_AGAIN
            return
        except Exception as error:  # noqa: BLE001 - a bug must not end what keeps all else in force
            kept.log.error("renewal window not asked for: bug", exception=error)
            kept.ask_at = self._now() + ASK_AGAIN
            return
        kept.ask_at = self._now() + timedelta(seconds=again)
        if window is not None and window != kept.record.window:
            kept.log.info("renewal window", start=_shown(window.start), end=_shown(window.end))
            kept.record = kept.record.with_window(window)
            self._remember(kept)

    async def _order(self, kept: _Kept, wanted: Wanted) -> None:
        """Order once, and note how it went."""
        kept.activity = "waiting for a relay"
        for name in wanted.names:
            await wanted.path.ready(name)
        kept.activity = "waiting for other orders"
        async with self._places:
            kept.activity = "ordering"
            try:
                # Before anything is ordered that could not be kept.
                self._store.save_record(kept.names, kept.record)
                request = Request(wanted.names, wanted.path, wanted.key, kept.current)
                certificate = await self._orders.certificate(request)
            except OrderGone as error:
                self._place_anew(kept, error)
            except (OrderPostponed, SettingsError) as error:
                now = self._now()
                after = error.retry_after if isinstance(error, OrderPostponed) else None
                kept.record = kept.record.postponed(_line(error), now, after, draw=self._draw())
                self._tell_failure(kept, wanted, "certificate not ordered", now)
                if not isinstance(error, NotWritable):  # of which enough is said
                    self._remember(kept)
            except Exception as error:  # noqa: BLE001 - a bug, too, is tried again on the schedule
                self._fail(kept, wanted, error)
            else:
                self._take(kept, wanted, certificate)

    def _fail(self, kept: _Kept, wanted: Wanted, error: Exception) -> None:
        """Count an order that failed, or a bug: it may have come after an order was placed."""
        now = self._now()
        bug = None if isinstance(error, IssueFailed) else error
        kept.record = kept.record.failed(
            f"bug: {type(error).__name__}: {_line(error)}" if bug else _line(error),
            now,
            error.retry_after if isinstance(error, IssueFailed) else None,
            not_after=kept.current.not_after if kept.current else None,
            draw=self._draw(),
        )
        self._tell_failure(kept, wanted, "certificate not issued", now, bug)
        self._remember(kept)

    def _place_anew(self, kept: _Kept, error: OrderGone) -> None:
        """Count what came of the order from before; the next one is due as soon as it may be."""
        kept.record = kept.record.lost(self._now())
        kept.log.info("order from before came to nothing", cause=_line(error))
        self._remember(kept)

    def _take(self, kept: _Kept, wanted: Wanted, certificate: Certificate) -> None:
        kept.is_asked = False
        now = self._now()
        kept.adopt(certificate, now + _rest(certificate), self._draw())
        kept.ask_at = now + timedelta(seconds=ASK_SPREAD * self._draw())
        wanted.install(certificate)
        renew_at = self._renew_at(kept, certificate)
        kept.log.info(
            "certificate issued",
            not_after=_shown(certificate.not_after),
            renew_at=_shown(renew_at),
        )
        self._save(kept)

    def _tell_failure(
        self,
        kept: _Kept,
        wanted: Wanted,
        event: str,
        now: datetime,
        bug: Exception | None = None,
    ) -> None:
        kept.is_asked = False
        retry_in = (kept.record.may_order_at(now) - now).total_seconds()
        kept.tell(event, retry_in, bug)
        wanted.failed(kept.record.last_error or "", retry_in)

    def _save(self, kept: _Kept) -> None:
        """Write the current certificate, or try again later: until then memory has it."""
        assert kept.current is not None  # noqa: S101 - it was just issued
        try:
            self._store.save(kept.names, kept.current)
        except NotWritable as error:
            if kept.save_at is None:
                kept.log.error("certificate not kept", cause=_line(error))
            kept.save_at = self._now() + SAVE_INTERVAL
            return
        if kept.save_at is not None:
            kept.log.info("certificate kept at last")
        kept.save_at = None
        self._remember(kept)
        self._store.drop_draft(kept.names)

    def _remember(self, kept: _Kept) -> None:
        try:
            self._store.save_record(kept.names, kept.record)
        except NotWritable as error:
            kept.log.warning("certificate record not kept", cause=_line(error))


def _rest(certificate: Certificate) -> timedelta:
    """Return how long a certificate is kept at least: no clock far ahead orders in a loop."""
    lifetime = certificate.not_after - certificate.leaf.not_valid_before_utc
    return min(lifetime / 4, REST_MAX)


def _rested(certificate: Certificate, now: datetime) -> datetime:
    """Return until when one that was found rests: a restart does not make it due."""
    begun = min(certificate.leaf.not_valid_before_utc, now)  # by our clock, which may be behind
    return begun + _rest(certificate)


def _rest_activity(current: Certificate | None, now: datetime) -> str:
    if current is None:
        return "waiting to try again"
    return "valid" if now < current.not_after else "expired, waiting to try again"


def _credible(moment: datetime, now: datetime) -> datetime:
    return moment if moment - now <= CREDIBLE_PLAN else now


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
