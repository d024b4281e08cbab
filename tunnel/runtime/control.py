"""The control stream in use: messages both ways, the heartbeat, and the deliberate end.

Relay and client run the same code over their own registration machine; no transport is known here.
"""

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Generic, Protocol, TypeVar

from tunnel.errors import Code, ConnectionLost, RemoteProtocolError, StreamReset
from tunnel.protocol.frames import FrameReader
from tunnel.protocol.heartbeat import ANSWER_TIMEOUT, Action, Heartbeat, Pulse
from tunnel.protocol.messages import Ping, Pong
from tunnel.stream import Connection, Stream

_GLANCE = 0.2  # seconds between looks for a sign of life once one was missed
PARTING_TIMEOUT = 1.0  # closing at once would lose the last message
CLOSING_TIMEOUT = 1.5  # more than TLS waits for the last word of a peer

Event_co = TypeVar("Event_co", covariant=True)
Message_contra = TypeVar("Message_contra", contravariant=True)


class Registration(Protocol[Event_co, Message_contra]):
    """What both registration machines offer."""

    frame_limit: int

    @property
    def is_open(self) -> bool:
        """Whether messages may still be sent."""

    def receive(self, payload: bytes) -> Event_co | None:
        """Advance on a frame of the peer."""

    def send(self, message: Message_contra) -> bytes:
        """Return the frame of a message."""

    def leave(self, code: Code, message: str = "", retry_after: float | None = None) -> bytes:
        """Return the frame of the last message."""


class ControlChannel(Generic[Event_co, Message_contra]):
    """A control stream and the machine that reads and writes it.

    One task receives; any may send.
    """

    def __init__(
        self, stream: Stream, registration: Registration[Event_co, Message_contra]
    ) -> None:
        self._stream = stream
        self._registration = registration
        self._reader = FrameReader(registration.frame_limit)
        self._sending = asyncio.Lock()
        self._pinged: tuple[int, float] | None = None  # the last ping, and when it was sent
        self.round_trip: float | None = None  # seconds, of the last ping that was answered

    def __repr__(self) -> str:
        return f"<ControlChannel {self._registration!r} on {self._stream!r}>"

    async def receive(self) -> Event_co:
        """Return the peer's next message that matters. Cancel-safe.

        Raises RemoteProtocolError for what it may not send, ConnectionLost once it has gone.
        """
        while True:
            self._reader.limit = self._registration.frame_limit
            payload = self._reader.next_frame()
            if payload is None:
                await self._feed()
                continue
            event = self._registration.receive(payload)
            if isinstance(event, Pong):
                self._note_answer(event)
            if event is not None:
                return event

    def _note_answer(self, pong: Pong) -> None:
        if self._pinged is not None and self._pinged[0] == pong.seq:
            self.round_trip = asyncio.get_running_loop().time() - self._pinged[1]
            self._pinged = None

    async def _feed(self) -> None:
        with _as_loss():
            data = await self._stream.receive()
        if data:
            self._reader.feed(data)
        elif self._registration.is_open:
            raise RemoteProtocolError("the control stream ended without a last word")
        else:
            raise ConnectionLost("the peer has left", Code.OK)

    async def send(self, message: Message_contra) -> None:
        """Send a message; raises ConnectionLost. Passed over once a last word was said."""
        async with self._sending:
            if self._registration.is_open:
                if isinstance(message, Ping):
                    self._pinged = (message.seq, asyncio.get_running_loop().time())
                await self._write(self._registration.send(message))

    async def write(self, frame: bytes) -> None:
        """Send a frame that the registration made; raises ConnectionLost."""
        async with self._sending:
            await self._write(frame)

    async def leave(self, code: Code, message: str = "", retry_after: float | None = None) -> None:
        """Say the last word and finish the control stream; raises ConnectionLost."""
        async with self._sending:
            if self._registration.is_open:
                await self._write(self._registration.leave(code, message, retry_after))
                with _as_loss():
                    await self._stream.finish()

    async def _write(self, frame: bytes) -> None:
        with _as_loss():
            await self._stream.send(frame)


@contextmanager
def _as_loss() -> Iterator[None]:
    """A control stream that is cut means that the connection is lost."""
    try:
        yield
    except StreamReset as reset:
        raise ConnectionLost(f"control stream cut: {reset}", reset.code) from reset


async def part(
    connection: Connection,
    channel: ControlChannel[Event_co, Message_contra],
    code: Code,
    message: str = "",
    retry_after: float | None = None,
) -> None:
    """End a connection on purpose: say why, wait for the peer to close it, close it.

    Nothing of it is left then: a peer that does not listen has PARTING_TIMEOUT, and its transport
    CLOSING_TIMEOUT to end without it. Never raises but for cancellation.
    """
    try:
        with suppress(TimeoutError, ConnectionLost):
            async with asyncio.timeout(PARTING_TIMEOUT):
                await channel.leave(code, message, retry_after)
                await connection.wait_closed()
    finally:
        connection.close(code, message)
    await gone(connection)


async def gone(connection: Connection) -> None:
    """Wait until nothing is left of a connection that has been closed, by either end.

    Takes CLOSING_TIMEOUT at most.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSING_TIMEOUT):
            await connection.wait_closed()


async def keep_alive(
    connection: Connection,
    channel: ControlChannel[Event_co, Ping | Pong],
    interval: float,
    judge: Callable[[Action], None],
) -> None:
    """Ping every `interval` seconds until the far end is dead; then raise ConnectionLost(TIMEOUT).

    `judge` is told SUSPECT and RESTORE. Bytes of any stream count as life.
    """
    loop = asyncio.get_running_loop()
    heartbeat = Heartbeat(interval, loop.time(), random.random)
    numbers = count()
    while (due := heartbeat.next_timeout()) is not None:
        wait = due - loop.time()
        await asyncio.sleep(min(wait, _GLANCE) if heartbeat.state is Pulse.SUSPECT else wait)
        actions = heartbeat.heard(connection.last_heard) + heartbeat.handle_timeout(loop.time())
        for action in actions:
            if action is Action.PING:
                await _ping(channel, next(numbers))
            elif action is not Action.CLOSE:  # then there is no next timeout either
                judge(action)
    raise ConnectionLost("no answer to two pings", Code.TIMEOUT)


async def _ping(channel: ControlChannel[Event_co, Ping | Pong], number: int) -> None:
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            await channel.send(Ping(number))
    except TimeoutError:
        raise ConnectionLost("no room for a ping", Code.TIMEOUT) from None
