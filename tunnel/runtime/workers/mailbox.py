"""Sockets on their way to another process: each with a note of what it is (unix(7), SCM_RIGHTS).

A mailbox is a pair of sockets. One process empties it, any number drop things in. It outlives its
owner as long as the head holds both ends: what was dropped in is there for the next owner.
"""

import array
import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, NamedTuple, TypeVar

from tunnel.errors import Code, Refused, RemoteProtocolError
from tunnel.log import get_log
from tunnel.transport.tcp import reason_of

NOTE_MAX_BYTES = 64 * 1024
TAKEN_PER_TURN = 64  # then the rest of the loop has its turn
BUFFER_BYTES = 1 << 20  # asked for; the kernel may grant less

log = get_log(__name__)

Read = TypeVar("Read")


class Mailbox(NamedTuple):
    """Both ends."""

    slot: socket.socket  # to drop in
    tray: socket.socket  # to take out

    def close(self) -> None:
        """Let go of both ends."""
        self.slot.close()
        self.tray.close()


def new_mailbox() -> Mailbox:
    """Return an empty mailbox."""
    slot, tray = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    slot.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    for end in (slot, tray):
        end.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return Mailbox(slot, tray)


def drop(slot: socket.socket, note: bytes, sock: socket.socket) -> None:
    """Send a descriptor with its note; `sock` stays open here.

    Raises Refused(BUSY) where the mailbox is full: whoever is to empty it has more than enough.
    """
    rights = array.array("i", [sock.fileno()])
    try:
        slot.sendmsg([note], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    except OSError as error:
        raise Refused(Code.BUSY, f"not handed over: {reason_of(error)}") from error


class Tray(Generic[Read]):
    """Empties a mailbox: `take` gets what `read` makes of each note, and owns the socket with it.

    The socket is non-blocking. Where `read` raises RemoteProtocolError, it is closed.
    """

    def __init__(
        self,
        tray: socket.socket,
        read: Callable[[bytes], Read],
        take: Callable[[Read, socket.socket], None],
    ) -> None:
        self._tray = tray
        self._read_note = read
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(tray, self._read)

    def close(self) -> None:
        """Take nothing out any more."""
        self._loop.remove_reader(self._tray)

    def _read(self) -> None:
        with suppress(BlockingIOError, InterruptedError):
            for _ in range(TAKEN_PER_TURN):
                self._read_one()

    def _read_one(self) -> None:
        note, ancillary, flags, _ = self._tray.recvmsg(
            NOTE_MAX_BYTES, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
        )
        passed = [socket.socket(fileno=number) for number in _descriptors(ancillary)]
        if len(passed) != 1 or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            log.error("nothing came with a note")  # no descriptor was free
            for sock in passed:
                sock.close()
            return
        passed[0].setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._give(note, passed[0])

    def _give(self, note: bytes, sock: socket.socket) -> None:
        try:
            read = self._read_note(note)
        except RemoteProtocolError as error:
            log.error("a note was not understood", exception=error)
            sock.close()
        else:
            self._take(read, sock)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    numbers = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
    return list(numbers)
