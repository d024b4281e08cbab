"""A visitor and the spare that it was given, until the first byte comes back.

What the visitor says is kept that long, so that it can be said again to another: a spare may have
died unnoticed behind some NAT. With the first byte the pair becomes a joint.
"""

import errno
import socket
from collections.abc import Callable
from enum import Enum, auto

from tunnel.errors import Code
from tunnel.transport.direct.joint import Joint, Terms
from tunnel.transport.direct.poller import ENDING, FAILED, READABLE, WRITABLE, Poller
from tunnel.transport.tcp import reset

TCP_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", 18)
SAID_MAX_BYTES = 16 * 1024  # kept of a visitor (docs/protocol.md §4)
# What the kernel gives up is ETIMEDOUT, or unreachable if somebody on the path says so.
_SILENCE = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH})


class Outcome(Enum):
    """How a trial has ended; `joint` says more of an answered one."""

    ANSWERED = auto()
    LOST = auto()  # the spare ended first: the visitor is untouched
    SILENT = auto()  # the same, as the spare's far end acknowledged nothing
    GONE = auto()  # the visitor did


class Trial:
    """One attempt; `settle` is called once with its outcome, after the joint if there is one.

    That is in a turn of its own, whoever ends the attempt. `said` is all that the visitor has said
    so far. `header` goes before it. Both sockets are the trial's until it is LOST or SILENT: then
    the visitor's is the caller's again.
    """

    __slots__ = (
        "_outcome",
        "_poller",
        "_settle",
        "_terms",
        "_unsent",
        "joint",
        "said",
        "spare",
        "visitor",
    )

    def __init__(
        self,
        poller: Poller,
        visitor: socket.socket,
        spare: socket.socket,
        terms: Terms,
        settle: Callable[[Outcome], None],
    ) -> None:
        self._poller = poller
        self._terms = terms
        self._settle: Callable[[Outcome], None] | None = settle
        self._unsent = b""
        self._outcome: Outcome | None = None
        self.visitor = visitor
        self.spare = spare
        self.said = bytearray()
        self.joint: Joint | None = None

    def __repr__(self) -> str:
        return f"<Trial {self._outcome and self._outcome.name} {len(self.said)} bytes said>"

    def begin(self, header: bytes, said: bytes, silence_timeout: float) -> None:
        """Send what there is, and wait for an answer.

        A spare whose far kernel acknowledges nothing for `silence_timeout` seconds is lost. Whoever
        is behind that kernel may take its time.
        """
        self.said += said
        self._unsent = header + said
        self._set_silence(int(silence_timeout * 1000))
        self._poller.watch(self.spare, self._wake_spare)
        self._give()
        if self._outcome is None and self._poller.watch(self.visitor, self._wake_visitor):
            self._listen()

    def give_up(self) -> None:
        """End an attempt that nobody has answered yet: it may be made elsewhere."""
        if self._outcome is None:
            self._lose()

    def cut(self, code: Code) -> None:
        """Reset both sockets, whatever has come of it."""
        if self.joint is not None:
            self.joint.cut(code)
        elif self._outcome is None:
            self._part(Outcome.GONE)

    def end(self) -> None:
        """End it for want of a session to belong to; a visitor may still read its last bytes."""
        self.cut_unfinished(Code.ABORTED)

    def cut_unfinished(self, code: Code) -> None:
        """Reset both sockets unless only last bytes for the visitor are left."""
        if self.joint is not None:
            self.joint.cut_unfinished(code)
        else:
            self.give_up()

    # -- events

    def _wake_spare(self, events: int) -> None:
        if events & READABLE:
            self._look(events)
        elif events & WRITABLE:
            self._give()

    def _look(self, events: int) -> None:
        """Begin the joint if a byte has come, lose the spare if its end has."""
        try:
            is_answer = not events & ENDING or bool(self.spare.recv(1, socket.MSG_PEEK))
        except OSError as error:
            self._lose(error)
            return
        if is_answer:  # and all that the visitor has said so far was read
            self._join(is_heard=True, is_ending=bool(events & ENDING))
        else:
            self._lose()

    def _wake_visitor(self, events: int) -> None:
        if events & FAILED:
            self._part(Outcome.GONE)
        elif events & READABLE:
            self._listen()

    def _listen(self) -> None:
        """Take what the visitor says, as long as all of it can be kept."""
        room = SAID_MAX_BYTES - len(self.said)
        try:
            while room > 0 and (data := self.visitor.recv(room)):
                room -= len(data)
                self.said += data
                self._unsent += data
        except BlockingIOError:
            self._give()
        except OSError:
            self._part(Outcome.GONE)
        else:
            # It says more than can be kept, or has ended: the joint sees to that.
            self._join(is_heard=False, is_ending=True)

    def _give(self) -> None:
        try:
            sent = self.spare.send(self._unsent) if self._unsent else 0
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
            return
        self._unsent = self._unsent[sent:]

    # -- outcomes

    def _set_silence(self, milliseconds: int) -> None:
        self.spare.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, milliseconds)

    def _join(self, *, is_heard: bool, is_ending: bool) -> None:
        self._outcome = Outcome.ANSWERED
        self.said.clear()
        try:
            self._set_silence(0)  # a reader may take its time
        except OSError:
            self._part(Outcome.GONE)
            return
        self.joint = Joint(self._poller, self.visitor, self.spare, self._terms, self._end)
        self.joint.forth.rest, self._unsent = self._unsent, b""
        self.joint.forth.is_ending, self.joint.back.is_ending = not is_heard, is_ending
        self.joint.start()

    def _end(self, _code: Code) -> None:
        self._tell(Outcome.ANSWERED)

    def _lose(self, error: OSError | None = None) -> None:
        is_silent = error is not None and error.errno in _SILENCE
        self._outcome = Outcome.SILENT if is_silent else Outcome.LOST
        reset(self.spare)
        self._poller.close(self.spare)
        self._poller.forget(self.visitor)
        self._tell(self._outcome)

    def _part(self, outcome: Outcome) -> None:
        self._outcome = outcome
        for sock in (self.visitor, self.spare):
            reset(sock)
            self._poller.close(sock)
        self._tell(outcome)

    def _tell(self, outcome: Outcome) -> None:
        """Later, as whoever has ended the attempt is not to meet what follows from that."""
        if self._settle is not None:
            settle, self._settle = self._settle, None
            self._poller.loop.call_soon(settle, outcome)
