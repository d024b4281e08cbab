"""A socket on its way to a target that is yet to be connected to, without a task."""

import asyncio
import errno
import os
import socket
from typing import NamedTuple, Protocol

from tunnel.errors import Code, DialFailed
from tunnel.transport.direct.joint import Joint, Terms
from tunnel.transport.direct.poller import FAILED, WRITABLE, Poller
from tunnel.transport.tcp import reason_of, reset, tune_for


class Place(NamedTuple):
    """Where a target is, with nothing left to look up: a family, and what connect(2) takes."""

    family: socket.AddressFamily
    name: tuple[str, int] | str

    def __str__(self) -> str:
        return self.name if isinstance(self.name, str) else f"{self.name[0]} port {self.name[1]}"


class Traveller(Protocol):
    """Whoever crosses: told one of these once, when both sockets are closed."""

    def unreached(self, failure: DialFailed) -> None:
        """The target is not to be had."""

    def ended(self, code: Code) -> None:
        """It is over: OK after a clean end of both ways."""


class Crossing:
    """Connects, then joins the two sockets, which it owns from `begin` on."""

    __slots__ = ("_far", "_joint", "_near", "_poller", "_preface", "_terms", "_timer", "_traveller")

    def __init__(
        self, poller: Poller, near: socket.socket, terms: Terms, traveller: Traveller
    ) -> None:
        self._poller = poller
        self._near = near
        self._far: socket.socket | None = None
        self._terms = terms
        self._traveller: Traveller | None = traveller
        self._preface = b""
        self._timer: asyncio.TimerHandle | None = None
        self._joint: Joint | None = None

    def __repr__(self) -> str:
        return f"<Crossing {self._joint or 'under way'}>"

    def begin(self, place: Place, preface: bytes, timeout: float) -> None:
        """Connect within `timeout` seconds; `preface` is what the target gets before all else."""
        self._preface = preface
        self._poller.watch(self._near, self._wake_near)
        try:
            far = self._far = socket.socket(place.family)
            far.setblocking(False)  # noqa: FBT003 - the standard library's signature
            if not isinstance(place.name, str):
                tune_for(place.name[0], far)
            number = far.connect_ex(place.name)
        except OSError as error:
            self._fail(place, error)
            return
        if number not in (0, errno.EINPROGRESS):
            self._fail(place, OSError(number, os.strerror(number)))
            return
        self._timer = self._poller.loop.call_later(timeout, self._expire, place, timeout)
        self._poller.watch(far, lambda events: self._wake_far(place, events))

    def cut(self, code: Code = Code.ABORTED) -> None:
        """Reset both sockets; after the end it does nothing."""
        if self._joint is not None:
            self._joint.cut(code)
        elif self._traveller is not None:
            self._part()
            self._end(code)

    def _wake_near(self, events: int) -> None:
        """Until there is a target, what the near side says waits in its socket."""
        if events & FAILED:
            self.cut()

    def _wake_far(self, place: Place, events: int) -> None:
        far = self._far
        if far is None:
            return
        number = far.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._fail(place, OSError(number, os.strerror(number)))
        elif events & WRITABLE:
            self._join(far)

    def _join(self, far: socket.socket) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._joint = Joint(self._poller, self._near, far, self._terms, self._end)
        self._joint.forth.rest, self._preface = self._preface, b""
        self._joint.start()

    def _expire(self, place: Place, timeout: float) -> None:
        self._refuse(f"cannot connect to {place}: no answer within {timeout:g} s")

    def _fail(self, place: Place, error: OSError) -> None:
        self._refuse(f"cannot connect to {place}: {reason_of(error)}")

    def _refuse(self, reason: str) -> None:
        if self._traveller is not None:
            traveller, self._traveller = self._traveller, None
            self._part()
            traveller.unreached(DialFailed(reason))

    def _part(self) -> None:
        """Close what there is, the near side by a reset."""
        if self._timer is not None:
            self._timer.cancel()
        if self._far is not None:
            self._poller.close(self._far)
        if self._terms.before_close is not None:
            self._terms.before_close(self._near)
        reset(self._near)
        self._poller.close(self._near)

    def _end(self, code: Code) -> None:
        if self._traveller is not None:
            traveller, self._traveller = self._traveller, None
            traveller.ended(code)
