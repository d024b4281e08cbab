"""Visitors by the thousand in one event loop, and the service that echoes them."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto

from tests.e2e.world import Client, Relay

READ_BYTES = 1 << 16
ALERT_RECORD = 21  # RFC 8446 §5.1
GREETING = b"are you there?"


class Reception(Enum):
    """What became of somebody who came to the relay."""

    SERVED = auto()
    ALERTED = auto()
    CUT = auto()


@dataclass(frozen=True)
class Visitor:
    """One connection to the service; `opening` was echoed already."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def exchange(self, sent: bytes) -> bytes:
        """Send bytes and return as many, read while they are sent."""
        async with asyncio.TaskGroup() as group:
            echoed = group.create_task(self.reader.readexactly(len(sent)))
            self.writer.write(sent)
            await self.writer.drain()
        return echoed.result()

    async def leave(self) -> None:
        """Close, and return once the service has closed too."""
        if self.writer.can_write_eof():
            self.writer.write_eof()
            await self.reader.read()
        self.writer.close()
        with suppress(ConnectionResetError):
            await self.writer.wait_closed()


@dataclass(frozen=True)
class Way:
    """How visitors come to a client's endpoint: by TLS, or as it is passed through (no context)."""

    port: int
    host: str
    hello: bytes  # a whole ClientHello for the host
    context: ssl.SSLContext | None

    async def visit(self) -> Visitor:
        """Return a visitor whom the service has answered."""
        name = self.host if self.context else None
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.context, server_hostname=name
        )
        visitor = Visitor(reader, writer)
        opening = GREETING if self.context else self.hello
        assert await visitor.exchange(opening) == opening
        return visitor

    async def knock(self) -> Reception:
        """Come, say hello, take the first answer and go."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(self.hello)
        try:
            answer = await reader.read(READ_BYTES)
        except ConnectionResetError:
            return Reception.CUT
        finally:
            writer.close()
        if not answer:
            return Reception.CUT
        return Reception.ALERTED if answer[0] == ALERT_RECORD else Reception.SERVED


def way_to(relay: Relay, client: Client, *, is_passed_through: bool) -> Way:
    """Return the way to a client's endpoint; waits until it serves."""
    host = client.host
    context = None if is_passed_through else client.trust()
    return Way(relay.public_port, host, hello(host), context)


def hello(host: str) -> bytes:
    """Return the ClientHello of Python's own TLS."""
    sent = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    session = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=host)
    with suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return sent.read()


async def all_of(way: Way, count: int) -> list[Visitor]:
    """Return visitors who have all come at once and are all still there."""
    async with asyncio.TaskGroup() as group:
        visits = [group.create_task(way.visit()) for _ in range(count)]
    return [visit.result() for visit in visits]


async def part_from(visitors: list[Visitor]) -> None:
    """Let all visitors leave."""
    async with asyncio.TaskGroup() as group:
        for visitor in visitors:
            group.create_task(visitor.leave())


@asynccontextmanager
async def echoing() -> AsyncIterator[str]:
    """Echo whatever comes until it ends; yields the target's address."""
    server = await asyncio.start_server(_echo, "127.0.0.1", 0, backlog=1024)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):  # what the test looks at is the other end
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()
