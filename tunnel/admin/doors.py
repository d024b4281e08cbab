"""Where callers come in: the control socket, and the address for metrics."""

import asyncio
import socket
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol

from tunnel.admin.answers import Pages
from tunnel.admin.conversation import Conversation
from tunnel.admin.unix import UnixListener, listen_unix
from tunnel.errors import ListenFailed
from tunnel.log import get_log
from tunnel.runtime.supervision import Crowd, first_of, restarted
from tunnel.stream import Address
from tunnel.transport.accepting import TcpListener
from tunnel.transport.tcp import reason_of, wrap

SOCKET_KEY, METRICS_KEY = "admin.socket", "admin.metrics"
CONNECTIONS = 128  # at each door; one more and the longest-waiting caller has to go
LAST_CALL = 0.1  # seconds for those who have come to a door that closes, and wait to be let in

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
        self._closing = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Door {self._entry!r}: {len(self._open)} callers>"

    @property
    def is_found(self) -> bool:
        """Whether callers still get here."""
        return not isinstance(self._entry, UnixListener) or self._entry.is_found

    async def serve(self) -> None:
        """Answer everybody who comes until `retire`, and until all who came then have gone."""
        async with Crowd("admin") as crowd:
            try:
                accepting = partial(restarted, "admin", partial(self._let_in, crowd))
                await first_of(accepting, self._wait_for_closing)
            finally:
                self._entry.close()

    async def _let_in(self, crowd: Crowd) -> NoReturn:
        while True:
            crowd.start(self._converse(await self._entry.accept()))

    async def _wait_for_closing(self) -> None:
        await self._closing.wait()
        await asyncio.sleep(LAST_CALL)

    async def _converse(self, sock: socket.socket) -> None:
        conversation = Conversation(await wrap(sock), self._pages)
        conversation.is_last = self._closing.is_set()
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

    def retire(self) -> None:
        """Have `serve` end: nobody finds the way here, who came gets one more answer at most."""
        if isinstance(self._entry, UnixListener):
            self._entry.withdraw()
        for conversation in self._open:
            conversation.is_last = True
        self._closing.set()

    def close(self) -> None:
        """Let nobody in any more."""
        self._entry.close()


def control_socket(path: Path) -> UnixListener:
    """Return the control socket, open; raises ListenFailed."""
    try:
        listener = listen_unix(path)
    except ListenFailed as fault:
        raise ListenFailed(f"{SOCKET_KEY}: {fault}", SOCKET_KEY) from fault
    log.info("control socket open", path=listener.path)
    return listener


def metrics_address(address: Address) -> TcpListener:
    """Return the socket of the metrics address, open; raises ListenFailed."""
    try:
        listener = TcpListener(address)
    except OSError as fault:
        message = f"{METRICS_KEY}: cannot listen on {address}: {reason_of(fault)}"
        raise ListenFailed(message, METRICS_KEY) from fault
    log.info("metrics open", address=listener.address)
    return listener
