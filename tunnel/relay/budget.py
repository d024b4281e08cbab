"""How many certificates may be ordered through a relay: authorities count by registered domain.

All names under one registered domain share what an authority allows it in a week, so one client
that orders again and again would leave none to the others. Decisions only: no clock, no files;
wall-clock moments come in, since a week outlives the process.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from tunnel.errors import Code, Refused
from tunnel.protocol.messages import SERVING_RETRY_AFTER_LIMIT
from tunnel.settings.values import SuffixSettings

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

WEEK = 7 * 86_400  # seconds, as all of these
REMEMBERED = 400 * 86_400  # for so long a name is known: longer than any certificate lives
SAME_ORDER = 600  # whoever asks again this soon asks for the order that was counted
REPEATS_PER_WEEK = 50  # orders of a name that has its place of the week: of those that fail
CUSTOM_PER_WEEK = 45  # under a registered domain that no suffix belongs to
NAMES_KEPT = 50_000
DOMAINS_KEPT = 50_000

Members = Mapping[str, object]  # of a JSON object
T = TypeVar("T")


class RegisteredDomains:
    """Which names an authority counts together, by the Public Suffix List, and up to how many."""

    def __init__(self, suffixes: Iterable[SuffixSettings]) -> None:
        self._limits: dict[str, int] = {}
        for suffix in suffixes:
            domain = self.of(suffix.name)
            per_week = suffix.certificates_per_week
            self._limits[domain] = min(per_week, self._limits.get(domain, per_week))

    def of(self, name: str) -> str:
        """Return the registered domain of a name; a public suffix stands for itself."""
        return _public_suffixes().privatesuffix(name) or name

    def limit(self, domain: str) -> int:
        """Return how many new certificates a registered domain gets in 7 days."""
        public_suffix = domain.partition(".")[2]
        return self._limits.get(domain, self._limits.get(public_suffix, CUSTOM_PER_WEEK))


@cache
def _public_suffixes() -> "PublicSuffixList":
    # Some 90 ms: spent when a relay starts, and not by whoever only asks for its version.
    from publicsuffixlist import PublicSuffixList  # noqa: PLC0415 - see above

    return PublicSuffixList()


@dataclass(slots=True)
class _Known:
    """A name that was ordered before; `counted_at` is when it last took a place of its domain."""

    ordered_at: int
    renewals: list[int] = field(default_factory=list)
    counted_at: int = 0
    repeats: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Use:
    """How many new certificates were ordered under a registered domain in 7 days, of how many."""

    domain: str
    orders: int
    limit: int


class Budget:
    """The orders of late. Moments are kept as whole seconds since 1970.

    Full, it forgets what was ordered the longest ago.
    """

    def __init__(
        self,
        domains: RegisteredDomains,
        *,
        names_kept: int = NAMES_KEPT,
        domains_kept: int = DOMAINS_KEPT,
    ) -> None:
        self._domains = domains
        self._names_kept = names_kept
        self._domains_kept = domains_kept
        self._names: OrderedDict[str, _Known] = OrderedDict()
        self._new: OrderedDict[str, list[int]] = OrderedDict()  # by registered domain

    def __repr__(self) -> str:
        return f"<Budget {len(self._names)} names in {len(self._new)} domains of late>"

    def order(self, name: str, *, renewal: bool, now: datetime) -> bool:
        """Count an order, or raise Refused(BUSY) with the seconds until there is a place.

        Returns False where nothing was counted: somebody asks again for the order of just now.
        A name takes one place of its registered domain in 7 days, however often its order fails:
        the next ones draw on a number of the name's own, for the authority has others for those. A
        renewal of what was ordered here before has places of its own, as many again per name.
        """
        moment = int(now.timestamp())
        known = self._names.get(name)
        if known is not None and abs(moment - known.ordered_at) < SAME_ORDER:
            return False
        if renewal and known is not None and moment - known.ordered_at < REMEMBERED:
            limit = self._domains.limit(self._domains.of(name))
            _count(known.renewals, limit, moment, f"renewals of {name}")
        elif known is not None and abs(moment - known.counted_at) < WEEK:
            _count(known.repeats, REPEATS_PER_WEEK, moment, f"more orders for {name}")
        else:
            self._count_new(name, moment)
            known = known or _Known(moment)
            known.counted_at = moment
        known.ordered_at = moment
        _remember(self._names, name, known, self._names_kept)
        return True

    def _count_new(self, name: str, moment: int) -> None:
        domain = self._domains.of(name)
        orders = self._new.get(domain, [])
        what = f"new certificates under {domain}"
        _count(orders, self._domains.limit(domain), moment, what)
        _remember(self._new, domain, orders, self._domains_kept)

    def reconfigure(self, domains: RegisteredDomains) -> None:
        """Keep to other limits; what was ordered counts as before."""
        self._domains = domains

    def use_of(self, name: str, now: datetime) -> Use:
        """Return what is used up of the budget that new names like this one share."""
        domain = self._domains.of(name)
        moment = int(now.timestamp())
        return self._use(domain, self._new.get(domain, []), moment)

    def uses(self, now: datetime) -> list[Use]:
        """Return every budget of which anything is used up, by domain."""
        moment = int(now.timestamp())
        uses = (self._use(domain, orders, moment) for domain, orders in self._new.items())
        return sorted((use for use in uses if use.orders), key=lambda use: use.domain)

    def _use(self, domain: str, orders: Iterable[int], moment: int) -> Use:
        return Use(domain, len(_of_this_week(orders, moment)), self._domains.limit(domain))

    def snapshot(self, now: datetime) -> Members:
        """Return what is worth keeping, as a JSON object, and forget the rest."""
        self._forget(int(now.timestamp()))
        return {
            "new": self._new,
            "names": {name: asdict(known) for name, known in self._names.items()},
        }

    def _forget(self, moment: int) -> None:
        for name, known in list(self._names.items()):
            known.renewals = _of_this_week(known.renewals, moment)
            known.repeats = _of_this_week(known.repeats, moment)
            if moment - known.ordered_at >= REMEMBERED:
                del self._names[name]
        for domain, orders in list(self._new.items()):
            if not _of_this_week(orders, moment):
                del self._new[domain]

    def restore(self, members: object, now: datetime) -> None:
        """Begin with what `snapshot` returned; raises ValueError for anything else.

        What seems to have been ordered in times to come, by a clock that was wrong, was ordered
        just now.
        """
        moment = int(now.timestamp())
        whole = _object(members)
        new = OrderedDict(
            (domain, _moments(orders, moment))
            for domain, orders in _object(whole.get("new")).items()
        )
        names = OrderedDict(
            (name, _known(each, moment)) for name, each in _object(whole.get("names")).items()
        )
        self._new, self._names = new, names
        self._forget(moment)


def _count(orders: list[int], limit: int, moment: int, what: str) -> None:
    """Add an order to those of the week; raises Refused if they are as many as may be."""
    orders[:] = _of_this_week(orders, moment)
    excess = len(orders) - limit
    if excess >= 0:
        wait = sorted(orders)[excess] + WEEK - moment
        message = f"{limit} {what} in 7 days already"
        raise Refused(Code.BUSY, message, min(wait, SERVING_RETRY_AFTER_LIMIT))
    orders.append(moment)


def _of_this_week(orders: Iterable[int], moment: int) -> list[int]:
    """Return those of 7 days; also of 7 days ahead, for the clock may have been set back."""
    return [at for at in orders if abs(moment - at) < WEEK]


def _remember(kept: OrderedDict[str, T], key: str, value: T, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)


def _object(value: object) -> Members:
    if isinstance(value, dict):
        return value
    raise ValueError("not an object")


def _known(value: object, latest: int) -> _Known:
    members = _object(value)
    ordered_at = _moment(members.get("ordered_at"), latest)
    renewals = _moments(members.get("renewals"), latest)
    # Files that are older do not say these: a name of theirs takes a place when it comes next.
    counted_at = _moment(members.get("counted_at", 0), latest)
    return _Known(ordered_at, renewals, counted_at, _moments(members.get("repeats", []), latest))


def _moments(value: object, latest: int) -> list[int]:
    if isinstance(value, list):
        return [_moment(each, latest) for each in value]
    raise ValueError("not a list of moments")


def _moment(value: object, latest: int) -> int:
    if type(value) is not int:
        raise ValueError("not a moment in whole seconds")
    return min(value, latest)
