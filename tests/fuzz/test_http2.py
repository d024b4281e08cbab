"""What is read and built without h2, beside h2 itself: the same frames, the same account."""

from collections.abc import Callable, Iterable
from typing import Any

import h2.events
import pytest
from h2.connection import ConnectionState
from h2.exceptions import ProtocolError
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnel.errors import Code
from tunnel.settings.values import MIB, FlowSettings
from tunnel.transport.http2.engine import CONTROL_REQUEST, RESPONSE, STREAM_REQUEST, Engine
from tunnel.transport.http2.frames import Piece, frame_header
from tunnel.transport.http2.shortcuts import Requested, ShortcutEngine, encoded

FLOW = FlowSettings(stream_window=3000, stream_window_max=3000, connection_window=8 * MIB)
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, CREDIT, CONTINUATION = range(10)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ACCEPTED_SETTINGS = frame_header(12, SETTINGS, 0, 0) + bytes.fromhex("00010000000000030000000a")
STREAMS = (1, 3, 5, 7)

Note = tuple[Any, ...] | dict[int, bytes]
thoroughly = settings(max_examples=300, deadline=None)  # a busy machine is not a slow parser


class ByH2:
    """An engine of which h2 reads and builds every frame: the reference."""

    def __init__(self, *, is_relay: bool) -> None:
        self.engine = Engine(FLOW, is_relay=is_relay)
        self.engine.start()

    def receive(self, pieces: Iterable[bytes]) -> list[Any]:
        return self.engine.receive_data(b"".join(pieces))

    def begin(self) -> None:
        stream_id = self.engine.get_next_available_stream_id()
        self.engine.send_headers(stream_id, CONTROL_REQUEST if stream_id == 1 else STREAM_REQUEST)

    def answer(self, stream_id: int) -> None:
        self.engine.send_headers(stream_id, RESPONSE)

    def grant(self, stream_id: int, credit: int) -> None:
        self.engine.increment_flow_control_window(credit, stream_id)

    def send(self, stream_id: int, data: bytes, *, is_last: bool) -> None:
        self.engine.send_data(stream_id, data, end_stream=is_last)


class ByShortcuts:
    """The engine that is used."""

    def __init__(self, *, is_relay: bool) -> None:
        self.engine = ShortcutEngine(FLOW, is_relay=is_relay)
        self.engine.start()

    def receive(self, pieces: Iterable[bytes]) -> list[Any]:
        return [event for each in pieces for event in self.engine.receive(memoryview(each), 0)]

    def begin(self) -> None:
        self.engine.begin()

    def answer(self, stream_id: int) -> None:
        self.engine.answer(stream_id)

    def grant(self, stream_id: int, credit: int) -> None:
        self.engine.grant(stream_id, credit)

    def send(self, stream_id: int, data: bytes, *, is_last: bool) -> None:
        self.engine.frame_data(stream_id, [memoryview(data)], len(data), is_last=is_last)


End = ByH2 | ByShortcuts
Step = Callable[[End], list[Any]]


def notes_of(end: End, events: list[Any]) -> list[Note]:
    """Return what was learned, in the same words from either; credits as a connection does."""
    notes: list[Note] = []
    arrived: dict[int, bytes] = {}
    for event in events:
        match event:
            case Piece():
                arrived[event.stream_id] = arrived.get(event.stream_id, b"") + event.payload
                if event.ends and event.flags & 1:
                    notes.append(("StreamEnded", event.stream_id))
            case h2.events.DataReceived():
                end.engine.credit_on_receipt(event.flow_controlled_length)
                arrived[event.stream_id] = arrived.get(event.stream_id, b"") + event.data
            case Requested():
                notes.append(("RequestReceived", event.stream_id, sorted(STREAM_REQUEST)))
            case h2.events.RequestReceived():
                headers = sorted(tuple(header) for header in event.headers)
                notes.append(("RequestReceived", event.stream_id, headers))
            case h2.events.ResponseReceived() if [tuple(h) for h in event.headers] == list(
                RESPONSE
            ):
                pass  # taken: nobody has to hear of it
            case _:
                notes.append((type(event).__name__, getattr(event, "stream_id", 0)))
    return [*notes, arrived]


