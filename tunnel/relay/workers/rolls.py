"""The head's registry: what all workers have asked it to keep, and what it has told them of it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Protocol, cast

from tunnel.errors import Code, Refused
from tunnel.log import get_log
from tunnel.protocol.registration import VERSIONS, Claim
from tunnel.relay.admission import SettingsAdmission
from tunnel.relay.agents import REPLICA
from tunnel.relay.registry import Claimant, Registry
from tunnel.relay.sessions import Kinds, Link, LinkState, RelayChannel, Session
from tunnel.relay.workers.shares import share_of_client
from tunnel.runtime.workers.channel import Message
from tunnel.stream import Address, Binding, Connection

Members = dict[str, Any]
Entry = tuple[list[int], int | None]  # the workers that serve visitors; the one that validates

log = get_log(__name__)


UNSEEN = Binding("", b"")  # until its worker has said more of it


class Tell(Protocol):
    """Sends a message to a worker."""

    def __call__(self, worker: int, kind: str, /, **members: object) -> None: ...


@dataclass(slots=True, eq=False)
class FarConnection:
    """A connection of some worker's, as far as the head knows it."""

    worker: int
    number: int
    peer: Address
    binding: Binding = UNSEEN


@dataclass(slots=True, eq=False)
class FarChannel:
    """Its control stream."""

    round_trip: float | None = None


class HeadRegistry(Registry):
    """Knows who serves what in all workers; `changed` are names about which there is news."""

    changed: set[str]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.changed = set()

    def _settle(self, session: Session, name: str) -> None:
        super()._settle(session, name)
        self.changed.add(name)

    def set_state(self, link: Link, state: LinkState) -> None:
        """Note what a worker says of a link; what is superseded or gone stays so."""
        if link.state not in (LinkState.SUPERSEDED, LinkState.GONE):
            link.state = state
            self.changed.update(link.serving)


