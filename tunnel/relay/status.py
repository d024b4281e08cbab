"""What a relay says of itself: how everything stands, and why. Plain values for JSON."""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from heapq import nlargest
from typing import Protocol

from tunnel import __version__
from tunnel.admin.answers import Members
from tunnel.protocol.names import format_fingerprint
from tunnel.relay.agents import Agents
from tunnel.relay.budget_file import BudgetFile
from tunnel.relay.certificate import OwnCertificate
from tunnel.relay.counts import RefusedClient, Registrations, RelayVisits
from tunnel.relay.direct import DirectRouting
from tunnel.relay.front import Front, Ways
from tunnel.relay.listening import Listening
from tunnel.relay.registry import Registry
from tunnel.relay.sessions import Link, Session
from tunnel.relay.spares import Spares
from tunnel.relay.state import own_names
from tunnel.settings.values import RelaySettings
from tunnel.transport.parking import ParkingBudget

CLIENTS_SHOWN = 1000  # a status of more would hold the loop up for longer than a heartbeat may be
BUDGETS_SHOWN = 1000  # for the same reason


class DirectFigures(Protocol):
    """What is counted of visitors on direct connections."""

    @property
    def open(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def unanswered(self) -> int: ...


class SpareFigures(Protocol):
    """What is counted of direct connections that wait."""

    @property
    def total(self) -> int: ...
    @property
    def died(self) -> int: ...
    @property
    def refused(self) -> Mapping[str, int]: ...
    def count(self, session: Session) -> int:
        """Return how many of a session wait."""


class View(Protocol):
    """What is looked at of a relay that runs."""

    @property
    def settings(self) -> RelaySettings: ...
    @property
    def listening(self) -> Callable[[], Iterable[Listening]]: ...
    @property
    def registry(self) -> Registry: ...
    @property
    def registrations(self) -> Registrations: ...
    @property
    def unregistered(self) -> int: ...
    @property
    def visits(self) -> RelayVisits: ...
    @property
    def direct(self) -> DirectFigures: ...
    @property
    def spares(self) -> SpareFigures: ...
    @property
    def certificate(self) -> OwnCertificate: ...
    @property
    def budget(self) -> BudgetFile: ...
    @property
    def parked_bytes(self) -> int: ...
    @property
    def processes(self) -> "Processes | None":
        """What is counted of several processes; None where there is one."""

    @property
    def is_draining(self) -> bool: ...
    def obstacle(self) -> str | None:
        """Return why visitors and clients are not let in now, None if they are."""


@dataclass(frozen=True, slots=True)
class Processes:
    """How several processes get on with each other."""

    pids: Mapping[int, int]  # of those that run, by their numbers
    handed_over: int  # visitors and spares, from one process to another
    restarts: int


def obstacle_of(*, is_draining: bool) -> str | None:
    """Return why visitors and clients are not let in now, None if they are."""
    return "draining: new visitors and clients go elsewhere" if is_draining else None


@dataclass(frozen=True, slots=True)
class OneProcess:
    """The parts of a relay that runs in one process; they are only looked at. A View."""

    settings: RelaySettings
    listening: Callable[[], Iterable[Listening]]
    registry: Registry
    agents: Agents
    front: Front
    ways: Ways
    certificate: OwnCertificate
    budget: BudgetFile
    parked: ParkingBudget
    processes: None = None

    @property
    def registrations(self) -> Registrations:
        return self.agents.registrations

    @property
    def unregistered(self) -> int:
        return self.agents.unregistered

    @property
    def visits(self) -> RelayVisits:
        return self.front.visits

    @property
    def direct(self) -> DirectRouting:
        return self.ways.direct

    @property
    def spares(self) -> Spares:
        return self.ways.spares

    @property
    def parked_bytes(self) -> int:
        return self.parked.used

    def obstacle(self) -> str | None:
        return obstacle_of(is_draining=self.is_draining)

    @property
    def is_draining(self) -> bool:
        return self.agents.is_draining


def status_of(view: View, since: float) -> Members:
    """Return how the relay stands; it has run `since` that loop time."""
    obstacle = view.obstacle()
    now = asyncio.get_running_loop().time()
    sessions = sessions_of(view.registry)
    return {
        "program": "relay",
        "version": __version__,
        "name": view.settings.name,
        "pid": os.getpid(),
        "uptime": round(now - since, 3),
        "state": "draining" if view.is_draining else "serving",
        "ready": obstacle is None,
        "why": obstacle,
        "listeners": [{**asdict(each), "address": str(each.address)} for each in view.listening()],
        "clients": [_session(each, view.spares, now) for each in sessions[:CLIENTS_SHOWN]],
        "clients_left_out": max(0, len(sessions) - CLIENTS_SHOWN),
        "refused": [_refused(each) for each in view.registrations.latest],
        "visitors": _visitors(view),
        "certificate": certificate_of(view),
        **budgets_of(view.budget),
        **_processes(view.processes),
    }


def _processes(processes: Processes | None) -> Members:
    if processes is None:
        return {}
    return {
        "workers": {
            "pids": {str(index): pid for index, pid in processes.pids.items()},
            "handed_over": processes.handed_over,
            "restarts": processes.restarts,
        }
    }


def sessions_of(registry: Registry) -> list[Session]:
    """Return every session that has a connection, in the order of registration."""
    return list(dict.fromkeys(link.session for link in registry.links))


def _session(session: Session, spares: SpareFigures, now: float) -> Members:
    names = sorted({name for link in session.links for name in link.serving})
    return {
        "fingerprint": format_fingerprint(session.fingerprint),
        "session": session.label,
        "names": names,
        "granted": sorted(session.granted),
        "streams": sum(link.streams for link in session.links),
        "received": session.tally.forth,
        "sent": session.tally.back,
        "direct_spares": spares.count(session),
        "connections": [_link(link, now) for link in session.links],
    }


def _link(link: Link, now: float) -> Members:
    return {
        "transport": link.connection.binding.transport,
        "observed": str(link.connection.peer),
        "state": link.state.name.lower(),
        "since": datetime.now(UTC) - timedelta(seconds=now - link.since),
        "streams": link.streams,
        "round_trip": link.channel.round_trip,
    }


def _refused(refusal: RefusedClient) -> Members:
    fingerprint = refusal.fingerprint
    return {
        "at": refusal.at,
        "peer": str(refusal.peer),
        "fingerprint": None if fingerprint is None else format_fingerprint(fingerprint),
        "code": refusal.code,
        "message": refusal.message,
    }


def _visitors(view: View) -> Members:
    visits, tally = view.visits, view.registry.tally
    direct, spares = view.direct, view.spares
    return {
        "open": visits.open,
        "total": visits.total,
        "turned_away": dict(visits.turned_away),
        "received": tally.forth,
        "sent": tally.back,
        "parked": view.parked_bytes,
        "direct": {
            "open": direct.open,
            "total": direct.total,
            "unanswered": direct.unanswered,
            "spares": spares.total,
            "spares_refused": dict(spares.refused),
        },
    }


def budgets_of(budget: BudgetFile) -> Members:
    """Return the budgets that are used, the fullest first, and how many are left out."""
    uses = budget.uses()
    fullest = nlargest(BUDGETS_SHOWN, uses, key=lambda use: use.orders / use.limit)
    return {
        "budget": [asdict(use) for use in fullest],
        "budgets_left_out": len(uses) - len(fullest),
    }


def certificate_of(view: View) -> Members:
    """Return how the certificate for clients stands, and what is planned for it."""
    wanted, current = view.settings.certificate, view.certificate.slot.current
    standing = view.certificate.standing()
    names = sorted(wanted.names or own_names(view.settings, current) - {view.settings.name})
    return {
        "name": wanted.names[0] if wanted.names else (names[0] if names else view.settings.name),
        "names": names,
        "source": wanted.mode,
        "state": standing.activity,
        "not_after": current.not_after,
        "pin": f"sha256:{current.pin.hex()}",
        "renew_at": standing.renew_at,
        "last_error": standing.last_error,
        "retry_at": standing.retry_at,
    }
