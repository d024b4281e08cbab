"""What a client's program may do wrong at its control stream, and what that leaves behind: nothing.

Whatever the peer sends, in whatever order, the relay answers with messages of its own, ends the
connection with a documented code, and forgets it.
"""

import asyncio
import gc
import logging
import random
import socket
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.relay.scenes import Orders
from tunnel.errors import Code, ConnectionLost, LocalProtocolError, StreamReset
from tunnel.protocol.fields import Reason
from tunnel.protocol.frames import FrameReader, frame
from tunnel.protocol.messages import (
    Auth,
    AuthBody,
    Bye,
    Drain,
    Hello,
    Message,
    Ping,
    Pong,
    Reject,
    Serve,
    Serving,
    Welcome,
    decode,
    encode,
)
from tunnel.protocol.names import client_id
from tunnel.protocol.registration import FROM_RELAY, signed_message
from tunnel.relay.admission import SettingsAdmission
from tunnel.relay.agents import Agents, Doors
from tunnel.relay.challenges import Challenges
from tunnel.relay.known_keys import KnownKeys
from tunnel.relay.registry import Registry
from tunnel.settings.values import RelaySettings, SuffixSettings
from tunnel.stream import Address
from tunnel.tls.certificates import self_signed
from tunnel.tls.identity import fingerprint, generate
from tunnel.tls.slots import CertificateSlot
from tunnel.transport.memory import BINDING, MemoryConnection, memory_pair
from tunnel.transport.options import TransportOptions

IDENTITY = generate()
NAME = f"{client_id(fingerprint(IDENTITY.public_key), 128)}.t.test"
DOORS = Doors(
    CertificateSlot(self_signed(["relay.test"], now=datetime.now(UTC))), TransportOptions()
)
BODY = AuthBody(1, IDENTITY.public_key, b"i" * 16, (NAME,), (), "script")
RELAY_TALK = {kind for _, kind in FROM_RELAY}
LAST_WORDS = (Reject, Bye)

# With which code a relay may end a connection whose client misbehaves. Never INTERNAL.
CODES = {Code.OK, Code.PROTOCOL, Code.UNAUTHORIZED, Code.NAME_REFUSED, Code.VERSION}


class HostilePeer:
    """The client's end of a connection; reads like a client, sends whatever it is told to."""

    def __init__(self, connection: MemoryConnection) -> None:
        self.connection = connection
        self.heard: list[Message] = []
        self._hello = asyncio.get_running_loop().create_future()

    async def meet(self) -> None:
        """Take the control stream."""
        self.control = await self.connection.accept_stream()

    async def listen(self) -> None:
        """Hear the relay out, and close when it has said its last word, as a client does."""
        reader = FrameReader(64 * 1024)
        with suppress(StreamReset):
            while data := await self.control.receive():
                reader.feed(data)
                while (payload := reader.next_frame()) is not None:
                    self._hear(payload)
        if not self._hello.done():  # cut before it came: whoever waits for it is not left behind
            self._hello.set_result(b"")
        if self.heard and isinstance(self.heard[-1], LAST_WORDS):
            self.connection.close(self.heard[-1].reason.code)

    def _hear(self, payload: bytes) -> None:
        self.heard.append(decode(payload))
        if isinstance(self.heard[-1], Hello):
            self._hello.set_result(payload)

    async def auth(self, body: AuthBody = BODY, *, is_sealed: bool = True) -> bytes:
        """Return the frame of a proof."""
        raw = encode(body)
        hello = await self._hello
        proof = signed_message(BINDING.transport, BINDING.leaf_hash, hello, raw)
        return frame(encode(Auth(raw, IDENTITY.sign(proof if is_sealed else b"else"))))

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self.control.send(data)


Step = Callable[[HostilePeer], Awaitable[None]]


async def say(data: bytes, peer: HostilePeer) -> None:
    await peer.send(data)


async def prove(body: AuthBody, is_sealed: bool, peer: HostilePeer) -> None:
    await peer.send(await peer.auth(body, is_sealed=is_sealed))


async def pause(turns: int, peer: HostilePeer) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def finish(peer: HostilePeer) -> None:
    await peer.control.finish()


async def cut(code: Code, peer: HostilePeer) -> None:
    peer.control.abort(code)


async def leave(code: Code, peer: HostilePeer) -> None:
    peer.connection.close(code)


def _step(action: Callable[..., Awaitable[None]], *arguments: object) -> Step:
    return partial(action, *arguments)


