"""A loop whose clock jumps, and scripted relays over memory: a client's whole life in no time."""

import asyncio
import secrets
import selectors
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tunnel.client.client import Client
from tunnel.client.events import ClientEvent
from tunnel.errors import Code, ConnectionLost, DialFailed, Refused
from tunnel.protocol.fields import Reason
from tunnel.protocol.frames import frame
from tunnel.protocol.messages import (
    Bye,
    Drain,
    Hello,
    Ping,
    Pong,
    Serve,
    Serving,
    StreamHeader,
    StreamKind,
    Welcome,
    encode,
)
from tunnel.protocol.registration import Claim, FromClient, RelayRegistration
from tunnel.runtime.control import ControlChannel, part
from tunnel.runtime.supervision import Crowd
from tunnel.settings.values import (
    ClientSettings,
    EndpointSettings,
    KeypairSettings,
    ServerSettings,
    Target,
)
from tunnel.stream import Address, Connection, Stream
from tunnel.tls.contexts import Trust
from tunnel.tls.identity import authenticate
from tunnel.transport.memory import BINDING, MemoryConnection, memory_pair
from tunnel.transport.options import TransportOptions

T = TypeVar("T")
SUFFIX = "t.test"
PORT = 8443


class _JumpingSelector(selectors.DefaultSelector):
    """Where the loop would sleep, its clock jumps to the end of that sleep instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None:  # only a thread or a socket can end this wait
            return super().select(5.0)
        self.now += timeout
        return []


def run_in_no_time(main: Coroutine[Any, Any, T], *, debug: bool = True) -> T:
    """Run `main` on a loop in which every timer fires at once, in order, at its own time."""
    selector = _JumpingSelector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign] # the clock is the point
    with asyncio.Runner(loop_factory=lambda: loop, debug=debug) as runner:
        return runner.run(main)


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass(eq=False)
class RelayEnd:
    """The relay's end of one connection, and what the client has said on it."""

    transport: str
    connection: MemoryConnection
    opened_at: float
    channel: ControlChannel[FromClient, Any] = field(init=False)
    claim: Claim | None = None
    serving: set[str] = field(default_factory=set)
    bye: Code | None = None
    offers: int = 0  # times that the client offered to serve anything
    wishes: list[Serve] = field(default_factory=list)
    is_mute: bool = False  # answers nothing and delivers nothing: the path is dead

    async def open_visitor(self, name: str, first: bytes = b"", **header: Any) -> Stream:
        """Return a new stream for a visitor of `name` who has sent `first`."""
        fields: dict[str, Any] = {
            "kind": StreamKind.VISITOR,
            "id": "v1",
            "peer": ("192.0.2.7", 5555),
            "local": ("192.0.2.1", 443),
            "alpn": (),
        }
        stream = await self.connection.open_stream()
        opening = StreamHeader(name=name, **{**fields, **header})
        await stream.send(frame(encode(opening)) + first)
        return stream


