"""Spare direct connections, waiting for visitors: one pool for each session (docs/protocol.md §7).

A spare says nothing after its prelude: one that becomes readable while it waits is dead or hostile,
and is closed.
"""

import resource
import secrets
import socket
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from tunnel.errors import Code, Refused
from tunnel.log import get_log
from tunnel.protocol.direct import SPARES_LIMIT, Counters, Prelude, sealed_frame
from tunnel.protocol.fields import DirectOffer
from tunnel.relay.sessions import Session
from tunnel.transport.direct.keys import DirectKeys
from tunnel.transport.direct.options import tune_accepted_spare
from tunnel.transport.direct.poller import READABLE, Poller, poller

DESCRIPTOR_SHARE = 0.25  # of RLIMIT_NOFILE, for the spares of all sessions together

log = get_log(__name__)


@dataclass(slots=True, eq=False)
class Spare:
    """An idle connection whose prelude was accepted."""

    sock: socket.socket
    prelude: Prelude
    pool: "SparePool"

    def sealed(self, header: bytes) -> bytes:
        """Return what to send before a visitor's bytes: the stream header, for this spare only."""
        return sealed_frame(self.pool.keys.seal(self.prelude, header))


@dataclass(slots=True, eq=False)
class SparePool:
    """The spares of one session; the freshest is the least likely to have died unnoticed."""

    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    counters: Counters = field(default_factory=Counters)
    idle: list[Spare] = field(default_factory=list, repr=False)
    keys: DirectKeys = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.keys = DirectKeys(self.key)


class Spares:
    """All spares of a relay; `refused` counts those that were turned away, by reason."""

    def __init__(self) -> None:
        self._pools: dict[bytes, SparePool] = {}  # by the session's token
        self._poller: Poller | None = None
        self.total = 0  # idle ones
        self.accepted = 0
        self.died = 0  # while they waited
        self.refused: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Spares {self.total} of {len(self._pools)} sessions>"

    def offer(self, session: Session) -> DirectOffer:
        """Return what a client of the session needs to know; the same to each of its links."""
        pool = self._pools.get(session.token)
        if pool is None:
            pool = self._pools[session.token] = SparePool()
            session.on_end.add(lambda: self._end(session.token))
        return DirectOffer(pool.key, SPARES_LIMIT)

    def count(self, session: Session) -> int:
        """Return how many spares of a session wait."""
        pool = self._pools.get(session.token)
        return len(pool.idle) if pool is not None else 0

    def accept(self, sock: socket.socket, prelude: Prelude) -> None:
        """Keep a connection that has begun with this prelude.

        Raises Refused, and the socket is still the caller's then. Nothing is told to whoever is
        refused.
        """
        pool = self._pools.get(prelude.session)
        reason = self._objection(pool, prelude)
        if pool is None or reason is not None:
            self.refused[reason or ""] += 1
            raise Refused(Code.UNAUTHORIZED, f"spare refused: {reason}")
        tune_accepted_spare(sock)
        self._poller = self._poller or poller()
        spare = Spare(sock, prelude, pool)
        pool.idle.append(spare)
        self.total += 1
        self.accepted += 1
        if self._poller.watch(sock, partial(self._wake, spare)) and _is_readable(sock):
            self._wake(spare, READABLE)

    def take(self, session: Session) -> Spare | None:
        """Return the freshest spare of a session, which is the caller's now."""
        pool = self._pools.get(session.token)
        if pool is None or not pool.idle:
            return None
        self.total -= 1
        return pool.idle.pop()

    def distrust(self, silent: Spare) -> None:
        """Close the spares that have waited longer than one that was found to be dead.

        What has forgotten that one without a word, most likely a NAT, has forgotten them before.
        """
        pool = silent.pool
        older = [each for each in pool.idle if each.prelude.counter < silent.prelude.counter]
        for each in older:
            self._bury(each)

    def _objection(self, pool: SparePool | None, prelude: Prelude) -> str | None:
        """Return why a prelude is not accepted; a counter is only taken once it was proved."""
        if pool is None:
            return "unknown session"
        if not pool.keys.proves(prelude):
            return "forged"
        if not pool.counters.take(prelude.counter):
            return "replayed"
        if len(pool.idle) >= SPARES_LIMIT or self.total >= descriptors_for_spares():
            return "full"
        return None

    def _wake(self, spare: Spare, events: int) -> None:
        if events & READABLE:
            self._bury(spare)

    def _bury(self, spare: Spare) -> None:
        self.died += 1
        spare.pool.idle.remove(spare)
        self._close(spare)

    def _end(self, token: bytes) -> None:
        pool = self._pools.pop(token)
        while pool.idle:
            self._close(pool.idle.pop())

    def _close(self, spare: Spare) -> None:
        self.total -= 1
        poller().close(spare.sock)


def _is_readable(sock: socket.socket) -> bool:
    """Say whether a socket has bytes or an end to be read, of which there may be no event."""
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def descriptors_for_spares() -> int:
    """Return how many spares there may be at once: visitors need descriptors too."""
    return int(resource.getrlimit(resource.RLIMIT_NOFILE)[0] * DESCRIPTOR_SHARE)
