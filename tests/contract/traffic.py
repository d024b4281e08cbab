"""What the contract's tests do with streams."""

import asyncio
import random

from tunnel.stream import Stream

KIB, MIB = 1 << 10, 1 << 20


def random_chunks(total: int, seed: int) -> list[bytes]:
    """Cut `total` random bytes into chunks of 1 byte to 100 KiB."""
    source = random.Random(seed)
    blob = source.randbytes(total)
    chunks, start = [], 0
    while start < total:
        size = int(2 ** source.uniform(0, 16.6))
        chunks.append(blob[start : start + size])
        start += size
    return chunks


async def send_all(stream: Stream, chunks: list[bytes]) -> None:
    """Send the chunks and finish."""
    for chunk in chunks:
        await stream.send(chunk)
    await stream.finish()


async def receive_all(stream: Stream) -> bytes:
    """Return everything up to the peer's finish."""
    received = bytearray()
    while data := await stream.receive():
        received += data
    return bytes(received)


async def receive_exactly(stream: Stream, size: int) -> bytes:
    """Return the next `size` bytes, of which no more must come with them."""
    received = bytearray()
    while len(received) < size:
        received += await stream.receive()
    assert len(received) == size
    return bytes(received)


async def exchange(near: Stream, far: Stream, rounds: int = 1) -> None:
    """Go there and back some times: whatever else was under way has had its turn then."""
    for number in range(rounds):
        await turns(1)  # in memory nothing else waits
        for source, sink in ((near, far), (far, near)):
            message = b"%08d" % number
            await source.send(message)
            assert await receive_exactly(sink, len(message)) == message


class Flood:
    """Sends one block after another on a stream until it is stopped or cut."""

    def __init__(self, stream: Stream, block: bytes = bytes(16 * KIB)) -> None:
        self.stream = stream
        self.block = block
        self.sent = 0  # bytes of which `send` has returned

    async def run(self, total: int) -> None:
        """Send `total` bytes and finish."""
        while self.sent < total:
            await self.stream.send(self.block)
            self.sent += len(self.block)
        await self.stream.finish()


async def turns(count: int) -> None:
    """Let everything that is ready run, `count` times."""
    for _ in range(count):
        await asyncio.sleep(0)