@dataclass(eq=False)
class FakeRelay:
    """A relay as a script: what it answers is set by its fields, what it saw is in `ends`.

    `unreachable` are transports whose dials end in nothing after five seconds; `dead` ones whose
    dials are refused at once.
    """

    crowd: Crowd
    unreachable: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)
    refusal: Refused | None = None  # the answer to every claim
    refused_names: dict[str, Code] = field(default_factory=dict)
    uninvited: dict[str, Code] = field(default_factory=dict)  # refusals of what nobody claimed
    objections: dict[str, Code] = field(default_factory=dict)  # answers to `serve`
    is_mute: bool = False  # every connection made from now on
    delay: float = 0.0  # of a dial, in seconds
    delays: dict[str, float] = field(default_factory=dict)  # of a transport's dials, instead
    busy: Refused | None = None  # the answer to whoever asks for validations
    refuses_wholly: bool = False  # visitors too, where it is the validations that are refused
    leaves_unanswered: Callable[[RelayEnd, Serve], bool] = lambda _end, _serve: False
    dials: list[tuple[str, float, Address]] = field(default_factory=list)
    ends: list[RelayEnd] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def dialers(self) -> Mapping[str, Any]:
        return {word: partial(self._dial, word) for word in ("quic", "h2")}

    async def _dial(
        self, word: str, address: Address, _trust: Trust, options: TransportOptions, _: str | None
    ) -> Connection:
        self.dials.append((word, now(), address))
        self.changed.set()
        if word in self.dead:
            raise DialFailed(f"{address} refused {word}")
        await asyncio.sleep(self.delays.get(word, self.delay))
        if word in self.unreachable:
            await asyncio.Event().wait()
        relay, client = memory_pair(options)
        client.last_heard = now()
        end = RelayEnd(word, relay, now(), is_mute=self.is_mute)
        self.ends.append(end)
        self.crowd.start(self._attend(end))
        return client

    async def _attend(self, end: RelayEnd) -> None:
        stream = await end.connection.open_stream()
        hello = Hello((1,), secrets.token_bytes(32), "fake", ())
        registration = RelayRegistration(hello, BINDING.transport, BINDING.leaf_hash, authenticate)
        end.channel = ControlChannel(stream, registration)
        await end.channel.write(registration.greeting())
        try:
            while True:
                event = await end.channel.receive()
                if not end.is_mute:
                    end.connection.far.last_heard = now()
                    await self._answer(end, event)
                    self.changed.set()
        except ConnectionLost:
            self.changed.set()

    async def _answer(self, end: RelayEnd, event: FromClient) -> None:
        match event:
            case Claim():
                end.claim = event
                await self._decide(end, event)
            case Serve():
                await self._serve(end, event)
            case Ping():
                await end.channel.send(Pong(event.seq))
            case Bye():
                end.bye = event.reason.code
                end.serving.clear()
                end.connection.close()

    async def _decide(self, end: RelayEnd, claim: Claim) -> None:
        if self.refusal is not None:
            why = self.refusal
            await part(end.connection, end.channel, why.code, why.message, why.retry_after)
            return
        refused = {n: Reason(c) for n, c in self.refused_names.items() if n in claim.names}
        granted = {name: PORT for name in claim.names if name not in refused}
        refused |= {name: Reason(code) for name, code in self.uninvited.items()}
        observed = ("198.51.100.3", 40000)
        await end.channel.send(Welcome(bytes(16), granted, refused, 5.0, 1000, observed))

    async def _serve(self, end: RelayEnd, serve: Serve) -> None:
        end.wishes.append(serve)
        end.offers += serve.visitors
        code = self.objections.get(serve.name) if serve.visitors else None
        busy = self.busy if serve.challenge else None
        if busy is None or not self.refuses_wholly:
            change = end.serving.add if serve.visitors and code is None else end.serving.discard
            change(serve.name)
        if self.leaves_unanswered(end, serve):
            return
        is_served = serve.name in end.serving
        code = code or (busy.code if busy is not None else None)
        answer = Serving(
            serve.name,
            is_served,
            challenge=is_served and serve.challenge and busy is None,
            reason=None if code is None else Reason(code),
            retry_after=None if busy is None else busy.retry_after,
            message="" if busy is None else busy.message,
        )
        await end.channel.send(answer)

    async def supersede(self, end: RelayEnd) -> None:
        """Say what a relay says when a newer instance has taken over."""
        for name in sorted(end.serving):
            await end.channel.send(
                Serving(name, visitors=False, challenge=False, reason=Reason(Code.SUPERSEDED))
            )
        end.serving.clear()
        await end.channel.send(Drain(deadline=30.0, retry_after=0.0))

    def go_mute(self, word: str) -> None:
        """Let every path of a transport die."""
        self.unreachable.add(word)
        for end in self.ends:
            end.is_mute = end.is_mute or end.transport == word

    def live(self, word: str | None = None) -> list[RelayEnd]:
        """Return the ends that serve something, of one transport or of all."""
        return [end for end in self.ends if end.serving and word in (None, end.transport)]

    async def until(self, is_true: Callable[[], object]) -> None:
        """Wait until something that happened makes `is_true` true; 1000 s at most."""
        async with asyncio.timeout(1000):
            while not is_true():
                self.changed.clear()
                await self.changed.wait()


