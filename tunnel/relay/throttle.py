"""A Stream that keeps to a client's byte rate, both directions together."""

import asyncio
from collections.abc import Awaitable

from tunnel.errors import Code
from tunnel.relay.limits import TokenBucket
from tunnel.stream import Splicing, Stream


class ThrottledStream:
    """Delays what passes through `stream` so that the bucket's rate is kept."""

    __slots__ = ("_bucket", "_stream")

    def __init__(self, stream: Stream, bucket: TokenBucket) -> None:
        self._stream = stream
        self._bucket = bucket

    def __repr__(self) -> str:
        return f"<ThrottledStream {self._bucket.rate} B/s {self._stream!r}>"

    async def receive(self) -> bytes:
        """Return bytes once the rate allows them. Cancelled while waiting, it loses them."""
        data = await self._stream.receive()
        await self._wait(len(data))
        return data

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        await self._wait(len(data))
        await self._stream.send(data)

    async def _wait(self, size: int) -> None:
        delay = self._bucket.take(size, asyncio.get_running_loop().time())
        if delay:
            await asyncio.sleep(delay)

    async def finish(self) -> None:
        await self._stream.finish()

    def abort(self, code: Code = Code.ABORTED) -> None:
        self._stream.abort(code)

    def join(self, far: Stream, terms: Splicing) -> Awaitable[None] | None:
        """Return None: bytes that are counted have to be copied."""
        del far, terms
        return None
