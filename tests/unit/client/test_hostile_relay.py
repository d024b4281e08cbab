"""What a relay may do wrong to its clients, and what that leaves behind: nothing.

Whatever comes, in whatever order, the client answers with messages of its own or ends the
connection, and dials again after a pause. No time passes.
"""

import asyncio
import gc
import logging
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.client.scenes import FakeRelay, RelayEnd, client_settings, now, run_in_no_time
from tests.unit.relay.test_hostile_peers import CHUNKS, IDENTITY, NAME, Faults
from tunnel.client import Client
from tunnel.errors import Code, ConnectionLost, LocalProtocolError, StreamReset
from tunnel.protocol.fields import Reason
from tunnel.protocol.frames import FrameReader, frame
from tunnel.protocol.messages import (
    Auth,
    Bye,
    Drain,
    Hello,
    Message,
    Ping,
    Pong,
    Reject,
    Serve,
    Serving,
    StreamHeader,
    StreamKind,
    Welcome,
    decode,
    encode,
)
from tunnel.runtime.supervision import Crowd
from tunnel.stream import Stream
from tunnel.transport.memory import MemoryConnection
from tunnel.transport.options import TransportOptions

CLIENT_TALK = {Auth, Serve, Ping, Pong, Bye}
# With which code a client may leave a relay that misbehaves. Never INTERNAL.
CODES = {Code.OK, Code.PROTOCOL, Code.TIMEOUT, Code.VERSION, Code.NAME_REFUSED}
PATIENCE = 30.0  # seconds until a hostile relay ends a connection that the client has not ended
LONGEST = 3 * 86400.0  # seconds: the longest pause that a relay may ask for, and more
WINDOW = TransportOptions().flow.stream_window


class HostileEnd:
    """The relay's end of a connection; sends whatever it is told to, and notes the answers."""

    def __init__(self, relay: "HostileRelay", connection: MemoryConnection) -> None:
        self.relay = relay
        self.connection = connection
        self.heard: list[Message] = []
        self.is_deaf = False

    async def meet(self) -> None:
        """Open the control stream."""
        self.control: Stream = await self.connection.open_stream()

    async def listen(self) -> None:
        """Hear the client out."""
        reader = FrameReader(64 * 1024)
        with suppress(StreamReset):
            while not self.is_deaf and (data := await self.control.receive()):
                reader.feed(data)
                while (payload := reader.next_frame()) is not None:
                    self.heard.append(decode(payload))


Step = Callable[[HostileEnd], Awaitable[None]]


async def say(data: bytes, end: HostileEnd) -> None:
    await end.control.send(data)


async def open_one(data: bytes, ending: str, end: HostileEnd) -> None:
    stream = await end.connection.open_stream()
    await stream.send(data)
    if ending == "finish":
        await stream.finish()
    elif ending == "abort":
        stream.abort()


async def open_many(data: bytes, count: int, end: HostileEnd) -> None:
    for _ in range(count):
        await open_one(data, "none", end)


async def pause(seconds: float, _: HostileEnd) -> None:
    await asyncio.sleep(seconds)


async def finish(end: HostileEnd) -> None:
    await end.control.finish()


async def cut(code: Code, end: HostileEnd) -> None:
    end.control.abort(code)


async def leave(code: Code, end: HostileEnd) -> None:
    end.connection.close(code, "go away")


def messages(*each: Message) -> Step:
    """Return the step that says these."""
    return partial(say, b"".join(frame(encode(message)) for message in each))


def header(name: str = NAME, kind: StreamKind = StreamKind.VISITOR) -> bytes:
    """Return the frame that a visitor's stream begins with."""
    opening = StreamHeader(kind, "v1", name, ("192.0.2.7", 5555), ("192.0.2.1", 443), ())
    return frame(encode(opening))


def serving(name: str = NAME, code: Code | None = None, *, visitors: bool = True) -> Serving:
    """Return what a relay says of a name."""
    return Serving(name, visitors, False, None if code is None else Reason(code))


HELLO = Hello((1,), bytes(32), "hostile", ())
OBSERVED = ("198.51.100.3", 40000)
WELCOME = Welcome(bytes(16), {NAME: 443}, {}, 5.0, 1000, OBSERVED)
NO_WELCOME = Welcome(bytes(16), {}, {NAME: Reason(Code.NAME_REFUSED)}, 5.0, 1000, OBSERVED)
FOREIGN_WELCOME = Welcome(bytes(16), {"else.test": 443}, {}, 60.0, 1, OBSERVED)
GREET: list[Step] = [messages(HELLO), partial(pause, 0.1)]
REGISTER: list[Step] = [*GREET, messages(WELCOME), partial(pause, 0.1)]
PRELUDES: dict[str, list[Step]] = {"silent": [], "greeted": GREET, "welcomed": REGISTER}

