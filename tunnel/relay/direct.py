"""Visitors on spare direct connections: the way that is tried before a stream.

Where anything stands against it (no spare, no place, a byte rate to be kept) the visitor goes on by
an ordinary stream, as does one whose spares ended without an answer.
"""

import socket
from dataclasses import dataclass
from typing import Protocol

from tunnel.errors import Code
from tunnel.log import get_log
from tunnel.protocol.messages import StreamHeader, encode
from tunnel.relay.registry import Registry
from tunnel.relay.sessions import Link
from tunnel.relay.spares import Spare, Spares
from tunnel.settings.values import RelayTimeouts
from tunnel.transport.direct.joint import Terms
from tunnel.transport.direct.poller import Poller
from tunnel.transport.direct.trial import Outcome, Trial

ATTEMPTS = 2  # spares for one visitor; of REOPENINGS, the others are left for streams
SILENCE_TIMEOUT = 1.2  # seconds, from the kernel's first repetition: a slow path puts that off

log = get_log(__name__)


@dataclass(frozen=True, slots=True)
class Unserved:
    """A visitor that no spare has answered: all that it has said, and how often it was tried."""

    said: bytes
    attempts: int = 0
    may_wait: bool = True  # until somebody comes to serve its name


class Errand(Protocol):
    """Whoever has a visitor taken to its client: told once how that has ended."""

    def header(self) -> StreamHeader:
        """Return the header of one more attempt."""

    def served(self) -> None:
        """The visitor has gone, and its socket with it."""

    def unserved(self, visitor: Unserved) -> None:
        """The socket is the caller's again; this may come before `begin` has returned."""


class DirectRouting:
    """Takes visitors to the clients that serve their names, past all framing."""

    def __init__(self, timeouts: RelayTimeouts, registry: Registry, spares: Spares) -> None:
        self._timeouts = timeouts
        self._registry = registry
        self._spares = spares
        self.open = 0  # visitors who are on a spare now
        self.total = 0
        self.unanswered = 0  # spares that ended before they answered

    def __repr__(self) -> str:
        return f"<DirectRouting {self.open} visitors>"

    def reconfigure(self, timeouts: RelayTimeouts) -> None:
        """Keep to other deadlines wherever one begins from now on."""
        self._timeouts = timeouts

    @property
    def silence_timeout(self) -> float:
        """The seconds after which a spare is lost whose far end acknowledges nothing."""
        return min(SILENCE_TIMEOUT, self._timeouts.open_stream)

    def choose(self, name: str) -> tuple[Link, Spare] | None:
        """Return the spare to try next, None where a stream is the way."""
        link = self._registry.route(name)
        if link is None:
            return None
        use = link.session.use
        if use.bucket is not None or not use.has_place:  # a rate is kept by copying, and waiting
            return None
        spare = self._spares.take(link.session)
        return None if spare is None else (link, spare)

    def lost(self, spare: Spare, outcome: Outcome) -> None:
        """A spare has not answered: if it was silent, those that have waited longer are dead."""
        self.unanswered += 1
        if outcome is Outcome.SILENT:
            self._spares.distrust(spare)

    def terms(self, link: Link) -> Terms:
        """Return how long a visitor of this link may be still, and where its bytes are counted."""
        timeouts = self._timeouts
        return Terms(timeouts.linger, timeouts.idle_visitor, link.session.tally)


class Visit:
    """One visitor on its way to its client, by at most ATTEMPTS spares.

    `so_far` is what was read from the visitor and tried already. Nothing happens before `attempt`.
    """

    __slots__ = (
        "_attempts",
        "_errand",
        "_link",
        "_name",
        "_poller",
        "_routing",
        "_said",
        "_spare",
        "_trial",
        "_visitor",
    )

    def __init__(
        self,
        routing: DirectRouting,
        poller: Poller,
        visitor: socket.socket,
        so_far: Unserved,
        name: str,
        errand: Errand,
    ) -> None:
        self._routing = routing
        self._poller = poller
        self._visitor = visitor
        self._said = so_far.said
        self._name = name
        self._errand = errand
        self._attempts = so_far.attempts
        self._link: Link | None = None
        self._spare: Spare | None = None
        self._trial: Trial | None = None

    def __repr__(self) -> str:
        return f"<Visit to {self._name}, {self._attempts} spares lost>"

    def cut(self) -> None:
        """Reset both sockets."""
        if self._trial is not None:
            self._trial.cut(Code.ABORTED)

    def attempt(self) -> None:
        """Try one more spare, or give the visitor back."""
        chosen = self._routing.choose(self._name) if self._attempts < ATTEMPTS else None
        if chosen is None:
            self._errand.unserved(Unserved(self._said, self._attempts))
            return
        link, spare = chosen
        terms = self._routing.terms(link)
        trial = self._trial = Trial(self._poller, self._visitor, spare.sock, terms, self._settled)
        self._spare = spare
        self._enter(link, trial)
        try:
            sealed = spare.sealed(encode(self._errand.header()))
            trial.begin(sealed, self._said, self._routing.silence_timeout)
        except BaseException:
            trial.cut(Code.ABORTED)
            raise

    def _settled(self, outcome: Outcome) -> None:
        trial, spare = self._trial, self._spare
        if trial is None or spare is None or self._link is None:
            return
        self._leave(self._link, trial)
        if outcome not in (Outcome.LOST, Outcome.SILENT):
            self._errand.served()
            return
        self._routing.lost(spare, outcome)
        self._said, self._attempts = bytes(trial.said), self._attempts + 1
        label = self._link.session.label
        log.debug("spare ended without an answer", name=self._name, session=label)
        self.attempt()

    def _enter(self, link: Link, trial: Trial) -> None:
        """Count the attempt, and let whatever ends its session end it."""
        session = link.session
        self._link = link
        session.unanswered.add(trial.give_up)
        session.on_end.add(trial.end)
        link.streams += 1
        session.use.take_place()
        self._routing.open += 1
        self._routing.total += 1

    def _leave(self, link: Link, trial: Trial) -> None:
        session = link.session
        self._routing.open -= 1
        session.use.release_place()
        link.streams -= 1
        session.on_end.discard(trial.end)
        session.unanswered.discard(trial.give_up)
