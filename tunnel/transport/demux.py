"""Looking at what a socket begins with, without taking it: then it can go anywhere.

A dialer peeks until a proxy's answer is whole, and hands what follows it untouched to TLS.
"""

import asyncio
import select
import socket
from collections.abc import Callable
from typing import TypeVar

from tunnel.errors import Code, ConnectionLost, RemoteProtocolError

T = TypeVar("T")

NO_PROGRESS_PAUSE = 0.01  # seconds


class Peeker:
    """Reads the beginning of a non-blocking socket again and again, until it is `consume`d."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._ready: asyncio.Future[None] | None = None

    async def until(
        self, parse: Callable[[bytes], T | None], limit: int, deadline: float | None = None
    ) -> T:
        """Return what `parse` makes of the beginning, called for each longer one until not None.

        `deadline` is a time of the loop's clock. Raises what `parse` raises, RemoteProtocolError
        if `limit` bytes do not suffice, ConnectionLost if the peer ends or lets the deadline pass.
        Cancel-safe.
        """
        try:
            async with asyncio.timeout_at(deadline):
                return await self._until(parse, limit)
        except TimeoutError as error:
            raise ConnectionLost("first bytes came too late", Code.TIMEOUT) from error
        except OSError as error:
            raise ConnectionLost("connection reset before its first bytes") from error

    def consume(self, size: int) -> bytes:
        """Remove and return `size` bytes that were seen."""
        return self._sock.recv(size)

    async def _until(self, parse: Callable[[bytes], T | None], limit: int) -> T:
        seen = 0
        while True:
            beginning = self._peek(limit)
            if beginning is not None and len(beginning) == seen:
                await self._check_open()
            elif beginning is not None:
                seen = len(beginning)
                if (parsed := parse(beginning)) is not None:
                    return parsed
                if seen >= limit:
                    raise RemoteProtocolError(f"first {limit} bytes say nothing whole")
            await self._wait_for_more_than(seen)

    def _peek(self, limit: int) -> bytes | None:
        try:
            return self._sock.recv(limit, socket.MSG_PEEK)
        except BlockingIOError:
            return None

    async def _check_open(self) -> None:
        """Raise ConnectionLost if a wake-up without more bytes was the peer's end."""
        poll = select.poll()
        poll.register(self._sock, select.POLLRDHUP)
        if poll.poll(0):
            raise ConnectionLost("closed before its first bytes were whole")
        await asyncio.sleep(NO_PROGRESS_PAUSE)  # short of memory, the kernel wakes us early

    async def _wait_for_more_than(self, seen: int) -> None:
        # Bytes left in the socket keep it readable; below this mark the kernel does not report it.
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, seen + 1)
        loop, fd = asyncio.get_running_loop(), self._sock.fileno()
        self._ready = loop.create_future()
        loop.add_reader(fd, self._wake)
        try:
            await self._ready
        finally:
            self._ready = None
            loop.remove_reader(fd)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def _wake(self) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)
