"""Messages between the head and one of its workers: JSON objects on a stream socket, in order.

Both ends are ours, and of one version: what cannot be read is a bug, and ends the channel.
"""

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from typing import Any

from tunnel.errors import ConnectionLost, RemoteProtocolError
from tunnel.log import get_log
from tunnel.protocol.frames import FrameReader, frame

MESSAGE_MAX_BYTES = 64 << 20  # figures of very many clients
UNSENT_MAX_BYTES = 128 << 20  # above it, whoever does not read is given up

Message = Mapping[str, Any]

log = get_log(__name__)


class Channel(asyncio.Protocol):
    """One end. `hear` gets what the other end tells or asks; `lost` is called at its end, once."""

    def __init__(self, hear: Callable[[Message], None], lost: Callable[[], None]) -> None:
        self._hear = hear
        self._lost = lost
        self._reader = FrameReader(MESSAGE_MAX_BYTES)
        self._transport: asyncio.Transport | None = None
        self._asked: dict[int, asyncio.Future[Message]] = {}
        self._questions = 0

    def __repr__(self) -> str:
        return f"<Channel {'closed' if self._transport is None else 'open'}>"

    async def open(self, sock: socket.socket) -> None:
        """Begin on one end of a socket pair, which is taken over; `hear` may be called at once."""
        sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
        await asyncio.get_running_loop().create_connection(lambda: self, sock=sock)

    def tell(self, kind: str, **members: object) -> None:
        """Send a message; does nothing once the other end has gone."""
        self._write({"kind": kind, **members})

    async def ask(self, kind: str, timeout: float, **members: object) -> Message:
        """Send a message and return its answer, within `timeout` seconds. Cancel-safe.

        Raises ConnectionLost, TimeoutError.
        """
        if self._transport is None:
            raise ConnectionLost("the other process has ended")
        self._questions += 1
        number = self._questions
        self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self.tell(kind, question=number, **members)
            async with asyncio.timeout(timeout):
                return await self._asked[number]
        finally:
            del self._asked[number]

    def answer(self, question: Message, **members: object) -> None:
        """Answer what was asked."""
        self._write({"answers": question["question"], **members})

    def close(self) -> None:
        """End it; what was told before still arrives."""
        if self._transport is not None:
            self._transport.close()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's have no common base

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (payload := self._reader.next_frame()) is not None:
                self._receive(json.loads(payload))
        except (RemoteProtocolError, ValueError, LookupError, TypeError) as error:
            log.error("message not understood", exception=error)
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - it is over anyhow
        self._transport = None
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(ConnectionLost("the other process has ended"))
        self._lost()

    def _receive(self, message: Message) -> None:
        if "answers" not in message:
            self._hear(message)
            return
        waiting = self._asked.get(message["answers"])
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    def _write(self, message: Message) -> None:
        if self._transport is None:
            return
        self._transport.write(frame(json.dumps(message).encode(), MESSAGE_MAX_BYTES))
        if self._transport.get_write_buffer_size() > UNSENT_MAX_BYTES:
            log.error("the other process does not read: given up")
            self._transport.abort()