CLAIMS = st.builds(
    AuthBody,
    version=st.sampled_from([1, 1, 1, 2]),
    key=st.sampled_from([IDENTITY.public_key, IDENTITY.public_key, b"no key"]),
    instance=st.sampled_from([b"i" * 16, b"j" * 16]),
    names=st.sampled_from([(NAME,), (NAME, "else.test"), ("else.test",)]),
    features=st.sampled_from([(), ("replica",)]),
    software=st.just("script"),
)
ANY_REASON = st.builds(Reason, st.sampled_from(Code))
MESSAGES = st.one_of(
    st.builds(Ping, st.integers(0, 2**63 - 1)),
    st.builds(Pong, st.integers(0, 2**63 - 1)),
    st.builds(Serve, st.sampled_from([NAME, "else.test"]), st.booleans(), st.booleans()),
    st.builds(Bye, ANY_REASON, st.just("")),
    st.builds(Reject, ANY_REASON, st.just("")),
    st.builds(Drain, st.just(1.0), st.just(1.0)),
    st.builds(Serving, st.just(NAME), st.booleans(), st.booleans()),
    st.builds(Hello, st.just((1,)), st.binary(min_size=32, max_size=32), st.just(""), st.just(())),
    st.just(Welcome(bytes(16), {NAME: 443}, {}, 5.0, 1000, ("192.0.2.1", 1))),
    st.builds(Auth, st.binary(min_size=2, max_size=80), st.binary(min_size=1, max_size=80)),
)
FRAMES = st.one_of(
    MESSAGES.map(encode),
    st.binary(max_size=200),
    st.sampled_from([b"{}", b"[]", b'{"type":1}', b'{"type":"ping","seq":1e999}', b"[" * 5000]),
).map(frame)
CHUNKS = st.one_of(FRAMES, FRAMES.map(lambda sent: sent[:-1]), st.binary(max_size=64))
STEPS = st.one_of(
    CHUNKS.map(lambda data: _step(say, data)),
    CHUNKS.map(lambda data: _step(say, data)),
    st.builds(partial(_step, prove), CLAIMS, st.sampled_from([True, True, False])),
    st.integers(1, 20).map(lambda turns: _step(pause, turns)),
    st.just(_step(finish)),
    st.sampled_from(Code).map(lambda code: _step(cut, code)),
    st.sampled_from(Code).map(lambda code: _step(leave, code)),
)
REGISTER = [_step(prove, BODY, True), _step(pause, 20)]


class Faults(logging.Handler):
    """Keeps what an operator would have to mend."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self.lines.append(self.format(record))


def test_a_socket_that_is_reset_before_its_turn_is_no_fault_of_ours(tmp_path: Path) -> None:
    async def body() -> None:
        sock = socket.socket()  # like one that was reset, it has no peer
        async with agents_in(tmp_path) as (agents, _):
            agents.take_socket(sock, Address("192.0.2.1", 4000))
        assert sock.fileno() == -1

    asyncio.run(body())


@asynccontextmanager
async def agents_in(folder: Path) -> AsyncIterator[tuple[Agents, Registry]]:
    """Yield the relay's side; at the end all its tasks have ended and it remembers nobody."""
    chosen = RelaySettings("relay", folder, {}, {"t.test": SuffixSettings("t.test", access="open")})
    clock = asyncio.get_running_loop().time
    registry = Registry(100, (), Challenges(Orders(), clock), clock)
    admission = SettingsAdmission(chosen, frozenset(), KnownKeys(folder / "known"))
    agents = Agents(chosen, registry, admission, DOORS)
    faults = Faults()
    logging.getLogger("tunnel").addHandler(faults)
    try:
        async with asyncio.timeout(15), agents.crowd:
            yield agents, registry
            await agents.crowd.emptied()
    finally:
        logging.getLogger("tunnel").removeHandler(faults)
    assert faults.lines == []
    assert_empty(registry)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def assert_empty(registry: Registry) -> None:
    assert registry.connections == 0
    assert registry._challenges._pending == {}
    assert repr(registry._waiting) == "<Waiting for 0 names>"
    tables = ("sessions", "uses", "holders", "successors")
    assert {table: getattr(registry, f"_{table}") for table in tables} == {t: {} for t in tables}


async def connect(agents: Agents) -> HostilePeer:
    """Return a peer that has connected and heard nothing yet."""
    near, far = memory_pair()
    near.peer = Address("192.0.2.1", 4000)
    agents.crowd.start(agents.serve(near))
    peer = HostilePeer(far)
    await peer.meet()
    return peer


async def play(agents: Agents, steps: list[Step]) -> HostilePeer:
    """Play one connection from its beginning to its end."""
    peer = await connect(agents)
    async with asyncio.TaskGroup() as group:
        group.create_task(peer.listen())
        with suppress(StreamReset, ConnectionLost, LocalProtocolError):  # the relay has had enough
            for step in steps:
                await step(peer)
            await pause(20, peer)
        peer.connection.close()
    return peer