REASONS = st.sampled_from([Reason(code) for code in Code])
WAITS = st.sampled_from([None, 0.0, 5.0, 600.0])
TALK = st.one_of(
    st.sampled_from([HELLO, WELCOME, NO_WELCOME, FOREIGN_WELCOME]),
    st.builds(Hello, st.just((2, 3)), st.just(bytes(32)), st.just(""), st.just(("replica",))),
    st.builds(Reject, REASONS, st.text(max_size=20), WAITS),
    st.builds(Bye, REASONS, st.text(max_size=20), WAITS),
    st.builds(Drain, st.sampled_from([0.0, 1.0, 86400.0]), st.sampled_from([0.0, 600.0])),
    st.builds(
        Serving,
        st.sampled_from([NAME, NAME, "else.test"]),
        st.booleans(),
        st.booleans(),
        st.one_of(st.none(), REASONS),
        WAITS,
    ),
).map(messages)
HEADERS = st.one_of(
    st.sampled_from([header(), header("else.test"), header(kind=StreamKind.CHALLENGE), b""]),
    st.binary(max_size=64).map(frame),
    st.binary(max_size=64),
    st.just((1 << 31).to_bytes(4)),
)
ENDINGS = st.sampled_from(["none", "finish", "abort"])
FLOODS: dict[str, Step] = {
    "pings": messages(*(Ping(number) for number in range(500))),
    "pongs": messages(*(Pong(number) for number in range(500))),
    "serving and not": messages(*(serving(visitors=number % 2 == 0) for number in range(500))),
    "names that nobody has": messages(*(serving(f"n{number}.test") for number in range(500))),
    "streams without a header": partial(open_many, b"", 100),
    "visitors": partial(open_many, header(), 20),
}


async def flood(kind: str, end: HostileEnd) -> None:
    await FLOODS[kind](end)


STEPS: st.SearchStrategy[Step] = st.one_of(
    TALK,
    CHUNKS.map(lambda data: partial(say, data)),
    st.builds(
        lambda first, more, ending: partial(open_one, first + more, ending),
        HEADERS,
        st.binary(max_size=100),
        ENDINGS,
    ),
    st.sampled_from(sorted(FLOODS)).map(lambda kind: partial(flood, kind)),
    st.sampled_from([0.0, 1.0, 6.0]).map(lambda seconds: partial(pause, seconds)),
    st.just(finish),
    st.sampled_from(Code).map(lambda code: partial(cut, code)),
    st.sampled_from(Code).map(lambda code: partial(leave, code)),
)


