"""Who serves which name: the only owner of that state. What it decides, it decides at once."""

import secrets
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace

from tunnel.errors import Code, Refused
from tunnel.protocol.backoff import DISPLACED_INTERVAL
from tunnel.relay.admission import Decision
from tunnel.relay.challenges import Challenges
from tunnel.relay.expected import ExpectedNames
from tunnel.relay.limits import ClientUse, client_bucket
from tunnel.relay.sessions import Kinds, Link, LinkState, RelayChannel, Session
from tunnel.relay.waiting import Waiting
from tunnel.stream import Connection, Tally

PREDECESSORS_KEPT = 64  # superseded instances of one key that may not return
FULL_RETRY_INTERVAL = 30.0  # seconds after which somebody may have made room


@dataclass(frozen=True, slots=True)
class Claimant:
    """A connection whose registration has proved whose it is."""

    fingerprint: bytes
    instance: bytes
    is_replica: bool
    connection: Connection
    channel: RelayChannel


@dataclass(frozen=True, slots=True)
class ServeOutcome:
    """The answer to `serve`, and who lost the name by it."""

    kinds: Kinds
    code: Code | None = None
    retry_after: float | None = None
    superseded: tuple[Session, ...] = ()
    given_up: tuple[Link, ...] = ()  # those that no longer get the name's validations
    message: str = ""  # the code's reason, for people


NOTHING = Kinds(visitors=False, challenge=False)
# Links that never serve again, though their clients may not have heard of it yet.
_OVER = {LinkState.SUPERSEDED: Code.SUPERSEDED, LinkState.GONE: Code.NOT_SERVING}


