"""Visitors with a plain socket each, who say bytes and look at what comes back."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from tunnel.stream import Address

AT_ONCE = 4.0  # seconds: sooner than by any deadline that is the default
UNRECOGNIZED_NAME = bytes((21, 3, 3, 0, 2, 2, 112))
INTERNAL_ERROR = bytes((21, 3, 3, 0, 2, 2, 80))


class Cut(Exception):  # noqa: N818 - reads as what befell the visitor
    """The relay has reset the visitor's connection."""


@dataclass
class Visitor:
    """One TCP connection to the relay."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)
        with suppress(ConnectionResetError):  # told by `hear` then
            await self.writer.drain()

    async def hear(self, size: int) -> bytes:
        """Return the next `size` bytes; raises Cut."""
        try:
            return await self.reader.readexactly(size)
        except (ConnectionResetError, asyncio.IncompleteReadError) as error:
            raise Cut from error

    async def hear_all(self) -> bytes:
        """Return everything up to the relay's FIN; raises Cut."""
        try:
            return await self.reader.read()
        except ConnectionResetError as error:
            raise Cut from error

    async def ended(self) -> None:
        """Wait until the relay has ended the connection, with FIN or RST."""
        with suppress(Cut):
            await self.hear_all()

    def finish(self) -> None:
        """Send FIN."""
        self.writer.write_eof()

    def reset(self) -> None:
        """Send RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@asynccontextmanager
async def visiting(
    address: Address, first: bytes = b"", source: str = "127.0.0.1"
) -> AsyncIterator[Visitor]:
    """Connect to the relay from a loopback address, and say something."""
    reader, writer = await asyncio.open_connection(
        address.host, address.port, local_addr=(source, 0)
    )
    visitor = Visitor(reader, writer)
    try:
        await visitor.say(first)
        yield visitor
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def answer_to(address: Address, said: bytes, timeout: float = AT_ONCE) -> bytes:
    """Return all that the relay answers before it ends the connection, within `timeout`."""
    async with asyncio.timeout(timeout), visiting(address, said) as visitor:
        return await visitor.hear_all()
