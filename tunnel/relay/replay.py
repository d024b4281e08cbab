"""A visitor whose first bytes can be sent again, as long as nothing came back."""

from collections.abc import Awaitable, Callable

from tunnel.errors import Code, StreamReset
from tunnel.protocol.hello import MAX_HELLO_BYTES
from tunnel.stream import Stream


class ReplayableVisitor:
    """A visitor's Stream that remembers what it said while it may have to be said again.

    While `is_replayable`, `abort` spares the visitor: the attempt failed, not the visit. Up to
    16 KiB are kept (docs/protocol.md §4).
    """

    __slots__ = (
        "_clock",
        "_has_finished",
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
        self._clock = clock
        self.last_active = clock()
        self.is_replayable = True

    def rewind(self) -> None:
        """Begin anew: the next `receive` returns all that the visitor has said so far."""
        self._unsaid = bytes(self._said)

    async def receive(self) -> bytes:
        if self._unsaid:
            said, self._unsaid = self._unsaid, b""
            return said
        if self._has_finished:
            return b""
        try:
            data = await self._visitor.receive()
        except StreamReset:
            self._commit()
            raise
        self.last_active = self._clock()
        if self.is_replayable:
            self._remember(data)
        return data

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
        self.last_active = self._clock()
        if self.is_replayable:
            self._commit()
        await self._visitor.send(data)

    async def finish(self) -> None:
        self._commit()
        await self._visitor.finish()

    def abort(self, code: Code = Code.ABORTED) -> None:
        if not self.is_replayable:
            self._visitor.abort(code)

    def join(self, far: Stream) -> Awaitable[None] | None:
        """Return None: a visit that may begin anew has to be copied."""
        del far
        return None
