"""A visitor whose first bytes can be sent again, as long as nothing came back."""

import asyncio
from collections.abc import Awaitable, Callable

from tunnel.errors import Code, StreamReset
from tunnel.protocol.hello import MAX_HELLO_BYTES
from tunnel.stream import Splicing, Stream


class ReplayableVisitor:
    """A visitor's Stream that remembers what it said while it may have to be said again.

    While `is_replayable`, `abort` spares the visitor: the attempt failed, not the visit, and
    StreamReset is raised until the next attempt begins with `rewind`. Up to 16 KiB are kept
    (docs/protocol.md §4).
    """

    __slots__ = (
        "_clock",
        "_failure",
        "_has_finished",
        "_listening",
        "_said",
        "_unsaid",
        "_visitor",
        "is_replayable",
        "last_active",
    )

    def __init__(self, visitor: Stream, hello: bytes, clock: Callable[[], float]) -> None:
        self._visitor = visitor
        self._said = bytearray(hello)
        self._unsaid = hello  # what the next `receive` returns before anything new
        self._has_finished = False
        self._failure: Code | None = None  # of the attempt under way
        self._listening: asyncio.Timeout | None = None  # to the visitor, ended by a failure
        self._clock = clock
        self.last_active = clock()
        self.is_replayable = True

    def __repr__(self) -> str:
        state = "may begin anew" if self.is_replayable else "is under way"
        return f"<ReplayableVisitor {state} {self._visitor!r}>"

    def rewind(self) -> None:
        """Begin anew: the next `receive` returns all that the visitor has said so far."""
        self._failure = None
        self._unsaid = bytes(self._said)

    async def receive(self) -> bytes:
        self._check()
        if self._unsaid:
            said, self._unsaid = self._unsaid, b""
            return said
        if self._has_finished:
            return b""
        try:
            data = await (self._listen() if self.is_replayable else self._visitor.receive())
        except StreamReset:
            if self._failure is None:
                self._commit()  # the visitor itself has gone
            raise
        self.last_active = self._clock()
        if self.is_replayable:
            self._remember(data)
        return data

    async def _listen(self) -> bytes:
        """Return what the visitor says next; raises StreamReset if the attempt fails meanwhile."""
        try:
            async with asyncio.timeout(None) as self._listening:
                return await self._visitor.receive()
        except TimeoutError:
            raise StreamReset(self._failure or Code.ABORTED) from None
        finally:
            self._listening = None

    def _check(self) -> None:
        if self._failure is not None:
            raise StreamReset(self._failure)

    def _remember(self, data: bytes) -> None:
        self._has_finished = not data
        if len(self._said) + len(data) > MAX_HELLO_BYTES:
            self._commit()
        else:
            self._said += data

    def _commit(self) -> None:
        """From here on the visit lives and dies with the attempt that is under way."""
        self.is_replayable = False
        self._said.clear()

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        self._check()
        self.last_active = self._clock()
        if self.is_replayable:
            self._commit()
        await self._visitor.send(data)
        self.last_active = self._clock()  # a slow reader that took it is not idle

    async def finish(self) -> None:
        self._check()
        self._commit()
        await self._visitor.finish()

    def abort(self, code: Code = Code.ABORTED) -> None:
        if not self.is_replayable:
            self._visitor.abort(code)
        elif self._failure is None:
            self._failure = code
            if self._listening is not None:
                self._listening.reschedule(asyncio.get_running_loop().time())

    def join(self, far: Stream, terms: Splicing) -> Awaitable[None] | None:
        """Return None: a visit that may begin anew has to be copied."""
        del far, terms
        return None
