"""What a worker asks the head about before it does it, and what it does as it is told."""

import asyncio
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count

from tunnel.errors import Code, ConnectionLost, Refused
from tunnel.log import get_log
from tunnel.protocol.direct import Prelude
from tunnel.protocol.hello import Arrival
from tunnel.protocol.registration import Claim
from tunnel.relay.admission import Decision
from tunnel.relay.arrivals import Guest
from tunnel.relay.challenges import Challenges
from tunnel.relay.direct import Unserved
from tunnel.relay.front import Fate
from tunnel.relay.registry import NOTHING, Claimant, Registry, ServeOutcome
from tunnel.relay.sessions import Kinds, Link, LinkState, Session
from tunnel.relay.workers.directory import Directory
from tunnel.relay.workers.parcels import HandedGuest, HandedSpare, Parcel, note_of
from tunnel.runtime.workers.channel import Channel, Message
from tunnel.runtime.workers.mailbox import drop
from tunnel.settings.values import GrantLimits
from tunnel.stream import Address
from tunnel.transport.options import Share

HEAD_TIMEOUT = 4.0  # seconds; less than a registration may take
NO_WORD = "the relay's head does not answer"
RETRY_INTERVAL = 5.0  # seconds after which it may

log = get_log(__name__)


@dataclass(frozen=True, slots=True)
class Enrolled(Decision):
    """A decision of the head, which knows the link by this number from now on."""

    number: int = 0


class HeadAdmission:
    """Asks the head who may serve what; an Admission."""

    def __init__(self, head: Channel) -> None:
        self._head = head
        self._numbers = count(1)

    async def decide(self, claim: Claim, peer: Address) -> Decision:
        number = next(self._numbers)
        try:
            answer = await self._head.ask(
                "enrol",
                HEAD_TIMEOUT,
                number=number,
                fingerprint=claim.fingerprint.hex(),
                instance=claim.instance.hex(),
                names=claim.names,
                features=sorted(claim.features),
                peer=peer,
            )
        except BaseException as error:
            self._head.tell("left", number=number)
            if isinstance(error, (ConnectionLost, TimeoutError)):
                raise Refused(Code.BUSY, NO_WORD, RETRY_INTERVAL) from error
            raise
        if "code" in answer:
            raise refusal_of(answer)
        refused = {name: Code[word.upper()] for name, word in answer["refused"].items()}
        return Enrolled(answer["granted"], refused, GrantLimits(**answer["limits"]), number)


def refusal_of(answer: Message) -> Refused:
    """Return the refusal that an answer says."""
    code = Code[answer["code"].upper()]
    return Refused(code, answer.get("message", ""), answer.get("retry_after"))