def account_of(end: End) -> Note:
    """Return all that either side may send or has to say, as h2 keeps it."""
    engine = end.engine
    streams = {
        stream_id: (
            stream.state_machine.state,
            stream.state_machine.stream_closed_by,
            stream.state_machine.headers_sent,
            stream.state_machine.headers_received,
            stream.inbound_flow_control_window,
            stream.outbound_flow_control_window,
        )
        for stream_id, stream in engine.streams.items()
    }
    granted = engine.inbound_flow_control_window + engine._owed
    windows = granted, engine.outbound_flow_control_window
    return streams, windows, engine.state_machine.state, bytes(engine.take_framed())


def frames(kind: st.SearchStrategy[int], flags: tuple[int, ...], payload: Any) -> Any:
    """Return frames as bytes, on streams that may be open, and on some that never are."""
    return st.builds(
        lambda kind, flags, stream_id, payload: (
            frame_header(len(payload), kind, flags, stream_id) + payload
        ),
        kind,
        st.sampled_from(flags),
        st.sampled_from((*STREAMS, *STREAMS, *STREAMS, 0, 2)),
        payload,
    )


BLOCKS = [encoded(STREAM_REQUEST), encoded(CONTROL_REQUEST), encoded(RESPONSE), b"", b"\xff", b" "]
HEADER_FRAMES = frames(
    st.just(HEADERS),
    (4, 4, 4, 4, 0, 5),
    st.sampled_from([*BLOCKS[:1] * 4, *BLOCKS[2:3] * 3, *BLOCKS]),
)
DATA_FRAMES = frames(
    st.just(DATA),
    (0, 0, 0, 1, 8, 9),
    st.sampled_from((0, 1, 2, 7, 500, 1500, 2999, 3001)).map(bytes),
)
INCREMENTS = [0, 1, 3000, 2**31 - 1, 2**31 + 5, 2**32 - 1]
CREDIT_FRAMES = frames(
    st.just(CREDIT),
    (0,),
    st.sampled_from([*(number.to_bytes(4) for number in INCREMENTS), b"", b"\0\0\0\0\1"]),
)
OTHER_FRAMES = frames(
    st.integers(0, 11), (0, 1, 4, 8), st.sampled_from([b"", bytes(4), b"\0\0\1\5", bytes(8)])
)


@st.composite
def arrivals(draw: st.DrawFn) -> Step:
    """Draw a frame and how it is cut up on its way."""
    data = draw(st.one_of(HEADER_FRAMES, DATA_FRAMES, DATA_FRAMES, CREDIT_FRAMES, OTHER_FRAMES))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return lambda end: end.receive(pieces)


def deeds(end: End, deed: str, stream_id: int, size: int) -> list[Any]:
    """Do what a stream does, if it may; nothing is said after GOAWAY."""
    stream = end.engine.streams.get(stream_id)
    if end.engine.state_machine.state is ConnectionState.CLOSED:
        pass
    elif deed == "begin":
        if end.engine.config.client_side and len(end.engine.streams) < 9:
            end.begin()
    elif stream is None:
        pass
    elif deed == "leave":
        end.engine.leave(stream_id, Code.ABORTED)
    elif stream.closed or not stream.state_machine.headers_received:
        pass
    elif deed == "grant":
        if stream.state_machine.state.name != "HALF_CLOSED_REMOTE":
            end.grant(stream_id, size + 1)
    elif stream.state_machine.state.name != "HALF_CLOSED_LOCAL":
        speak(end, deed, stream_id, size)
    return []


def speak(end: End, deed: str, stream_id: int, size: int) -> None:
    """Answer, or send as much as there is credit for."""
    stream = end.engine.streams[stream_id]
    if not stream.state_machine.headers_sent:
        end.answer(stream_id)
    elif deed in {"send", "finish"}:
        credit = max(end.engine.local_flow_control_window(stream_id), 0)
        end.send(stream_id, bytes(min(size, credit)), is_last=deed == "finish")


DEEDS = st.builds(
    lambda deed, stream_id, size: lambda end: deeds(end, deed, stream_id, size),
    st.sampled_from(("begin", "begin", "answer", "send", "finish", "grant", "leave")),
    st.sampled_from(STREAMS),
    st.sampled_from((0, 1, 700, 3000)),
)


def outcome(end: End, step: Step) -> tuple[Any, ...]:
    """Return what a step brought, or the class of its error."""
    try:
        return (notes_of(end, step(end)), account_of(end))
    except ProtocolError as error:
        return (type(error),)


