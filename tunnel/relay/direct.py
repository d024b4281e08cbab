"""Visitors on spare direct connections: the way that is tried before a stream.

Where anything stands against it (no spare, no place, a byte rate to be kept) the visitor goes on by
an ordinary stream, as does one whose spares ended without an answer.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tunnel.errors import Code
from tunnel.log import get_log
from tunnel.protocol.messages import StreamHeader, encode
from tunnel.relay.registry import Registry
from tunnel.relay.sessions import Link
from tunnel.relay.spares import Spare, Spares
from tunnel.settings.values import RelayTimeouts
from tunnel.transport.direct.joint import Terms
from tunnel.transport.direct.poller import poller
from tunnel.transport.direct.trial import Outcome, Trial
from tunnel.transport.tcp import tune

ATTEMPTS = 2  # spares for one visitor; of REOPENINGS, the others are left for streams

log = get_log(__name__)


@dataclass(frozen=True, slots=True)
class Unserved:
    """A visitor that no spare has answered: all that it has said, and how often it was tried."""

    said: bytes
    attempts: int = 0


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

    async def forward(
        self, visitor: socket.socket, hello: bytes, name: str, header: Callable[[], StreamHeader]
    ) -> Unserved | None:
        """Take the visitor to its client; return None once it has gone.

        Otherwise the socket is still the caller's. `hello` was read from it already; `header` makes
        the header of one attempt.
        """
        said = hello
        for attempt in range(ATTEMPTS):
            chosen = self._choose(name)
            if chosen is None:
                return Unserved(said, attempt)
            link, spare = chosen
            trial = Trial(poller(), visitor, spare.sock, self._terms(link))
            with self._under_way(link, trial):
                if not attempt:
                    tune(visitor)
                sealed = spare.sealed(encode(header()))
                trial.begin(sealed, said, self._timeouts.open_stream)
                outcome = await trial.settled
            if outcome is not Outcome.LOST:
                return None
            self.unanswered += 1
            said = bytes(trial.said)
            log.debug("spare ended without an answer", name=name, session=link.session.label)
        return Unserved(said, ATTEMPTS)

    def _choose(self, name: str) -> tuple[Link, Spare] | None:
        """Return the spare to try next, None where a stream is the way."""
        link = self._registry.route(name)
        if link is None:
            return None
        use = link.session.use
        if use.bucket is not None or not use.has_place:  # a rate is kept by copying, and waiting
            return None
        spare = self._spares.take(link.session)
        return None if spare is None else (link, spare)

    def _terms(self, link: Link) -> Terms:
        timeouts = self._timeouts
        return Terms(timeouts.linger, timeouts.idle_visitor, link.session.tally)

    @contextmanager
    def _under_way(self, link: Link, trial: Trial) -> Iterator[None]:
        """Count the attempt, and let whatever ends its session end it."""
        session = link.session

        def end() -> None:
            trial.cut_unfinished(Code.ABORTED)

        session.unanswered.add(trial.give_up)
        session.on_end.add(end)
        link.streams += 1
        self.open += 1
        self.total += 1
        try:
            with session.use.held_place():
                yield
        finally:
            trial.cut(Code.ABORTED)
            self.open -= 1
            link.streams -= 1
            session.on_end.discard(end)
            session.unanswered.discard(trial.give_up)