@pytest.mark.parametrize("prelude", [[], REGISTER], ids=["unregistered", "registered"])
@settings(max_examples=150)
@given(steps=st.lists(STEPS, max_size=8))
def test_any_peer_is_answered_and_forgotten(
    prelude: list[Step], steps: list[Step], tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def scene() -> HostilePeer:
        async with agents_in(tmp_path_factory.getbasetemp()) as (agents, _):
            return await play(agents, [*prelude, *steps])

    heard = asyncio.run(scene()).heard
    assert {type(each) for each in heard} <= RELAY_TALK
    assert all(isinstance(each, Hello) for each in heard[:1])
    assert not any(isinstance(each, LAST_WORDS) for each in heard[:-1])
    assert all(each.reason.code in CODES for each in heard if isinstance(each, LAST_WORDS))


VIOLATIONS: dict[str, list[Step]] = {
    "garbage": [_step(say, b"\xff" * 10)],
    "no JSON": [_step(say, frame(b"GET /"))],
    "deep JSON": [_step(say, frame(b"[" * 9000))],
    "another hello": [_step(say, frame(encode(Hello((1,), bytes(32), "", ()))))],
    "its own serving": [
        _step(say, frame(encode(Serving(NAME, visitors=True, challenge=False)))),
    ],
    "its end without a word": [_step(finish)],
    "a second proof": [_step(prove, BODY, True), _step(prove, BODY, True)],
}


@pytest.mark.parametrize("prelude", [[], REGISTER], ids=["unregistered", "registered"])
@pytest.mark.parametrize("violation", VIOLATIONS)
def test_a_violation_ends_in_protocol(violation: str, prelude: list[Step], tmp_path: Path) -> None:
    async def scene() -> HostilePeer:
        async with agents_in(tmp_path) as (agents, _):
            return await play(agents, [*prelude, *VIOLATIONS[violation]])

    last = asyncio.run(scene()).heard[-1]
    assert isinstance(last, LAST_WORDS)
    assert last.reason.code is Code.PROTOCOL


def test_a_peer_that_asks_and_never_listens_is_not_listened_to(tmp_path: Path) -> None:
    """Its questions stay with it, for want of room for the answers."""

    async def flood(peer: HostilePeer) -> int:
        await peer.send(await peer.auth())
        sent = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    sent += len(question)
                    await peer.send(question)
        return sent

    async def scene() -> int:
        async with agents_in(tmp_path) as (agents, _):
            peer = await connect(agents)
            reader = FrameReader()
            reader.feed(await peer.control.receive())
            hello = reader.next_frame()
            assert hello is not None
            peer._hello.set_result(hello)
            sent = await flood(peer)
            peer.connection.close()
            return sent

    question = b"".join(frame(encode(Ping(number))) for number in range(500))
    assert asyncio.run(scene()) < 4 * DOORS.options.flow.stream_window


def test_names_that_are_not_granted_are_not_remembered(tmp_path: Path) -> None:
    async def scene() -> None:
        async with agents_in(tmp_path) as (agents, registry):
            strange = [
                _step(say, frame(encode(Serve(f"n{number}.test", number % 2 == 0, False))))
                for number in range(300)
            ]
            await play(agents, [*REGISTER, *strange])
            assert len(registry.expected._recent) == 0

    asyncio.run(scene())


@pytest.fixture
def _without_lines() -> Iterator[None]:
    """Log nothing that pytest would keep."""
    logger = logging.getLogger("tunnel")
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.mark.usefixtures("_without_lines")
def test_memory_stays_flat(tmp_path: Path) -> None:
    source, warm_up, count = random.Random(7), 60, 180
    chunks = [source.randbytes(source.randrange(200)) for _ in range(20)]
    endings = [*VIOLATIONS.values(), [_step(leave, Code.OK)], *([_step(say, c)] for c in chunks)]

    async def rounds(agents: Agents, total: int) -> int:
        for number in range(total):
            prelude = REGISTER if number % 2 else []
            await play(agents, [*prelude, *endings[number % len(endings)]])
            await agents.crowd.emptied()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    async def scene() -> int:
        async with agents_in(tmp_path) as (agents, _):
            before = await rounds(agents, warm_up)
            return await rounds(agents, count) - before

    tracemalloc.start()
    try:
        with asyncio.Runner(debug=False) as loop:  # which keeps where everything was made
            growth = loop.run(scene())
    finally:
        tracemalloc.stop()
    assert growth < count * 1024  # a connection that was kept would cost several KiB
