"""What can be told before an order: do the names resolve, may this authority certify them?

A mistake found here costs nothing; the same mistake found by the authority uses up a rate limit.
The view from here is not the authority's (split DNS, address translation, balancers): whatever
cannot be told is a warning, and no reason not to order. dnspython is imported where it is used.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, Protocol

from tunnel.acme.caa import CRITICAL, Applicant, Property, objection
from tunnel.acme.directories import Directory
from tunnel.errors import TunnelError
from tunnel.log import clipped

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver as SystemResolver
    from dns.exception import DNSException
    from dns.name import Name
    from dns.rdtypes.ANY.CAA import CAA
    from dns.resolver import Answer

IPAddress = IPv4Address | IPv6Address

ALIASES_MAX = 8  # that are followed, where a name server leaves that to us
LOOKUP_TIMEOUT = 4.0  # seconds for one question, all name servers and repetitions together
LOOKUPS_AT_ONCE = 8
GRACE = 1.0  # seconds after its own deadline in which dnspython has to give up by itself
SHOWN_ADDRESSES = 4

LATE = "no answer in time"
MISSING_ADVICE = "add an A or AAAA record that points at the relay"


class Resolver(Protocol):
    """What is used of a dnspython resolver."""

    async def resolve(
        self, qname: str, rdtype: str, *, raise_on_no_answer: bool, lifetime: float, search: bool
    ) -> "Answer":
        """Return the answer, which may be empty; raises DNSException."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found, one sentence each."""

    faults: tuple[str, ...] = ()  # the order would fail; each says what to change
    warnings: tuple[str, ...] = ()  # could not be told, or looks odd


def wants_preflight(setting: str, directory: Directory) -> bool:
    """Return whether `preflight` (auto | on | off) asks for it with this directory."""
    return setting == "on" or (setting == "auto" and directory.is_named)


async def check(
    names: Sequence[str],
    caa_identities: Sequence[str],
    *,
    account: str | None,
    resolver: Resolver | None = None,
    timeout: float = 10.0,
    expected: frozenset[str] = frozenset(),
) -> Verdict:
    """Look all names up, `timeout` seconds long at most; what was not told by then is a warning.

    `caa_identities`: what CAA records call the authority; empty: not known. `account`: the URL of
    ours there; None: not known. `expected`: addresses of which each name should have one; empty:
    not known. Without a resolver the system's is used. Cancel-safe.
    """
    if resolver is None:
        try:
            system = await asyncio.to_thread(system_resolver)
        except NoNameServer as reason:
            return Verdict(warnings=(f"nothing could be looked up: {reason}",))
        resolver = system
    lookups = _Lookups(resolver, asyncio.get_running_loop().time() + timeout)
    applicant = Applicant([identity.lower() for identity in caa_identities], account)
    tasks: list[asyncio.Task[Verdict]] = []
    async with asyncio.TaskGroup() as group:
        for name in dict.fromkeys(name.rstrip(".").lower() for name in names):
            tasks.append(group.create_task(_reach(lookups, name, expected)))
            tasks.append(group.create_task(_permission(lookups, name, applicant)))
    verdicts = [task.result() for task in tasks]
    return Verdict(
        tuple(fault for verdict in verdicts for fault in verdict.faults),
        tuple(warning for verdict in verdicts for warning in verdict.warnings),
    )


class NoNameServer(TunnelError):  # noqa: N818 - as in tunnel/errors.py: what has happened
    """The system does not say which name servers to ask."""


def system_resolver(path: str = "/etc/resolv.conf") -> "SystemResolver":
    """Return a resolver that asks the system's name servers; raises NoNameServer.

    Blocks: it reads the file and, the first time, imports for a third of a second.
    """
    from dns.asyncresolver import Resolver as SystemResolver  # noqa: PLC0415 - slow to import
    from dns.exception import DNSException  # noqa: PLC0415 - slow to import

    try:
        return SystemResolver(path)
    except (DNSException, ValueError) as error:  # ValueError: an address that is none, or bad UTF-8
        raise NoNameServer(f"{path}: {clipped(str(error))}") from error


async def _reach(lookups: "_Lookups", name: str, expected: frozenset[str]) -> Verdict:
    """Judge where the name leads to."""
    answers = [await lookups.ask(name, kind) for kind in ("A", "AAAA")]
    addresses = [ip_address(record.address) for answer in answers for record in answer.records]
    if addresses:
        return Verdict(warnings=tuple(_oddities(name, addresses, expected)))
    trouble = answers[0].trouble or answers[1].trouble
    if trouble:
        return Verdict(warnings=(f"{name}: whether it resolves could not be told: {trouble}",))
    target = answers[0].name
    alias = f" is an alias of {target}, which" if target != name else ""
    return Verdict((f"{name}{alias} does not resolve: {MISSING_ADVICE}",))


