"""Spare direct connections of one session to its relay, opened ahead of visitors.

docs/protocol.md §7. No task waits for any of them: a spare is a socket of the poller until the
relay sends a stream header on it.
"""

import asyncio
import errno
import os
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass

from tunnel.client.events import DirectState
from tunnel.client.spare_plan import LossGauge, SparePlan
from tunnel.errors import ConnectionLost, RemoteProtocolError
from tunnel.log import get_log
from tunnel.protocol.backoff import Backoff
from tunnel.protocol.direct import Prelude, split_sealed
from tunnel.protocol.fields import DirectOffer
from tunnel.protocol.messages import StreamHeader, decode_header
from tunnel.stream import Address
from tunnel.transport.direct.keys import DirectKeys
from tunnel.transport.direct.options import ask_for_bbr, segments_of, tune_spare
from tunnel.transport.direct.poller import ENDING, READABLE, WRITABLE, Poller, poller
from tunnel.transport.direct.stream import DirectStream
from tunnel.transport.tcp import reason_of

OFF, AUTO, ON = "off", "auto", "on"
BY_OPERATOR = "set by the operator"
TCP_SYNCNT = getattr(socket, "TCP_SYNCNT", 7)
CONNECT_PROBES = 2  # SYNs after the first: 7 seconds for a relay that says nothing
TEND_INTERVAL = 15.0  # seconds
TICK = 0.002  # that a timer may be early
READ_BYTES = 16 * 1024

Arrived = Callable[[DirectStream, StreamHeader], None]