class Rolls:
    """Answers what workers ask, at once, and tells all of them what follows."""

    def __init__(
        self,
        registry: HeadRegistry,
        admission: SettingsAdmission,
        workers: int,
        tell: Tell,
    ) -> None:
        self.registry = registry
        self.admission = admission
        self._workers = range(workers)
        self._tell = tell
        self._links: dict[tuple[int, int], Link] = {}
        self._by_key: dict[bytes, set[Link]] = {}
        self._published: dict[str, Entry] = {}

    def __repr__(self) -> str:
        return f"<Rolls of {len(self._links)} connections>"

    # -- what workers ask

    def enrol(self, worker: int, message: Message) -> Members:
        """Admit a connection, or return why not."""
        fingerprint, instance = (bytes.fromhex(message[k]) for k in ("fingerprint", "instance"))
        peer, features = Address(*message["peer"]), frozenset(message["features"])
        names = tuple(message["names"])
        claim = Claim(fingerprint, b"", instance, names, "", None, VERSIONS[0], features)
        connection = FarConnection(worker, message["number"], peer)
        try:
            decision = self.admission.settle(claim, peer)
            claimant = Claimant(
                fingerprint,
                instance,
                REPLICA in features,
                cast(Connection, connection),  # only looked at
                cast(RelayChannel, FarChannel()),  # as well
            )
            link = self.registry.join(claimant, decision)
        except Refused as refusal:
            return _refusal(refusal)
        self._links[worker, connection.number] = link
        self._by_key.setdefault(fingerprint, set()).add(link)
        limits = self._share_out(fingerprint)
        refused = {name: code.word for name, code in decision.refused.items()}
        return {"granted": dict(decision.granted), "refused": refused, "limits": limits}

    def serve(self, worker: int, message: Message) -> Members:
        """Decide who serves a name from now on; workers that lose it hear so first."""
        link, name = self._links.get((worker, message["number"])), message["name"]
        if link is None:
            return {"visitors": False, "challenge": False, "code": Code.NOT_SERVING.word}
        wanted = Kinds(message["visitors"], message["challenge"])
        outcome = self.registry.serve(link, name, wanted, renewal=message["renewal"])
        for loser in outcome.superseded:
            log.info("took over", name=name, superseded=loser.label, session=link.session.label)
            key = {"fingerprint": loser.fingerprint.hex(), "instance": loser.instance.hex()}
            for each in _workers_of(loser.links):
                self._tell(each, "supersede", **key)
        for other in outcome.given_up:
            log.info("validation given up", name=name, session=other.session.label)
            far = _far(other)
            self._tell(far.worker, "give_up", number=far.number, name=name)
        self.publish()
        now = {"visitors": outcome.kinds.visitors, "challenge": outcome.kinds.challenge}
        if outcome.code is None:
            return now
        return now | _refusal(Refused(outcome.code, outcome.message, outcome.retry_after))

    # -- what workers tell

    def left(self, worker: int, message: Message) -> None:
        """Forget a connection, if it is known."""
        link = self._links.pop((worker, message["number"]), None)
        if link is not None:
            self._forget(link)

    def note_state(self, worker: int, message: Message) -> None:
        """Note whether new streams may go over a link."""
        link = self._links.get((worker, message["number"]))
        if link is not None:
            self.registry.set_state(link, LinkState[message["state"]])
            self.publish()

    def lose(self, worker: int) -> None:
        """Forget every connection of a worker that has ended."""
        for key in [key for key in self._links if key[0] == worker]:
            self._forget(self._links.pop(key))

    def numbered(self, worker: int, number: int) -> Link | None:
        """Return a link by the number that its worker has given it."""
        return self._links.get((worker, number))

    # -- what the head tells

    @property
    def entries(self) -> dict[str, Entry]:
        """All that has been published."""
        return self._published

    def publish(self) -> None:
        """Tell all workers what has changed of who serves what."""
        news: dict[str, Entry] = {}
        for name in self.registry.changed:
            entry = self._entry(name)
            if entry != self._published.get(name, ([], None)):
                news[name] = entry
        self.registry.changed.clear()
        for name, entry in news.items():
            if entry == ([], None):
                del self._published[name]
            else:
                self._published[name] = entry
        if news:
            self._tell_all("names", names=news)

    def share_out_all(self) -> None:
        """Tell workers the limits of all clients, as far as they are others now."""
        for fingerprint in self._by_key:
            self._share_out(fingerprint)

    # An Usher (tunnel.relay.reload): the workers tell their clients.

    def expel(self, links: Iterable[Link], code: Code, message: str) -> None:
        """Have connections closed, which the registry has forgotten already."""
        for link in links:
            far = _far(link)
            self._links.pop((far.worker, far.number), None)
            self._drop(link)
            self._tell(far.worker, "expel", number=far.number, code=code.word, message=message)

    def take_names(self, link: Link, names: Iterable[str], code: Code) -> None:
        """Have a client told that it serves these names no more."""
        far = _far(link)
        self._tell(far.worker, "take", number=far.number, names=list(names), code=code.word)

    def _entry(self, name: str) -> Entry:
        links = [link for holder in self.registry.holders(name) for link in holder.links]
        serving = [link for link in links if link.serves(name, challenge=False)]
        validating = self.registry.route(name, challenge=True)
        validator = None if validating is None else _far(validating).worker
        return sorted(_workers_of(serving)), validator

    def _forget(self, link: Link) -> None:
        self.registry.leave(link)
        self._drop(link)
        self._share_out(link.session.fingerprint)
        self.publish()

    def _drop(self, link: Link) -> None:
        fingerprint = link.session.fingerprint
        self._by_key[fingerprint].discard(link)
        if not self._by_key[fingerprint]:
            del self._by_key[fingerprint]

    def _share_out(self, fingerprint: bytes) -> Members:
        """Tell each worker that a client is connected to its part of the limits; return it."""
        links = self._by_key.get(fingerprint)
        if not links:
            return {}
        workers = _workers_of(links)
        use = next(iter(links)).session.use
        limits = asdict(share_of_client(use.limits, len(workers)))
        for worker in workers:
            self._tell(worker, "limits", fingerprint=fingerprint.hex(), limits=limits)
        return limits

    def _tell_all(self, kind: str, **members: object) -> None:
        for worker in self._workers:
            self._tell(worker, kind, **members)


def _refusal(refusal: Refused) -> Members:
    members: Members = {"code": refusal.code.word, "message": refusal.message}
    if refusal.retry_after is not None:
        members["retry_after"] = refusal.retry_after
    return members


def _far(link: Link) -> FarConnection:
    return cast(FarConnection, link.connection)  # the head has no others


def _workers_of(links: Iterable[Link]) -> set[int]:
    return {_far(link).worker for link in links}
