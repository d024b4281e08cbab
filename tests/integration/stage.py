"""A real relay on loopback ports in this process, and settings for it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.integration.clients import ScriptedClient, dial
from tests.ports import free_port
from tests.variants import ASKED, quic
from tunnel.protocol.messages import Welcome
from tunnel.relay.admission import Admission
from tunnel.relay.server import Opening, Relay
from tunnel.runtime.activation import InheritedSockets
from tunnel.settings.values import (
    ClientGrant,
    ListenerSettings,
    RelaySettings,
    SuffixSettings,
)
from tunnel.stream import Address
from tunnel.tls.identity import Identity, fingerprint, generate

LOOPBACK = "127.0.0.1"
SUFFIX = "t.test"
OPEN = {SUFFIX: SuffixSettings(SUFFIX, access="open", public_port=8443)}
LISTED = {SUFFIX: SuffixSettings(SUFFIX, access="listed", public_port=8443)}


def listener(kind: str, **changes: Any) -> ListenerSettings:
    """Return a listener on a free port, named as its kind."""
    return ListenerSettings(kind, kind, (Address(LOOPBACK, free_port()),), **changes)


def relay_settings(folder: Path, **changes: Any) -> RelaySettings:
    """Return settings that anybody may register with, and the deadlines that are the default."""
    chosen: dict[str, Any] = {
        "name": "relay.test",
        "state_dir": folder / "relay",
        "suffixes": OPEN,
        "drain_timeout": 1.0,
        "quic": quic(ASKED.engines.relay),
    }
    chosen |= changes
    if "listeners" not in chosen:
        chosen["listeners"] = [listener("agents"), listener("public")]
    chosen["listeners"] = {each.name: each for each in chosen["listeners"]}
    return RelaySettings(**chosen)


def granted(identity: Identity, **changes: Any) -> Mapping[str, ClientGrant]:
    """Return the `[clients.*]` tables that admit one identity."""
    grant = ClientGrant("shop", fingerprint(identity.public_key), (SUFFIX,), **changes)
    return {grant.name: grant}


@dataclass
class Stage:
    """A relay that runs, and the clients on it."""

    settings: RelaySettings
    pin: bytes
    stop: asyncio.Event
    over: asyncio.Event = field(default_factory=asyncio.Event)  # the relay has ended
    clients: list[ScriptedClient] = field(default_factory=list)
    relay: Relay = field(init=False)

    def address(self, kind: str = "public") -> Address:
        """Return where the listener of a kind listens."""
        return self.settings.listeners[kind].listen[0]

    @property
    def public(self) -> Address:
        """Where visitors connect."""
        return self.address()

    @property
    def agents(self) -> Address:
        """Where clients connect."""
        return self.address("agents" if "agents" in self.settings.listeners else "shared")

    async def dial(
        self, transport: str = "h2", identity: Identity | None = None, **changes: Any
    ) -> ScriptedClient:
        """Return a client that has connected and said nothing yet."""
        client = await dial(
            transport, self.agents, self.pin, identity=identity or generate(), **changes
        )
        self.clients.append(client)
        return client

    async def register(
        self, transport: str = "h2", identity: Identity | None = None, **changes: Any
    ) -> ScriptedClient:
        """Return a client that was welcomed."""
        client = await self.dial(transport, identity, **changes)
        answer = await client.register()
        assert isinstance(answer, Welcome), answer
        return client

    async def serve(
        self, transport: str = "h2", identity: Identity | None = None, **changes: Any
    ) -> ScriptedClient:
        """Return a client that serves visitors of its name."""
        client = await self.register(transport, identity, **changes)
        answer = await client.serve()
        assert answer.reason is None, answer
        return client


@asynccontextmanager
async def on_stage(
    settings: RelaySettings,
    admission: Admission | None = None,
    inherited: InheritedSockets | None = None,
) -> AsyncIterator[Stage]:
    """Run a relay while inside; it is asked to stop at the end, and has to."""
    opened: asyncio.Future[Opening] = asyncio.get_running_loop().create_future()
    relay = Relay(settings, admission=admission, on_open=opened.set_result, inherited=inherited)
    async with asyncio.TaskGroup() as group:
        stage = Stage(settings, b"", asyncio.Event())
        stage.relay = relay

        async def run() -> None:
            await relay.run(stage.stop)
            stage.over.set()

        group.create_task(run(), name="relay")
        stage.pin = (await opened).pin or b""
        yield stage
        for client in stage.clients:
            client.connection.close()
        stage.stop.set()


async def until(claim: Callable[[], bool]) -> None:
    """Wait until the claim is true; the test's deadline is the bound."""
    while not claim():  # noqa: ASYNC110 - of what tells nobody
        await asyncio.sleep(0.002)