def compare(steps: list[Step], *, is_relay: bool) -> int:
    """Let both take the same steps; return how many there were before an error, if any."""
    ends: list[End] = [ByH2(is_relay=is_relay), ByShortcuts(is_relay=is_relay)]
    greeting = ACCEPTED_SETTINGS if is_relay else PREFACE + ACCEPTED_SETTINGS
    control = frame_header(len(BLOCKS[1]) + 1, HEADERS, 4, 1) + b" " + BLOCKS[1]
    opening: list[Step] = [lambda end: end.receive([greeting])]
    if is_relay:
        taken = frame_header(len(BLOCKS[2]) + 1, HEADERS, 4, 1) + b" " + BLOCKS[2]
        opening += [lambda end: end.begin() or [], lambda end: end.receive([taken])]
    else:
        opening.append(lambda end: end.receive([control]))
    for count, step in enumerate([*opening, *steps], -len(opening)):
        by_h2, by_shortcuts = (outcome(end, step) for end in ends)
        assert by_shortcuts == by_h2
        if len(by_h2) == 1:
            return count
    return len(steps)


@pytest.mark.parametrize("is_relay", [True, False], ids=["relay", "client"])
@thoroughly
@given(steps=st.lists(st.one_of(arrivals(), DEEDS), min_size=1, max_size=40))
def test_what_is_done_without_h2_is_what_h2_would_do(*, is_relay: bool, steps: list[Step]) -> None:
    compare(steps, is_relay=is_relay)


def come(kind: int, stream_id: int, payload: bytes = b"", flags: int = 0) -> Step:
    data = frame_header(len(payload), kind, flags, stream_id) + payload
    return lambda end: end.receive([data])


def do(deed: str, stream_id: int = 3, size: int = 100) -> Step:
    return lambda end: deeds(end, deed, stream_id, size)


def request(stream_id: int) -> Step:
    return come(HEADERS, stream_id, BLOCKS[0], 4)


def requests(stream_ids: Iterable[int]) -> Step:
    block = BLOCKS[0]
    data = b"".join(frame_header(len(block), HEADERS, 4, each) + block for each in stream_ids)
    return lambda end: end.receive([data])


def response(stream_id: int) -> Step:
    return come(HEADERS, stream_id, BLOCKS[2], 4)


TAKEN = [request(3), do("answer")]
OPEN = [do("begin"), response(3)]


@pytest.mark.parametrize(
    ("is_relay", "steps", "taken"),
    [
        pytest.param(False, [*TAKEN, do("send"), do("finish")], 4, id="plain"),
        pytest.param(False, [request(4)], 0, id="even number"),
        pytest.param(False, [request(5), request(3)], 2, id="number too low"),
        pytest.param(False, [request(3), request(3)], 1, id="begun twice"),
        pytest.param(False, [requests(range(3, 2201, 2)), request(2201)], 1, id="too many"),
        pytest.param(False, [come(CREDIT, 3, bytes(3) + b"1")], 0, id="credit for an idle stream"),
        pytest.param(
            False, [*TAKEN, come(CREDIT, 3, (2**31 - 65_535).to_bytes(4))], 3, id="too much credit"
        ),
        pytest.param(
            False, [come(CREDIT, 0, (2**31 - 65_535).to_bytes(4))], 0, id="too much for all"
        ),
        pytest.param(
            False, [request(3), come(DATA, 3, flags=1), come(DATA, 3, b"x")], 3, id="after the end"
        ),
        pytest.param(
            False, [request(3), do("leave"), come(DATA, 3, bytes(2000))], 3, id="after it was cut"
        ),
        pytest.param(False, [request(3), come(DATA, 3, bytes(3001))], 1, id="more than granted"),
        pytest.param(
            False, [come(HEADERS, 3, BLOCKS[0]), come(DATA, 1, b"x")], 1, id="amid headers"
        ),
        pytest.param(
            False, [come(HEADERS, 3, BLOCKS[0]), request(5)], 1, id="headers amid headers"
        ),
        pytest.param(True, [*OPEN, come(DATA, 3, b"x", 1), do("finish")], 4, id="both ends"),
        pytest.param(True, [do("begin"), come(DATA, 3, b"x")], 1, id="data before the answer"),
        pytest.param(True, [*OPEN, response(3)], 2, id="answered twice"),
        pytest.param(True, [response(5)], 0, id="answer to nothing"),
        pytest.param(True, [come(GOAWAY, 0, bytes(8)), response(1)], 1, id="after GOAWAY"),
    ],
)
def test_h2_judges_what_is_not_plain(*, is_relay: bool, steps: list[Step], taken: int) -> None:
    assert compare(steps, is_relay=is_relay) == taken
