"""Spare direct connections of a scripted client, each step one call."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

from tests.integration.stage import Stage
from tests.integration.visitors import Cut
from tunnel.protocol.direct import Prelude, split_sealed
from tunnel.protocol.messages import StreamHeader, Welcome, decode_header
from tunnel.stream import Address
from tunnel.transport.direct.keys import DirectKeys

RESET = struct.pack("ii", 1, 0)  # struct linger: close() sends RST


@dataclass
class Spare:
    """One connection whose prelude has been sent."""

    sock: socket.socket
    keys: DirectKeys
    prelude: Prelude

    async def say(self, data: bytes) -> None:
        """Send bytes."""
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def hear(self, size: int) -> bytes:
        """Return the next `size` bytes; raises Cut."""
        heard = b""
        while len(heard) < size:
            try:
                piece = await asyncio.get_running_loop().sock_recv(self.sock, size - len(heard))
            except ConnectionResetError as error:
                raise Cut from error
            if not piece:
                raise Cut
            heard += piece
        return heard

    async def header(self) -> StreamHeader:
        """Return the stream header that the relay sends, unsealed."""
        length = await self.hear(2)
        sealed = await self.hear(int.from_bytes(length, "big"))
        split = split_sealed(length + sealed)
        assert split is not None
        return decode_header(self.keys.open(self.prelude, split[0]))

    async def ended(self) -> None:
        """Wait until the relay has ended the connection; it must say nothing."""
        loop = asyncio.get_running_loop()
        with suppress(ConnectionResetError):
            assert await loop.sock_recv(self.sock, 100) == b""

    def reset(self) -> None:
        """End it at once."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.sock.close()


@dataclass
class Stock:
    """Opens spares for one session."""

    address: Address
    session: bytes
    keys: DirectKeys
    counter: int = 0
    opened: list[socket.socket] = field(default_factory=list)

    def next_prelude(self) -> Prelude:
        """Return a prelude that was never used."""
        self.counter += 1
        return self.keys.prelude(self.session, self.counter)

    async def open(self, prelude: Prelude | None = None) -> Spare:
        """Open a spare with a prelude, a good one of its own if none is given."""
        prelude = prelude or self.next_prelude()
        sock = await self.connect(bytes(prelude))
        return Spare(sock, self.keys, prelude)

    async def connect(self, first: bytes) -> socket.socket:
        """Open a connection that begins with these bytes."""
        sock = socket.socket()
        self.opened.append(sock)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, tuple(self.address))
        await loop.sock_sendall(sock, first)
        return sock

    def stranger(self) -> "Stock":
        """Return one that knows the session, and not its key."""
        return replace(self, keys=DirectKeys(bytes(32)))


@asynccontextmanager
async def stocked(stage: Stage, welcome: object) -> AsyncIterator[Stock]:
    """Return what opens spares for the session of a welcome that offers them."""
    assert isinstance(welcome, Welcome)
    assert welcome.direct is not None
    stock = Stock(stage.agents, welcome.session, DirectKeys(welcome.direct.key))
    try:
        yield stock
    finally:
        for sock in stock.opened:
            sock.close()