def client_settings(state_dir: Path, **changes: Any) -> ClientSettings:
    """Return one server, one keypair and one passed-through endpoint, changed as asked."""
    endpoint = {
        "keypair": "key",
        "suffix": SUFFIX,
        "servers": ("eu",),
        "certificate": "passthrough",
    }
    server = ServerSettings(
        "eu", Address("192.0.2.1", 4433), "relay.test", **changes.pop("server", {})
    )
    target = changes.pop("target", Target(Address("127.0.0.1", 9)))
    web = EndpointSettings("web", target=target, **{**endpoint, **changes.pop("endpoint", {})})
    values: dict[str, Any] = {
        "state_dir": state_dir,
        "servers": {"eu": server},
        "keypairs": {"key": KeypairSettings("key", state_dir / "client.key")},
        "endpoints": {"web": web},
    }
    return ClientSettings(**{**values, **changes})


class EchoTarget:
    """A service on a Unix socket that returns what it is sent, and ends when its caller does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.received: list[bytes] = []
        self.cuts = 0
        self._server: asyncio.Server

    async def __aenter__(self) -> "EchoTarget":
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                self.received.append(data)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            self.cuts += 1
        writer.close()


@dataclass(eq=False)
class Scene:
    """A client that runs against one fake relay."""

    relay: FakeRelay
    client: Client
    events: list[ClientEvent]

    @property
    def name(self) -> str:
        return self.client.info()[0].names[0]

    def of(self, kind: type[T]) -> list[T]:
        """Return the events of one kind so far."""
        return [event for event in self.events if isinstance(event, kind)]


def _leave_alone(_relay: FakeRelay) -> None:
    """Change nothing about a relay."""


def play(
    settings: ClientSettings,
    script: Callable[[Scene], Coroutine[Any, Any, T]],
    *,
    set_up: Callable[[FakeRelay], None] = _leave_alone,
    **options: Any,
) -> T:
    """Run a client against a fake relay while `script` runs, then stop it; no time passes."""
    return run_in_no_time(_play(settings, script, set_up, options))


def play_with_target(
    settings: ClientSettings,
    script: Callable[[Scene, EchoTarget], Coroutine[Any, Any, T]],
    set_up: Callable[[FakeRelay], None] = _leave_alone,
) -> T:
    """As `play`, with an echoing service as the endpoint's target."""

    async def run() -> T:
        async with EchoTarget(settings.state_dir / "echo.sock") as target:
            web = replace(settings.endpoints["web"], target=Target(path=target.path))
            changed = replace(settings, endpoints={"web": web})
            return await _play(changed, lambda scene: script(scene, target), set_up, {})

    return run_in_no_time(run())


async def _play(
    settings: ClientSettings,
    script: Callable[[Scene], Coroutine[Any, Any, T]],
    set_up: Callable[[FakeRelay], None],
    options: Mapping[str, Any],
) -> T:
    async with Crowd("fake relay") as crowd:
        relay = FakeRelay(crowd)
        set_up(relay)
        events: list[ClientEvent] = []

        def note(event: ClientEvent) -> None:
            events.append(event)
            relay.changed.set()

        known = {"on_event": note, "dialers": relay.dialers, **options}
        client = Client(settings, **known)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(client.run(), name="client")
            result = await script(Scene(relay, client, events))
            client.stop()
            await running
        crowd.cancel()
        return result


async def read_all(stream: Stream) -> bytes:
    """Return what comes until the peer finishes."""
    parts = []
    while data := await stream.receive():
        parts.append(data)
    return b"".join(parts)