@dataclass(eq=False)
class HostileRelay(FakeRelay):
    """A relay that misbehaves on its first connections, one script each, and is honest then."""

    scripts: Sequence[Sequence[Step]] = ()
    met: list[HostileEnd] = field(default_factory=list)

    async def _attend(self, end: RelayEnd) -> None:
        if len(self.met) == len(self.scripts):
            await super()._attend(end)
            return
        steps = self.scripts[len(self.met)]
        hostile = HostileEnd(self, end.connection)
        self.met.append(hostile)
        await hostile.meet()
        async with asyncio.TaskGroup() as group:
            group.create_task(hostile.listen())
            with suppress(StreamReset, ConnectionLost, LocalProtocolError, TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    for step in steps:
                        await step(hostile)
                    await end.connection.wait_closed()
            end.connection.close()

    async def until_honest(self) -> None:
        """Wait until the client serves through an honest connection."""
        async with asyncio.timeout(LONGEST * (1 + len(self.scripts))):
            while not self.live():
                self.changed.clear()
                await self.changed.wait()


@contextmanager
def no_faults() -> Iterator[None]:
    """See to it that nothing is logged which an operator would have to mend."""
    faults = Faults()
    logging.getLogger("tunnel").addHandler(faults)
    try:
        yield
    finally:
        logging.getLogger("tunnel").removeHandler(faults)
    assert faults.lines == []


async def live(folder: Path, *scripts: Sequence[Step]) -> HostileRelay:
    """Run a client against a relay until it is honest; then nothing of the client is left."""
    server = {"transport": "h2", "pool_size": 1}
    chosen = client_settings(folder, server=server, endpoint={"certificate": "self-signed"})
    async with Crowd("hostile relay") as crowd:
        relay = HostileRelay(crowd, scripts=scripts)
        client = Client(chosen, signer=IDENTITY, dialers=relay.dialers)
        with no_faults():
            async with asyncio.TaskGroup() as group:
                group.create_task(client.run())
                await relay.until_honest()
                client.stop()
        assert all(end.connection.is_closed for end in relay.ends)
        crowd.cancel()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return relay


@pytest.mark.parametrize("prelude", PRELUDES)
@settings(max_examples=60)
@given(steps=st.lists(STEPS, max_size=6))
def test_any_relay_is_left_and_dialled_again(
    prelude: str, steps: list[Step], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    relay = run_in_no_time(live(folder, [*PRELUDES[prelude], *steps]))
    heard = relay.met[0].heard
    assert {type(each) for each in heard} <= CLIENT_TALK
    assert not any(isinstance(each, Bye) for each in heard[:-1])
    assert all(each.reason.code in CODES for each in heard if isinstance(each, Bye))
    assert len(relay.dials) >= 2


VIOLATIONS: dict[str, Step] = {
    "garbage": partial(say, b"\xff" * 10),
    "a frame over the limit": partial(say, (1 << 20).to_bytes(4) + bytes(100)),
    "no JSON": partial(say, frame(b"GET /")),
    "deep JSON": partial(say, frame(b"[" * 9000)),
    "its own proof": messages(Auth(b"{}", b"sealed")),
    "its own offer": messages(Serve(NAME, visitors=True, challenge=False)),
    "its end without a word": finish,
}


@pytest.mark.parametrize("prelude", PRELUDES)
@pytest.mark.parametrize("violation", VIOLATIONS)
def test_a_violation_ends_in_protocol(violation: str, prelude: str, tmp_path: Path) -> None:
    relay = run_in_no_time(live(tmp_path, [*PRELUDES[prelude], VIOLATIONS[violation]]))
    last = relay.met[0].heard[-1]
    assert isinstance(last, Bye)
    assert last.reason.code is Code.PROTOCOL


def test_a_relay_that_welcomes_and_breaks_off_is_dialled_less_and_less_often(
    tmp_path: Path,
) -> None:
    async def scene() -> list[float]:
        scripts = [[*REGISTER, violation] for violation in VIOLATIONS.values()] * 3
        return [at for _, at, _ in (await live(tmp_path, *scripts)).dials]

    dials = run_in_no_time(scene())
    # Some 240 s; with the shortest pauses each time, one after the other, it would be 36 s.
    assert dials[-1] - dials[0] > 90


def test_a_relay_that_asks_and_never_listens_is_not_listened_to(tmp_path: Path) -> None:
    """Its questions stay with it, for want of room for the answers."""
    question = b"".join(frame(encode(Ping(number))) for number in range(500))
    sent: list[int] = []

    async def ask(end: HostileEnd) -> None:
        end.is_deaf = True
        while True:
            await end.control.send(question)
            sent.append(len(question))

    run_in_no_time(live(tmp_path, [*REGISTER, ask]))
    assert sum(sent) < 4 * WINDOW


def test_streams_without_a_header_are_cut_in_time(tmp_path: Path) -> None:
    ends: dict[float, Code] = {}

    async def open_mute(end: HostileEnd) -> None:
        begun = now()
        streams = [await end.connection.open_stream() for _ in range(200)]
        for stream in streams:
            with pytest.raises(StreamReset) as reset:
                await stream.receive()
            ends[now() - begun] = reset.value.code

    run_in_no_time(live(tmp_path, [*REGISTER, open_mute]))
    assert set(ends.values()) == {Code.TIMEOUT}
    assert max(ends) < 6


@pytest.fixture
def _without_lines() -> Iterator[None]:
    """Log nothing that pytest would keep."""
    logger = logging.getLogger("tunnel")
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.mark.usefixtures("_without_lines")
def test_memory_stays_flat(tmp_path: Path) -> None:
    warm_up, count = 30, 90
    weights: list[int] = []

    async def weigh(end: HostileEnd) -> None:
        relay = end.relay  # whose own memory of the client is not what is weighed
        relay.ends.clear()
        relay.dials.clear()
        relay.met[:] = [end] * len(relay.met)
        gc.collect()
        weights.append(tracemalloc.get_traced_memory()[0])

    wrongs = [[*prelude, step] for prelude in PRELUDES.values() for step in VIOLATIONS.values()]
    wrongs += [[*REGISTER, step] for step in FLOODS.values()]
    scripts = [wrongs[number % len(wrongs)] for number in range(warm_up + count)]
    for number in (warm_up, -1):
        scripts[number] = [weigh]
    tracemalloc.start()
    try:
        # In debug mode a loop keeps where everything was made.
        run_in_no_time(live(tmp_path, *scripts), debug=False)
    finally:
        tracemalloc.stop()
    assert weights[1] - weights[0] < count * 1024  # a connection kept would cost several KiB