class Registry:
    """Names, sessions and what every key uses."""

    def __init__(
        self,
        connections: int,
        expected: Iterable[str],
        challenges: Challenges,
        clock: Callable[[], float],
    ) -> None:
        self.connections_max = connections
        self.connections = 0  # registered ones, of all sessions
        self.tally = Tally()  # of all visitors' bytes, also of sessions that are gone
        self.expected = ExpectedNames(expected, clock)
        self._clock = clock
        self._sessions: dict[tuple[bytes, bytes], Session] = {}
        self._uses: dict[bytes, ClientUse] = {}
        self._holders: dict[str, list[Session]] = {}  # name → sessions serving its visitors
        self._challenges = challenges
        self._successors: dict[tuple[bytes, bytes], Session] = {}
        self._waiting = Waiting()

    @property
    def links(self) -> list[Link]:
        """Every link there is, of all sessions."""
        return [link for session in self._sessions.values() for link in session.links]

    # -- joining and leaving

    def join(self, claimant: Claimant, decision: Decision) -> Link:
        """Make the connection a link of its session; raises Refused(NAME_TAKEN | BUSY)."""
        key = (claimant.fingerprint, claimant.instance)
        if key in self._successors:
            message = "a newer instance of this key is serving"
            raise Refused(Code.NAME_TAKEN, message, DISPLACED_INTERVAL)
        use = self._uses.get(claimant.fingerprint)
        if use is None:
            limits = decision.limits
            use = ClientUse(limits, bucket=client_bucket(limits, self._clock()))
        _check_caps(use, self.connections, self.connections_max)
        session = self._sessions.get(key)
        if session is None:
            token = self._new_token()
            tally = Tally(self.tally)
            session = Session(token, *key, use, tally, is_replica=claimant.is_replica)
            self._sessions[key] = session
        self._uses[claimant.fingerprint] = use
        use.connections += 1
        self.connections += 1
        session.granted = frozenset(decision.granted)
        link = Link(claimant.connection, claimant.channel, session, since=self._clock())
        session.links.append(link)
        return link

    def _new_token(self) -> bytes:
        return secrets.token_bytes(16)

    def leave(self, link: Link) -> None:
        """Forget the link, and its session with the last one; a second call does nothing."""
        if link.state is LinkState.GONE:
            return
        link.state = LinkState.GONE
        session = link.session
        names = list(link.serving)
        link.serving.clear()
        session.links.remove(link)
        for name in names:
            self._settle(session, name)
        self._release(session.use, session.fingerprint)
        if not session.links:
            del self._sessions[session.fingerprint, session.instance]
            for instance in session.predecessors:
                del self._successors[session.fingerprint, instance]
            for end in tuple(session.on_end):
                end()

    def _release(self, use: ClientUse, fingerprint: bytes) -> None:
        use.connections -= 1
        self.connections -= 1
        if not use.connections:
            del self._uses[fingerprint]

    # -- serving

    async def agree(self, link: Link, name: str, kinds: Kinds, *, renewal: bool) -> ServeOutcome:
        """As `serve`; where another process has a say, it is asked first."""
        return self.serve(link, name, kinds, renewal=renewal)

    def serve(self, link: Link, name: str, kinds: Kinds, *, renewal: bool = False) -> ServeOutcome:
        """Apply a `serve` of the link; returns what is in force for it from now on.

        Visitors do not depend on validations: where only these are refused, those are served.
        """
        session = link.session
        if link.state in _OVER:
            return ServeOutcome(NOTHING, _OVER[link.state])
        code = self._objection(session, name) if kinds != NOTHING else None
        if code is not None:
            return ServeOutcome(link.serving.get(name, NOTHING), code)
        try:
            superseded = self._take_over(session, name) if kinds.visitors else ()
        except Refused as refusal:
            return _refused(link.serving.get(name, NOTHING), refusal)
        try:
            asks = kinds.challenge
            given_up = self._claim_challenge(link, name, renewal=renewal) if asks else ()
        except Refused as refusal:
            kinds = replace(kinds, challenge=False)
            self._apply(link, name, kinds)
            return _refused(kinds, refusal, superseded)
        self._apply(link, name, kinds)
        return ServeOutcome(kinds, None, None, superseded, given_up)

    def _objection(self, session: Session, name: str) -> Code | None:
        if name not in session.granted:
            return Code.NAME_REFUSED
        holders = self._holders.get(name, ())
        if any(holder.fingerprint != session.fingerprint for holder in holders):
            return Code.NAME_TAKEN
        return None

    def _claim_challenge(self, link: Link, name: str, *, renewal: bool) -> tuple[Link, ...]:
        """Let validations of the name come over the link; return the links that get none now.

        Raises Refused.
        """
        if link.state is LinkState.DRAINING:  # nothing would come over it any more
            raise Refused(Code.DRAINING)
        loser = self._challenges.claim(link.session, name, renewal=renewal)
        if loser is None:
            return ()
        links = tuple(each for each in loser.links if name in each.serving)
        given_up = tuple(each for each in links if each.serving[name].challenge)
        for each in given_up:
            self._apply(each, name, replace(each.serving[name], challenge=False))
        return given_up

    def _apply(self, link: Link, name: str, kinds: Kinds) -> None:
        if kinds == NOTHING:
            link.serving.pop(name, None)
        else:
            link.serving[name] = kinds
        self._settle(link.session, name)

    def _take_over(self, session: Session, name: str) -> tuple[Session, ...]:
        """Return the sessions that `session` has superseded by serving the name; raises Refused."""
        losers = tuple(
            holder
            for holder in self._holders.get(name, ())
            if holder is not session and not (holder.is_replica and session.is_replica)
        )
        self._challenges.put_off(losers)
        for loser in losers:
            self._supersede(loser, session)
        return losers

    def _supersede(self, loser: Session, successor: Session) -> None:
        self._inherit(loser, successor)
        self._stand_down(loser)

    def _stand_down(self, loser: Session) -> None:
        """Let the session serve nothing any more."""
        for link in loser.links:
            link.state = LinkState.SUPERSEDED
            names = list(link.serving)
            link.serving.clear()
            for name in names:
                self._settle(loser, name)

    def _inherit(self, loser: Session, successor: Session) -> None:
        """Let neither the loser nor those before it return while the successor lives."""
        successor.predecessors += [*loser.predecessors, loser.instance]
        loser.predecessors.clear()
        for instance in successor.predecessors[:-PREDECESSORS_KEPT]:
            del self._successors[successor.fingerprint, instance]
        del successor.predecessors[:-PREDECESSORS_KEPT]
        for instance in successor.predecessors:
            self._successors[successor.fingerprint, instance] = successor

    def _settle(self, session: Session, name: str) -> None:
        """Bring the tables by name in line with what the session's links serve."""
        holders = self._holders.setdefault(name, [])
        serves = session.serves(name)
        if serves and session not in holders:
            holders.append(session)
        elif not serves and session in holders:
            holders.remove(session)
            self.expected.note(name)
        if not holders:
            del self._holders[name]
        if not session.validates(name):
            self._challenges.release(session, name)
        if serves:
            self._waiting.wake(name)

    # -- routing

    def holders(self, name: str) -> tuple[Session, ...]:
        """Return the sessions that serve visitors of the name, over links of any state."""
        return tuple(self._holders.get(name, ()))

    def validator(self, name: str) -> Session | None:
        """Return the session that validations of the name go to, if there is one."""
        return self._challenges.holder(name)

    def route(
        self, name: str, *, challenge: bool = False, without: Container[Link] = ()
    ) -> Link | None:
        """Return the link that the next stream for `name` goes over, if there is one now.

        That is the serving one with the fewest open streams, none of those in `without`.
        """
        if challenge:
            holder = self._challenges.holder(name)
            holders = [holder] if holder is not None else []
        else:
            holders = self._holders.get(name, [])
        chosen: Link | None = None
        for holder in holders:
            for link in holder.links:
                if chosen is not None and link.streams >= chosen.streams:
                    continue
                if link.serves(name, challenge=challenge) and link not in without:
                    chosen = link
        return chosen

    def is_expected(self, name: str) -> bool:
        """Say whether a visitor of this name, not served now, is worth holding for a moment."""
        return name in self._holders or name in self.expected

    async def served(self, name: str) -> None:
        """Wait until some link begins or resumes to serve the name. Cancel-safe."""
        await self._waiting.woken(name)

    def suspect(self, link: Link) -> bool:
        """Take a link out of rotation until `resume`; say whether it was in."""
        if link.state is not LinkState.READY:
            return False
        link.state = LinkState.SUSPECT
        return True

    def resume(self, link: Link) -> bool:
        """Put a suspect link back into rotation; say whether it was one."""
        if link.state is not LinkState.SUSPECT:
            return False
        link.state = LinkState.READY
        for name in link.serving:
            self._waiting.wake(name)
        return True


def _check_caps(use: ClientUse, connections: int, connections_max: int) -> None:
    """Raise Refused(BUSY) if the relay or the client may not have one connection more."""
    if connections >= connections_max:
        message = "the relay has no room for more connections"
        raise Refused(Code.BUSY, message, FULL_RETRY_INTERVAL)
    if use.connections >= use.limits.connections:
        message = f"{use.connections} connections with this key already"
        raise Refused(Code.BUSY, message, FULL_RETRY_INTERVAL)


def _refused(kinds: Kinds, refusal: Refused, superseded: tuple[Session, ...] = ()) -> ServeOutcome:
    code, retry_after = refusal.code, refusal.retry_after
    return ServeOutcome(kinds, code, retry_after, superseded, message=refusal.message)