class WorkerRegistry(Registry):
    """Keeps what is served here; who may serve what, the head decides for all workers."""

    def __init__(
        self,
        head: Channel,
        share: Share,
        connections: int,
        expected: Iterable[str],
        challenges: Challenges,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(connections, expected, challenges, clock)
        self._head = head
        self._share = share
        self._numbers: dict[Link, int] = {}
        self._numbered: dict[int, Link] = {}

    def _new_token(self) -> bytes:
        """Return a token that says whose session it is, to whichever worker it comes."""
        return self._share.mark(super()._new_token())

    def join(self, claimant: Claimant, decision: Decision) -> Link:
        number = decision.number if isinstance(decision, Enrolled) else 0
        try:
            link = super().join(claimant, decision)
        except Refused:
            self._head.tell("left", number=number)
            raise
        self._numbers[link] = number
        self._numbered[number] = link
        return link

    def leave(self, link: Link) -> None:
        if link.state is not LinkState.GONE:
            number = self._numbers.pop(link)
            del self._numbered[number]
            self._head.tell("left", number=number)
        super().leave(link)

    async def agree(self, link: Link, name: str, kinds: Kinds, *, renewal: bool) -> ServeOutcome:
        """Ask the head, and do as it says; a client that gets no answer has to come again.

        Raises ConnectionLost.
        """
        if link.state is LinkState.GONE:
            return self.serve(link, name, kinds)
        try:
            answer = await self._head.ask(
                "serve",
                HEAD_TIMEOUT,
                number=self._numbers[link],
                name=name,
                visitors=kinds.visitors,
                challenge=kinds.challenge,
                renewal=renewal,
            )
        except TimeoutError:
            raise ConnectionLost(NO_WORD, Code.TIMEOUT) from None
        now = Kinds(answer["visitors"], answer["challenge"])
        code = Code[answer["code"].upper()] if "code" in answer else None
        self.settle(link, name, now)
        message = answer.get("message", "")
        return ServeOutcome(now, code, answer.get("retry_after"), message=message)

    def settle(self, link: Link, name: str, kinds: Kinds) -> None:
        """Serve what the head has agreed to."""
        if link.state in (LinkState.GONE, LinkState.SUPERSEDED):
            return
        if kinds.challenge:
            self._challenges.claim(link.session, name, renewal=False)
        self._apply(link, name, kinds)

    # -- as the head says

    @property
    def sessions(self) -> list[Session]:
        """Those that have a connection here."""
        return list(self._sessions.values())

    @property
    def numbers(self) -> Iterator[tuple[int, Link]]:
        """The links with the numbers by which the head knows them."""
        return iter(self._numbered.items())

    def numbered(self, number: int) -> Link | None:
        """Return the link of a number, None once it is gone."""
        return self._numbered.get(number)

    def session(self, fingerprint: bytes, instance: bytes) -> Session | None:
        """Return the part of a session that is here."""
        return self._sessions.get((fingerprint, instance))

    def stand_down(self, session: Session) -> None:
        """Let a session serve nothing any more: a newer one has taken over."""
        self._stand_down(session)

    def limit(self, fingerprint: bytes, limits: GrantLimits) -> None:
        """Have a client keep to other limits here."""
        use = self._uses.get(fingerprint)
        if use is not None:
            use.reconfigure(limits, self._clock())

    def give_up(self, link: Link, name: str) -> None:
        """Let no validations of the name come over the link any more."""
        kinds = link.serving.get(name, NOTHING)
        self._apply(link, name, Kinds(kinds.visitors, challenge=False))

    def wake(self, name: str) -> None:
        """Let visitors look again who wait for the name: it is served elsewhere."""
        self._waiting.wake(name)

    def suspect(self, link: Link) -> bool:
        was_in = super().suspect(link)
        if was_in:
            self.tell_state(link)
        return was_in

    def resume(self, link: Link) -> bool:
        was_out = super().resume(link)
        if was_out:
            self.tell_state(link)
        return was_out

    def tell_state(self, link: Link) -> None:
        """Tell the head whether new streams may go over a link."""
        self._head.tell("state", number=self._numbers[link], state=link.state.name)


class HandingOver:
    """Hands sockets to the workers that know more about them; an Elsewhere."""

    def __init__(
        self,
        share: Share,
        directory: Directory,
        slots: list[socket.socket],
        hold: Callable[[], float],
    ) -> None:
        self._share = share
        self._directory = directory
        self._slots = slots  # by number; the head's is the last
        self._hold = hold
        self._registry: Registry | None = None
        self.handed = 0

    def over(self, registry: Registry) -> "HandingOver":
        """Return itself, to look first at what is served here."""
        self._registry = registry
        return self

    def take(self, sock: socket.socket, guest: Guest, so_far: Unserved | None = None) -> Fate:
        name = guest.hello.required_name
        parcel = HandedGuest(guest, so_far)
        if guest.kind is Arrival.VALIDATION:
            if self._directory.is_own(name):
                return self._send(self._share.of, parcel, sock)
            return self._leave(name, parcel, sock, challenge=True) or Fate.STAYS
        fate = self._leave(name, parcel, sock)
        if fate is None:
            fate = Fate.AWAITED if self._known().is_expected(name) else Fate.STAYS
        return fate

    async def wait(self, sock: socket.socket, guest: Guest, so_far: Unserved | None) -> Fate:
        name = guest.hello.required_name
        parcel = HandedGuest(guest, so_far)
        try:
            async with asyncio.timeout(self._hold()):
                while (fate := self._leave(name, parcel, sock)) is None:
                    await self._known().served(name)
        except TimeoutError:
            return Fate.STAYED
        return fate

    def take_spare(self, sock: socket.socket, prelude: Prelude) -> bool:
        owner = prelude.session[0] % self._share.of
        if owner == self._share.index:
            return False
        return self._send(owner, HandedSpare(prelude), sock) is Fate.LEFT

    def _leave(
        self, name: str, parcel: Parcel, sock: socket.socket, *, challenge: bool = False
    ) -> Fate | None:
        """Hand over what is served elsewhere only; None where it is served nowhere."""
        if self._known().route(name, challenge=challenge) is not None:
            return Fate.STAYS
        without = (self._share.index,)  # what the head still says of us is older than what we know
        worker = self._directory.worker(name, challenge=challenge, without=without)
        return None if worker is None else self._send(worker, parcel, sock)

    def _send(self, worker: int, parcel: Parcel, sock: socket.socket) -> Fate:
        drop(self._slots[worker], note_of(parcel), sock)
        self.handed += 1
        return Fate.LEFT

    def _known(self) -> Registry:
        if self._registry is None:
            raise ConnectionLost("this process has no registry yet")
        return self._registry