def _oddities(name: str, addresses: Sequence[IPAddress], expected: frozenset[str]) -> Iterator[str]:
    inner = [address for address in addresses if not address.is_global]
    if inner:
        yield f"{name} resolves to {_listed(inner)}, which the internet does not reach"
    if expected and {ip_address(each) for each in expected}.isdisjoint(addresses):
        others = _listed(sorted(expected))
        yield f"{name} resolves to {_listed(addresses)}, which is none of {others}"


def _listed(addresses: Sequence[object]) -> str:
    more = ["…"] if len(addresses) > SHOWN_ADDRESSES else []
    return ", ".join([str(address) for address in addresses[:SHOWN_ADDRESSES]] + more)


async def _permission(lookups: "_Lookups", name: str, applicant: Applicant) -> Verdict:
    """Judge what CAA says."""
    answer = await _relevant(lookups, name)
    if answer.trouble:
        why = f"could not be looked up ({answer.trouble}); an authority that cannot either refuses"
        return Verdict(warnings=(f"{name}: CAA at {answer.name} {why}",))
    properties = [_property(record) for record in answer.records]
    against = objection(properties, applicant)
    if against and applicant.identities:
        return Verdict((f"{name}: CAA at {answer.name} {against}",))
    if against:
        why = "restricts who may issue, and by which name it means this authority is not known"
        return Verdict(warnings=(f"{name}: CAA at {answer.name} {why}",))
    if applicant.account is None and objection(properties, replace(applicant, account="")):
        why = "permits certain accounts only, and ours is not known"
        return Verdict(warnings=(f"{name}: CAA at {answer.name} {why}",))
    return Verdict()


async def _relevant(lookups: "_Lookups", name: str) -> "_Answer":
    """Return the closest record set, of the name itself or a parent (RFC 8659 §3)."""
    answer = _Answer(name)
    while name:
        answer = await lookups.ask(name, "CAA")
        if answer.records or answer.trouble:
            break
        name = name.partition(".")[2]
    return answer


def _property(record: "CAA") -> Property:
    tag = record.tag.decode("ascii", "replace").lower()
    value = record.value.decode("ascii", "replace")
    return Property(tag, value, is_critical=bool(record.flags & CRITICAL))


@dataclass(frozen=True, slots=True)
class _Answer:
    """What was said to one question; a name that does not exist has no records."""

    name: str  # where aliases led to; without a dot at the end
    records: tuple[Any, ...] = ()
    trouble: str = ""  # why nothing was said


class _Lookups:
    """Asks name servers, a few questions at once, until the loop's clock says `deadline`."""

    def __init__(self, resolver: Resolver, deadline: float) -> None:
        self._resolver = resolver
        self._deadline = deadline
        self._turns = asyncio.Semaphore(LOOKUPS_AT_ONCE)

    async def ask(self, name: str, kind: str) -> _Answer:
        """Ask for the records of one type, and follow aliases."""
        target = name
        try:
            # A mere backstop: cancelled while it opens a socket, uvloop leaves that one open.
            async with asyncio.timeout_at(self._deadline + GRACE), self._turns:
                for _ in range(ALIASES_MAX):
                    answer = await self._ask_once(target, kind)
                    if answer.records or answer.trouble or answer.name == target:
                        return answer
                    target = answer.name  # the server left following it to us, or it leads nowhere
        except TimeoutError:
            return _Answer(name, trouble=LATE)
        return _Answer(name, trouble=f"{ALIASES_MAX} aliases in a row")

    async def _ask_once(self, name: str, kind: str) -> _Answer:
        from dns.exception import DNSException  # noqa: PLC0415 - slow to import
        from dns.resolver import NXDOMAIN  # noqa: PLC0415 - slow to import

        left = self._deadline - asyncio.get_running_loop().time()
        if left <= 0:
            return _Answer(name, trouble=LATE)
        lifetime = min(left, LOOKUP_TIMEOUT)
        try:
            answer = await self._resolver.resolve(
                f"{name}.", kind, raise_on_no_answer=False, lifetime=lifetime, search=False
            )
        except NXDOMAIN as error:
            return _Answer(_plain(error.canonical_name))
        except DNSException as error:
            return _Answer(name, trouble=_trouble(error))
        # In order, so that one state of things always reads the same: name servers rotate.
        return _Answer(_plain(answer.canonical_name), tuple(sorted(answer)))


def _plain(name: "Name") -> str:
    return name.to_text(omit_final_dot=True).lower()


def _trouble(error: "DNSException") -> str:
    """Return in a few words what kept name servers from an answer."""
    from dns.exception import Timeout  # noqa: PLC0415 - slow to import
    from dns.resolver import NoNameservers  # noqa: PLC0415 - slow to import

    if isinstance(error, Timeout):
        return LATE
    if not isinstance(error, NoNameservers):
        return type(error).__name__
    # One entry per attempt; the fourth field is the code's name, such as SERVFAIL, or an exception.
    causes = [attempt[3] for attempt in error.kwargs["errors"]]
    words = [cause if isinstance(cause, str) else type(cause).__name__ for cause in causes]
    return ", ".join(dict.fromkeys(words)) or "no name server"
