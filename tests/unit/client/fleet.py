"""One client and several scripted relays, on the loop whose clock jumps."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.unit.client.scenes import (
    FakeRelay,
    RelayEnd,
    client_settings,
    now,
    run_in_no_time,
)
from tunnel.acme.challenge import PendingAnswer
from tunnel.client.client import Client
from tunnel.client.events import ClientEvent
from tunnel.client.validation import Validations
from tunnel.errors import OrderPostponed
from tunnel.protocol.messages import Serve
from tunnel.runtime.supervision import Crowd
from tunnel.settings.values import ClientSettings, ServerSettings
from tunnel.stream import Address, Connection

T = TypeVar("T")
VISITORS, BOTH, NOTHING = (True, False), (True, True), (False, False)
Relays = dict[str, FakeRelay]


@dataclass(eq=False)
class Fleet:
    """A client that runs against the relays `eu` and `us`, or against the first alone."""

    client: Client
    relays: dict[str, FakeRelay]
    events: list[ClientEvent]

    @property
    def name(self) -> str:
        return self.client.info()[0].names[0]

    @property
    def validations(self) -> Validations:
        return self.client._validations

    @property
    def eu(self) -> FakeRelay:
        return self.relays["eu"]

    @property
    def us(self) -> FakeRelay:
        return self.relays["us"]

    async def until(self, is_true: Callable[[], object]) -> None:
        """Wait until something that happened makes `is_true` true; all relays share the news."""
        await self.eu.until(is_true)

    async def all_serve(self) -> None:
        """Wait until the client has heard that every relay serves it."""
        await self.until(lambda: all(each.names for each in self.client.info()[0].servers))

    @asynccontextmanager
    async def opened(self, *, renewal: bool = False) -> AsyncIterator[None]:
        """Open a validation of the name, with a context that nobody uses."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        async with self.validations.opened(self.name, PendingAnswer(context), renewal=renewal):
            yield

    def wishes(self) -> dict[str, list[tuple[bool, bool]]]:
        """Return what each relay was asked for, as (visitors, challenge), on all connections."""
        return {
            name: [(each.visitors, each.challenge) for end in relay.ends for each in end.wishes]
            for name, relay in self.relays.items()
        }


def asks(_end: RelayEnd, serve: Serve) -> bool:
    """Say whether a client asks for validations: which of its wishes a relay may pass over."""
    return serve.challenge


def play(
    folder: Path,
    script: Callable[[Fleet], Coroutine[Any, Any, T]],
    *,
    relays: tuple[str, ...] = ("eu", "us"),
    set_up: Callable[[dict[str, FakeRelay]], None] = lambda _relays: None,
    transport: str = "quic",
    names: tuple[str, ...] = (),
) -> T:
    """Run a client against the relays while `script` runs, then stop it; no time passes."""
    servers = {
        name: ServerSettings(name, Address(f"192.0.2.{number}", 4433), name, transport=transport)
        for number, name in enumerate(relays, 1)
    }
    endpoint = {"certificate": "self-signed", "servers": relays, "names": names}
    settings = client_settings(folder, servers=servers, endpoint=endpoint)
    return run_in_no_time(_play(settings, script, set_up))


async def _play(
    settings: ClientSettings,
    script: Callable[[Fleet], Awaitable[T]],
    set_up: Callable[[dict[str, FakeRelay]], None],
) -> T:
    async with Crowd("fake relays") as crowd:
        news = asyncio.Event()
        relays = {name: FakeRelay(crowd, changed=news) for name in settings.servers}
        set_up(relays)
        addressed = {each.address: relays[name] for name, each in settings.servers.items()}
        events: list[ClientEvent] = []

        def note(event: ClientEvent) -> None:
            events.append(event)
            news.set()

        async def dial(word: str, address: Address, *rest: Any) -> Connection:
            return await addressed[address].dialers[word](address, *rest)  # type: ignore[no-any-return]  # of the scripted relays

        dialers = {word: partial(dial, word) for word in ("quic", "h2")}
        client = Client(settings, on_event=note, dialers=dialers)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(client.run(), name="client")
            result = await script(Fleet(client, relays, events))
            client.stop()
            await running
        crowd.cancel()
        return result


def unreachable(relay: FakeRelay) -> None:
    relay.dead |= {"quic", "h2"}


def slow_to_answer(relay: FakeRelay, delay: float) -> None:
    """Let what is asked about validations be answered after `delay` seconds only."""

    async def answer(end: RelayEnd, serve: Serve) -> None:
        await asyncio.sleep(delay * serve.challenge)
        await at_once(end, serve)

    at_once, relay._serve = relay._serve, answer  # type: ignore[method-assign]  # a slower one


async def postponed(fleet: Fleet) -> tuple[OrderPostponed, float]:
    """Open a validation that is not confirmed; return why, and how many seconds that took."""
    begun = now()
    with pytest.raises(OrderPostponed) as error:
        async with fleet.opened():
            pytest.fail("opened before all have confirmed")
    return error.value, now() - begun


async def entered(fleet: Fleet) -> float:
    """Open a validation; return how many seconds it took until all had confirmed."""
    begun = now()
    async with fleet.opened():
        return now() - begun
