"""A relay's reload: what is read first, and what follows for those who are here already."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Protocol

from tunnel.errors import Code, Refused
from tunnel.log import get_log
from tunnel.protocol.names import client_id
from tunnel.relay.admission import SettingsAdmission
from tunnel.relay.agents import Agents
from tunnel.relay.budget import RegisteredDomains
from tunnel.relay.certificate import Source
from tunnel.relay.front import Front, Ways
from tunnel.relay.listening import Bound, Ports, Sockets
from tunnel.relay.registry import NOTHING, Registry
from tunnel.relay.sessions import Link, Session
from tunnel.runtime.rota import Rota
from tunnel.runtime.supervision import Work, restarted
from tunnel.settings.values import RelaySettings
from tunnel.transport.accepting import TcpListener
from tunnel.transport.options import TransportOptions

log = get_log(__name__)


@dataclass(frozen=True, slots=True)
class Readied:
    """Settings with all that they need, read and bound: bringing them into force cannot fail.

    `admission` is None where an embedding program has its own, which stays.
    """

    settings: RelaySettings
    source: Source
    admission: SettingsAdmission | None
    domains: RegisteredDomains
    options: TransportOptions
    sockets: Sockets


@dataclass(frozen=True, slots=True, eq=False)
class Rooms:
    """The parts of a relay that runs."""

    registry: Registry
    agents: Agents
    ways: Ways
    front: Front
    ports: Ports
    rota: Rota

    def adopt(self, readied: Readied) -> None:
        """Have whoever comes from now on met as the new settings say."""
        settings = readied.settings
        self.registry.connections_max = settings.limits.connections
        self.registry.expected.reconfigure(expected_names(settings))
        self.ways.routing.reconfigure(settings.timeouts)
        self.ways.direct.reconfigure(settings.timeouts)
        self.front.reconfigure(settings)

    def arrange(self, sockets: Sockets, upkeep: Work | None) -> None:
        """Accept from exactly these sockets, beside the upkeep of the certificate."""
        works: dict[Hashable, Work] = {each: self._accept(each) for each in sockets.values()}
        if upkeep is not None:
            works["certificate", upkeep] = lambda: restarted("certificate", upkeep)
        self.rota.arrange(works)

    def _accept(self, bound: Bound) -> Work:
        """Return what accepts for ever from one socket."""
        listener = bound.listener
        if isinstance(listener, TcpListener):
            return lambda: self.front.accept_from(listener, bound.settings)
        return lambda: self.agents.accept_from(listener, bound.settings)


class Usher(Protocol):
    """Whoever tells clients what they have lost; see Farewell."""

    def expel(self, links: Iterable[Link], code: Code, message: str) -> None:
        """Close connections, saying why."""

    def take_names(self, link: Link, names: Iterable[str], code: Code) -> None:
        """Tell a client unasked that it serves these names no more."""


def review(registry: Registry, farewell: Usher, admission: SettingsAdmission, now: float) -> None:
    """Take from every session what it would not be granted any more, and give it its limits.

    One that is left with nothing is closed, with the code of the refusal.
    """
    for session in {link.session: None for link in registry.links}:
        try:
            decision = admission.judge(session.fingerprint, sorted(session.granted))
        except Refused as refusal:
            _expel(registry, farewell, session, refusal)
            continue
        session.use.reconfigure(decision.limits, now)
        for code in set(decision.refused.values()):
            lost = {name for name, why in decision.refused.items() if why is code}
            _take_names(registry, farewell, session, lost, code)


def _expel(registry: Registry, farewell: Usher, session: Session, refusal: Refused) -> None:
    log.info("session ended", session=session.label, code=refusal.code.word)
    links = list(session.links)
    for link in links:
        registry.leave(link)
    farewell.expel(links, refusal.code, refusal.message)


def _take_names(
    registry: Registry, farewell: Usher, session: Session, names: set[str], code: Code
) -> None:
    log.info("names taken back", session=session.label, names=sorted(names))
    session.granted -= names
    for link in session.links:
        lost = sorted(names & link.serving.keys())
        for name in lost:
            registry.serve(link, name, NOTHING)
        farewell.take_names(link, lost, code)


def expected_names(settings: RelaySettings) -> set[str]:
    """Return the names that the settings grant to somebody: their visitors are worth holding."""
    names: set[str] = set()
    for grant in settings.clients.values():
        if grant.enabled:
            names.update(name for name in grant.names if not name.startswith("*."))
            for suffix in grant.suffixes:
                bits = settings.suffixes[suffix].id_bits
                names.update(f"{client_id(grant.fingerprint, each)}.{suffix}" for each in bits)
    return names
