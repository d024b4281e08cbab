"""What a worker says of itself when the head asks, and what all of them come to. Plain values."""

from collections import Counter
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tunnel.relay.counts import REFUSALS_KEPT, RefusedClient, Registrations, RelayVisits
from tunnel.relay.sessions import Session
from tunnel.relay.status import OneProcess
from tunnel.relay.workers.posts import WorkerRegistry
from tunnel.stream import Address

COUNTED_OF_VISITS = ("total", "validations_relay", "validations_client")  # they only grow

Look = Mapping[str, Any]  # what `look_of` has returned, as it arrives


def look_of(view: OneProcess, registry: WorkerRegistry, handed_over: int) -> dict[str, object]:
    """Return all figures of a worker; links by the numbers that the head knows them by."""
    tally, spares, direct = registry.tally, view.spares, view.direct
    return {
        "links": {str(number): _link(link) for number, link in registry.numbers},
        "sessions": [_session(each, spares.count(each)) for each in registry.sessions],
        "unregistered": view.unregistered,
        "refused": dict(view.registrations.refused),
        "latest": [_refusal(each) for each in view.registrations.latest],
        "visits": _visits(view.visits),
        "tally": [tally.forth, tally.back],
        "direct": [direct.open, direct.total, direct.unanswered],
        "spares": [spares.total, spares.died, dict(spares.refused)],
        "parked": view.parked_bytes,
        "handed_over": handed_over,
    }


def _visits(visits: RelayVisits) -> dict[str, object]:
    grown = {name: getattr(visits, name) for name in COUNTED_OF_VISITS}
    return {"open": visits.open, "turned_away": dict(visits.turned_away), **grown}


def _link(link: Any) -> list[object]:
    connection = link.connection
    peer, transport = connection.peer, connection.binding.transport
    return [transport, list(peer), link.streams, link.channel.round_trip]


def _session(session: Session, spares: int) -> list[object]:
    key = [session.fingerprint.hex(), session.instance.hex()]
    return [*key, session.tally.forth, session.tally.back, spares]


def _refusal(refusal: RefusedClient) -> list[object]:
    key = None if refusal.fingerprint is None else refusal.fingerprint.hex()
    return [refusal.at.isoformat(), list(refusal.peer), key, refusal.code, refusal.message]


@dataclass(slots=True)
class DirectSums:
    """As of `DirectRouting`."""

    open: int = 0
    total: int = 0
    unanswered: int = 0


@dataclass(slots=True)
class SpareSums:
    """As of `Spares`."""

    total: int = 0
    died: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    by_session: Counter[tuple[bytes, bytes]] = field(default_factory=Counter)

    def count(self, session: Session) -> int:
        """Return how many of a session wait, in all workers."""
        return self.by_session[session.fingerprint, session.instance]


@dataclass(slots=True)
class Sums:
    """The figures of all workers, and of those that are gone as far as they only grow."""

    registrations: Registrations = field(default_factory=Registrations)
    unregistered: int = 0
    visits: RelayVisits = field(default_factory=RelayVisits)
    direct: DirectSums = field(default_factory=DirectSums)
    spares: SpareSums = field(default_factory=SpareSums)
    parked_bytes: int = 0
    forth: int = 0
    back: int = 0
    handed_over: int = 0
    by_session: dict[tuple[bytes, bytes], list[int]] = field(default_factory=dict)

    def add_counted(self, look: Look) -> None:
        """Add what only grows."""
        visits = look["visits"]
        for name in COUNTED_OF_VISITS:
            setattr(self.visits, name, getattr(self.visits, name) + visits[name])
        self.visits.turned_away.update(visits["turned_away"])
        self.registrations.refused.update(look["refused"])
        self.direct.total += look["direct"][1]
        self.direct.unanswered += look["direct"][2]
        self.spares.died += look["spares"][1]
        self.spares.refused.update(look["spares"][2])
        self.forth += look["tally"][0]
        self.back += look["tally"][1]
        self.handed_over += look["handed_over"]

    def add_present(self, look: Look) -> None:
        """Add what is there now."""
        self.unregistered += look["unregistered"]
        self.visits.open += look["visits"]["open"]
        self.direct.open += look["direct"][0]
        self.spares.total += look["spares"][0]
        self.parked_bytes += look["parked"]
        for fingerprint, instance, forth, back, spares in look["sessions"]:
            key = (bytes.fromhex(fingerprint), bytes.fromhex(instance))
            before = self.by_session.get(key, [0, 0])
            self.by_session[key] = [before[0] + forth, before[1] + back]
            self.spares.by_session[key] += spares


def sums_of(gone: Sums, looks: Iterable[Look]) -> Sums:
    """Return the sums over workers that are gone, by what they said last, and those that run."""
    sums = deepcopy(gone)
    refusals: list[RefusedClient] = []
    for look in looks:
        sums.add_counted(look)
        sums.add_present(look)
        refusals += map(_read_refusal, look["latest"])
    sums.registrations.latest.extend(sorted(refusals, key=lambda each: each.at)[-REFUSALS_KEPT:])
    return sums


def _read_refusal(members: list[Any]) -> RefusedClient:
    at, peer, key, code, message = members
    fingerprint = None if key is None else bytes.fromhex(key)
    return RefusedClient(datetime.fromisoformat(at), Address(*peer), fingerprint, code, message)
