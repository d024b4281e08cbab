"""Scripted clients: each step of a client's life, one call each, over a real transport."""

import secrets
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tests.variants import ASKED, quic
from tunnel.errors import Code
from tunnel.protocol.frames import FrameReader
from tunnel.protocol.messages import (
    AuthBody,
    Hello,
    Ping,
    Pong,
    Reject,
    Serve,
    Serving,
    StreamHeader,
    Welcome,
    decode_header,
)
from tunnel.protocol.names import client_id
from tunnel.protocol.registration import ClientRegistration, FromRelay
from tunnel.runtime.control import ControlChannel
from tunnel.stream import Address, Connection, Stream
from tunnel.tls.contexts import Trust
from tunnel.tls.identity import Identity, fingerprint
from tunnel.transport.doors import DIALERS
from tunnel.transport.options import TransportOptions

ClientChannel = ControlChannel[FromRelay, Serve | Ping | Pong]
T = TypeVar("T")
OPTIONS = TransportOptions(quic=quic(ASKED.engines.client))


@dataclass
class Call:
    """A stream that the relay opened for somebody."""

    header: StreamHeader
    stream: Stream
    early: bytes  # what came in one go with the header

    async def hear(self, size: int) -> bytes:
        """Return the next `size` bytes, of which no more must come with them."""
        heard, self.early = bytearray(self.early), b""
        while len(heard) < size:
            data = await self.stream.receive()
            assert data, f"ended after {len(heard)} of {size} bytes"
            heard += data
        assert len(heard) == size, heard
        return bytes(heard)

    async def hear_all(self) -> bytes:
        """Return everything up to the visitor's end."""
        heard = bytearray(self.early)
        while data := await self.stream.receive():
            heard += data
        return bytes(heard)


@dataclass
class ScriptedClient:
    """A client's end of one connection, driven by the test."""

    connection: Connection
    identity: Identity
    suffix: str = "t.test"
    id_bits: int = 128
    instance: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        binding = self.connection.binding
        self.registration = ClientRegistration(
            binding.transport, binding.leaf_hash, features=self.features
        )

    @property
    def name(self) -> str:
        """The name of its key."""
        return f"{client_id(fingerprint(self.identity.public_key), self.id_bits)}.{self.suffix}"

    def body(self, **changes: Any) -> AuthBody:
        """Return what an honest client claims."""
        claims: dict[str, Any] = {
            "version": 1,
            "key": self.identity.public_key,
            "instance": self.instance,
            "names": (self.name,),
            "features": self.features,
            "software": "script",
        }
        return AuthBody(**(claims | changes))

    async def greet(self) -> Hello:
        """Take the control stream and the relay's hello."""
        self.control = await self.connection.accept_stream()
        self.channel: ClientChannel = ControlChannel(self.control, self.registration)
        event = await self.channel.receive()
        assert isinstance(event, Hello)
        return event

    async def claim(self, body: AuthBody) -> Welcome | Reject:
        """Send a proof made as it should be, and return the answer."""
        await self.channel.write(self.registration.auth(body, self.identity.sign))
        return await self.answer()

    async def answer(self) -> Welcome | Reject:
        """Return what the relay says to a proof."""
        event = await self.channel.receive()
        assert isinstance(event, Welcome | Reject)
        return event

    async def register(self, **changes: Any) -> Welcome | Reject:
        """Do all of it."""
        await self.greet()
        return await self.claim(self.body(**changes))

    async def serve(
        self, name: str = "", *, visitors: bool = True, challenge: bool = False
    ) -> Serving:
        """Ask to serve a name, its own by default, and return the answer."""
        await self.channel.send(Serve(name or self.name, visitors, challenge))
        return await self.hear(Serving)

    async def hear(self, kind: type[T]) -> T:
        """Return the next message, which has to be of this kind; pings are answered meanwhile."""
        while True:
            event = await self.channel.receive()
            if isinstance(event, Ping) and kind is not Ping:
                await self.channel.send(Pong(event.seq))
            elif not isinstance(event, Pong):
                assert isinstance(event, kind), event
                return event

    async def take(self) -> Call:
        """Return the next stream that the relay opens, its header read."""
        stream = await self.connection.accept_stream()
        reader = FrameReader(4096)
        while (header := reader.next_frame()) is None:
            data = await stream.receive()
            assert data, "the stream ended before its header"
            reader.feed(data)
        return Call(decode_header(header), stream, reader.take_rest())

    async def lost(self) -> Code:
        """Wait for the end of the connection and return the code that the relay gave."""
        return (await self.connection.wait_closed()).code


async def dial(
    transport: str, address: Address, pin: bytes, identity: Identity, **changes: Any
) -> ScriptedClient:
    """Connect to a relay and verify it by its pin."""
    trust = Trust("relay.test", pin=pin)
    connection = await DIALERS[transport](address, trust, OPTIONS, None)
    return ScriptedClient(connection, identity, **changes)