log = get_log(__name__)


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a welcome has offered: for which session, where, and with what."""

    session: bytes
    address: Address
    offer: DirectOffer


class Spare:
    """One connection, from its SYN to the header of its visitor."""

    __slots__ = ("_has_spoken", "_owner", "_received", "opened_at", "prelude", "sock")

    def __init__(self, owner: "Spares", prelude: Prelude, opened_at: float) -> None:
        self._owner = owner
        self._has_spoken = False
        self._received = b""
        self.prelude = prelude
        self.opened_at = opened_at
        self.sock = socket.socket()

    def open(self, address: Address) -> bool:
        """Begin to connect; return whether TCP has BBR here. Raises OSError."""
        if ":" in address.host:
            self.sock.close()
            self.sock = socket.socket(socket.AF_INET6)
        self.sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self.sock.setsockopt(socket.IPPROTO_TCP, TCP_SYNCNT, CONNECT_PROBES)
        tune_spare(self.sock)
        has_bbr = ask_for_bbr(self.sock)
        number = self.sock.connect_ex((address.host, address.port))
        if number not in (0, errno.EINPROGRESS):
            raise OSError(number, os.strerror(number))
        self._owner.poller.watch(self.sock, self.wake)
        return has_bbr

    def wake(self, events: int) -> None:
        """Say the prelude once connected, then wait for a header."""
        try:
            if not self._has_spoken and events & WRITABLE and not events & ENDING:
                self._has_spoken = True
                self.sock.send(bytes(self.prelude))
            if events & READABLE:
                self._receive()
        except BlockingIOError:
            pass
        except (OSError, ConnectionLost, RemoteProtocolError) as error:
            self._owner.failed(self, error)

    def _receive(self) -> None:
        """Read until the header is whole or there is no more: an end after it has no other event.

        Raises BlockingIOError while more is to come.
        """
        split = None
        while split is None:
            received = self.sock.recv(READ_BYTES)
            if not received:
                raise ConnectionLost("closed by the relay")
            self._received += received
            split = split_sealed(self._received)
        self._owner.arrived(self, *split)


class _Series:
    """The preludes of one session: no counter is ever used twice, or a nonce would be."""

    __slots__ = ("_counter", "keys", "session")

    def __init__(self, session: bytes, key: bytes) -> None:
        self.session = session
        self.keys = DirectKeys(key)
        self._counter = 0

    def next_prelude(self) -> Prelude:
        self._counter += 1
        return self.keys.prelude(self.session, self._counter)


@dataclass(slots=True)
class _Course:
    """What has come of the spares so far."""

    backoff: Backoff
    gauge: LossGauge
    has_bbr: bool = False
    last_error: str = ""
    retry_at: float = 0.0
    visitors: int = 0
    refused: int = 0

    def is_waiting(self, now: float) -> bool:
        """Say whether it is too early to try again; a timer may be early by a tick of the loop."""
        return now + TICK < self.retry_at

    def is_lossy(self, now: float) -> bool:
        """Say whether TCP would do worse here than a transport of our own."""
        return not self.has_bbr and self.gauge.is_lossy(now)


class Spares:
    """The spares of one session; `arrived` is told of every visitor on one of them.

    `mode` is auto, on or off. Nothing is opened before `follow` has an invitation.
    """

    def __init__(self, mode: str, arrived: Arrived) -> None:
        self._poller: Poller | None = None
        self._mode = mode
        self._arrived = arrived
        self._invitation: Invitation | None = None
        self._series: _Series | None = None
        self._waiting: dict[Spare, None] = {}  # the oldest first
        self._plan = SparePlan(0)
        self._course = _Course(Backoff(random.random), LossGauge())
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Spares {self._mode} {len(self._waiting)} waiting {self._plan!r}>"

    @property
    def poller(self) -> Poller:
        """The poller of the loop that was running when it was first asked for."""
        self._poller = self._poller or poller()
        return self._poller

    def state(self, uninvited: str) -> DirectState:
        """Return how it stands; `uninvited` is the reason where there is no invitation."""
        course, waiting = self._course, len(self._waiting)
        why_not = self._obstacle(uninvited)
        if not why_not and not waiting and course.last_error:
            why_not = f"cannot be opened: {course.last_error}"
        if why_not:
            return DirectState("off", why_not, waiting, course.visitors, course.refused)
        why = "TCP has BBR" if course.has_bbr else "the path loses little"
        reason = BY_OPERATOR if self._mode == ON else why
        return DirectState("on", reason, waiting, course.visitors, course.refused)

    def follow(self, invitation: Invitation | None, mode: str) -> None:
        """Keep spares for this session from now on, or none."""
        if (invitation, mode) == (self._invitation, self._mode):
            return
        self._mode, self._invitation = mode, invitation
        session = self._series.session if self._series is not None else None
        if invitation is not None and invitation.session != session:
            self._close(len(self._waiting))
            self._series = _Series(invitation.session, invitation.offer.key)
            self._plan = SparePlan(invitation.offer.spare)
            self._course.retry_at = 0.0
        self._tend()

    # -- what spares report

    def arrived(self, spare: Spare, sealed: bytes, first: bytes) -> None:
        """A visitor is on a spare; raises RemoteProtocolError for a header that is not for it."""
        if self._series is None:
            raise RemoteProtocolError("a header that nobody waits for")
        header = decode_header(self._series.keys.open(spare.prelude, sealed))
        del self._waiting[spare]
        course = self._course
        course.visitors += 1
        course.last_error, course.backoff.failures = "", 0
        self._plan.taken(self._now)
        self._arrived(DirectStream(spare.sock, first, self._judge), header)
        self._refill()

    def failed(self, spare: Spare, error: Exception) -> None:
        """A spare has died before anybody came, or could not be opened at all."""
        self._waiting.pop(spare, None)
        self.poller.close(spare.sock)
        course, now = self._course, self._now
        course.refused += isinstance(error, RemoteProtocolError)
        course.last_error = reason_of(error) if isinstance(error, OSError) else str(error)
        log.debug("spare lost", cause=course.last_error, waiting=len(self._waiting))
        if not course.is_waiting(now):  # those that die together are one failure
            course.retry_at = now + course.backoff.next_delay(healthy_for=now - spare.opened_at)
            self._look_again(course.retry_at)

    # -- keeping

    def _tend(self) -> None:
        """Open what is missing, close what is too much, and look again later."""
        now = self._now
        if self._obstacle("uninvited"):
            self._close(len(self._waiting))
        else:
            self._plan.rest(now)
            self._close(self._plan.surplus(len(self._waiting)))
            self._refill()
        is_wanted = self._invitation is not None and self._mode != OFF
        is_waiting = self._course.is_waiting(now)
        at = self._course.retry_at if is_waiting else now + TEND_INTERVAL
        self._look_again(at if is_wanted else None)

    def _look_again(self, at: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if at is None else self.poller.loop.call_at(at, self._tend)

    def _refill(self) -> None:
        invitation, series, course = self._invitation, self._series, self._course
        now = self._now
        if invitation is None or series is None or self._obstacle("") or course.is_waiting(now):
            return
        for _ in range(self._plan.missing(len(self._waiting))):
            spare = Spare(self, series.next_prelude(), now)
            self._waiting[spare] = None
            try:
                course.has_bbr = spare.open(invitation.address)
            except OSError as error:
                self.failed(spare, error)
                return

    def _close(self, count: int) -> None:
        """Close some, the oldest first."""
        for spare in list(self._waiting)[:count]:
            del self._waiting[spare]
            self.poller.close(spare.sock)

    def _judge(self, sock: socket.socket) -> None:
        """Learn from a connection that is about to be closed what the path has lost."""
        if not self._course.has_bbr:
            self._course.gauge.note(*segments_of(sock), self._now)

    def _obstacle(self, uninvited: str) -> str:
        """Return why there are to be no spares, an empty string where there are."""
        if self._mode == OFF:
            return BY_OPERATOR
        if self._invitation is None:
            return uninvited
        if self._mode == AUTO and self._course.is_lossy(self._now):
            return f"the path loses {self._course.gauge.share:.2%} of what TCP sends"
        return ""

    @property
    def _now(self) -> float:
        return self.poller.loop.time()
