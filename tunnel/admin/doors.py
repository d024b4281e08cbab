"""Where callers come in: the control socket, and the address for metrics."""

import socket
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn, Protocol

from tunnel.admin import SOCKET
from tunnel.admin.answers import Pages
from tunnel.admin.conversation import Conversation
from tunnel.admin.pages import Desk, control_pages, read_only_pages
from tunnel.admin.unix import UnixListener, listen_unix
from tunnel.errors import ListenFailed
from tunnel.log import get_log
from tunnel.runtime.supervision import Crowd, Work, first_of, restarted
from tunnel.settings.values import AdminSettings
from tunnel.stream import Address
from tunnel.tls.files import make_private_directory
from tunnel.transport.tcp import TcpListener, reason_of, wrap

CONNECTIONS = 32  # at each door; one more and the longest-waiting caller has to go
NO_PAGES: Pages = MappingProxyType({})

log = get_log(__name__)


class Entry(Protocol):
    """A listening socket of either family."""

    async def accept(self) -> socket.socket:
        """Return the next connection, non-blocking. Cancel-safe."""

    def close(self) -> None:
        """Stop listening."""


class Door:
    """A listening socket and the pages behind it."""

    def __init__(self, entry: Entry, pages: Pages) -> None:
        self._entry = entry
        self._pages = pages
        self._open: dict[Conversation, None] = {}  # the oldest first

    def __repr__(self) -> str:
        return f"<Door {self._entry!r}: {len(self._open)} callers>"

    async def serve(self) -> NoReturn:
        """Answer everybody who comes, for ever."""
        async with Crowd("admin") as crowd:
            while True:
                crowd.start(self._converse(await self._entry.accept()))

    async def _converse(self, sock: socket.socket) -> None:
        conversation = Conversation(await wrap(sock), self._pages)
        self._make_room()
        self._open[conversation] = None
        try:
            await conversation.run()
        finally:
            self._open.pop(conversation, None)

    def _make_room(self) -> None:
        """Send the oldest caller away who is not being answered: silence keeps nobody out."""
        if len(self._open) >= CONNECTIONS:
            idle = next((each for each in self._open if not each.is_answering), None)
            leaving = idle or next(iter(self._open))
            del self._open[leaving]
            leaving.cut()

    def close(self) -> None:
        """Let nobody in any more."""
        self._entry.close()


def open_doors(
    settings: AdminSettings, state_dir: Path, desk: Desk, more: Pages = NO_PAGES
) -> list[Door]:
    """Listen wherever the settings say; raises ListenFailed where that cannot be done.

    `more` are pages for the control socket beside those that both programs have. A control socket
    that nobody has asked for, in the state directory, may be missing: that is only logged.
    """
    doors: list[Door] = []
    try:
        control = _control_socket(settings, state_dir)
        if control is not None:
            doors.append(Door(control, control_pages(desk, more)))
        if settings.metrics is not None:
            doors.append(Door(_metrics(settings.metrics), read_only_pages(desk)))
    except BaseException:
        for door in doors:
            door.close()
        raise
    return doors


def _control_socket(settings: AdminSettings, state_dir: Path) -> UnixListener | None:
    try:
        if settings.socket is None:
            make_private_directory(state_dir)
        listener = listen_unix(settings.socket or state_dir / SOCKET)
    except (ListenFailed, OSError) as fault:
        if settings.socket is not None:
            raise ListenFailed(f"admin.socket: {fault}") from fault
        log.warning("no control socket", cause=fault, setting="admin.socket")
        return None
    log.info("control socket open", path=listener.path)
    return listener


def _metrics(address: Address) -> TcpListener:
    try:
        listener = TcpListener(address)
    except OSError as fault:
        message = f"admin.metrics: cannot listen on {address}: {reason_of(fault)}"
        raise ListenFailed(message) from fault
    log.info("metrics open", address=listener.address)
    return listener


async def answering(doors: list[Door], work: Work) -> None:
    """Run `work` to its end and answer at the doors meanwhile; closes them.

    Does as `work` did; what it raises comes bare.
    """
    try:
        await first_of(work, *(_upkeep(door) for door in doors))
    finally:
        for door in doors:
            door.close()


def _upkeep(door: Door) -> Work:
    return lambda: restarted("admin", door.serve)
