"""A path between client and relay that a test can let fall silent, and bring back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tunnel.stream import Address


class DatagramPath(asyncio.DatagramProtocol):
    """Passes datagrams on between one client and a relay, unless it `is_dark`."""

    def __init__(self, relay: Address) -> None:
        self.is_dark = False
        self._relay = relay
        self._client: Address | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.DatagramTransport = transport  # type: ignore[assignment]  # uvloop

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Pass a datagram to the other side."""
        source = Address(*addr)
        if source != self._relay:
            self._client = source
        target = self._client if source == self._relay else self._relay
        if not self.is_dark and target is not None:
            self._transport.sendto(data, target)


@asynccontextmanager
async def datagram_path(relay: Address) -> AsyncIterator[tuple[Address, DatagramPath]]:
    """Open a path to the relay's UDP address; yield where it begins, and the path."""
    transport, path = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: DatagramPath(relay), local_addr=("127.0.0.1", 0)
    )
    try:
        yield Address(*transport.get_extra_info("sockname")), path
    finally:
        transport.close()


@asynccontextmanager
async def closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Close a connection at the end of the block, at once where it is left by an exception."""
    try:
        yield
        writer.close()
        await writer.wait_closed()
    finally:
        writer.transport.abort()


@asynccontextmanager
async def balancer(target: Address, header: bytes) -> AsyncIterator[Address]:
    """Pass each connection on to `target`, with a PROXY header before it; yield the address."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*target)
        with suppress(OSError):  # one of both has gone
            async with closing(writer), closing(far_writer):
                far_writer.write(header)
                await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Address(*server.sockets[0].getsockname())
