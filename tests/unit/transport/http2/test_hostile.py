"""What becomes of a connection whose peer does not keep to the protocol."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hyperframe.frame import DataFrame, HeadersFrame

from tunnel.errors import Code, ConnectionLost, StreamReset
from tunnel.settings.values import KIB, FlowSettings
from tunnel.transport.http2.connection import ClientConnection, Http2Connection, RelayConnection
from tunnel.transport.options import ALPN_HTTP2, TransportOptions

OPTIONS = TransportOptions(flow=FlowSettings(stream_window=64 * KIB, stream_window_max=64 * KIB))
CONTROL = [
    (":method", "POST"),
    (":scheme", "https"),
    (":authority", "tunnel"),
    (":path", "/control"),
]
STREAM = [*CONTROL[:3], (":path", "/stream")]


class Tls:
    """The outcome of a handshake."""

    def selected_alpn_protocol(self) -> str:
        return ALPN_HTTP2


class Wire:
    """A transport whose far end is a bare HTTP/2 peer that can be made to say anything."""

    def __init__(self, connection: Http2Connection, *, peer_is_relay: bool) -> None:
        self.connection = connection
        self.peer = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=peer_is_relay, validate_outbound_headers=False)
        )
        self.heard: list[h2.events.Event] = []
        self.unread = 0
        self.is_closed = False
        self.peer.initiate_connection()
        connection.connection_made(cast("asyncio.Transport", self))
        self.tell(self.peer.data_to_send())

    def tell(self, data: bytes) -> None:
        """Let the connection receive these bytes, and the peer its answers."""
        buffer = self.connection.get_buffer(-1)
        for start in range(0, len(data), len(buffer)):
            piece = data[start : start + len(buffer)]
            buffer[: len(piece)] = piece
            self.connection.buffer_updated(len(piece))

    def say(self) -> None:
        """Let the connection receive what the peer has queued."""
        self.tell(self.peer.data_to_send())

    def write(self, data: bytes) -> None:
        if not self.unread:
            self.heard += self.peer.receive_data(bytes(data))

    def get_write_buffer_size(self) -> int:
        return self.unread

    def get_extra_info(self, name: str) -> object:
        return {"ssl_object": Tls(), "peername": ("192.0.2.1", 443)}[name]

    def set_write_buffer_limits(self, high: int, low: int) -> None: ...

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.connection.connection_lost(None)

    abort = close


def client_side() -> Wire:
    """Return our client whose relay is hostile."""
    return Wire(ClientConnection(OPTIONS), peer_is_relay=True)


def relay_side() -> Wire:
    """Return our relay whose client is hostile."""
    return Wire(RelayConnection(OPTIONS), peer_is_relay=False)


def verdict_on(make: Callable[[], Wire], attack: Callable[[Wire], Any]) -> ConnectionLost:
    """Return how the connection ended after the attack, which must be what the peer is told."""

    async def body() -> ConnectionLost:
        wire = make()
        attack(wire)
        lost = await wire.connection.wait_closed()
        [told] = [e for e in wire.heard if isinstance(e, h2.events.ConnectionTerminated)]
        assert told.error_code == 0x100 + lost.code
        return lost

    return asyncio.run(body(), debug=True)


def begin(wire: Wire, stream_id: int, headers: list[tuple[str, str]] = STREAM) -> None:
    wire.peer.send_headers(stream_id, headers)
    wire.say()


def flood_pings(wire: Wire) -> None:
    for _ in range(101):
        wire.peer.ping(b"12345678")
    wire.say()


def flood_settings(wire: Wire) -> None:
    for size in range(51):
        wire.peer.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 70_000 + size})
    wire.say()


def send_a_frame_that_is_too_long(wire: Wire) -> None:
    wire.tell((64 * KIB + 1).to_bytes(3) + bytes(6))


def begin_with_a_visitor(wire: Wire) -> None:
    begin(wire, 1, STREAM)


def begin_a_second_control_stream(wire: Wire) -> None:
    begin(wire, 1, CONTROL)
    begin(wire, 3, CONTROL)


def ask_for_something_else(wire: Wire) -> None:
    begin(wire, 1, [*CONTROL[:3], (":path", "/")])


def add_a_header(wire: Wire) -> None:
    begin(wire, 1, [*CONTROL, ("cookie", "x")])


def send_a_huge_header(wire: Wire) -> None:
    begin(wire, 1, [*CONTROL, ("cookie", "x" * 5000)])


def send_trailers(wire: Wire) -> None:
    begin(wire, 1, CONTROL)
    wire.peer.send_headers(1, [("x", "y")], end_stream=True)
    wire.say()


def send_more_than_was_granted(wire: Wire) -> None:
    begin(wire, 1, CONTROL)
    begin(wire, 3)
    for _ in range(3):
        frame = DataFrame(3, bytes(30 * KIB))
        wire.tell(frame.serialize())


def send_after_the_end(wire: Wire) -> None:
    begin(wire, 1, CONTROL)
    wire.peer.end_stream(1)
    wire.say()
    wire.tell(DataFrame(1, b"more").serialize())


def open_too_many_streams(wire: Wire) -> None:
    begin(wire, 1, CONTROL)
    for number in range(1, 1100):
        begin(wire, 2 * number + 1)
    headers = wire.peer.encoder.encode(STREAM)
    wire.tell(HeadersFrame(2201, headers, flags=["END_HEADERS"]).serialize())


def send_garbage(wire: Wire) -> None:
    wire.tell(b"\0\0\1\1\4\0\0\0\1\xff")


@pytest.mark.parametrize(
    ("attack", "says"),
    [
        (flood_pings, "flood of PING"),
        (flood_settings, "flood of SETTINGS"),
        (send_a_frame_that_is_too_long, "frame of 65537 bytes"),
        (begin_with_a_visitor, "unexpected request"),
        (begin_a_second_control_stream, "unexpected request"),
        (ask_for_something_else, "unexpected request"),
        (add_a_header, "unexpected request"),
        (send_a_huge_header, ""),
        (send_trailers, "TrailersReceived"),
        (send_more_than_was_granted, "window shrunk below 0"),
        (send_after_the_end, ""),
        (open_too_many_streams, "Max inbound streams is 1100"),
        (send_garbage, ""),
    ],
)
def test_a_relay_that_does_not_keep_to_the_protocol_is_left(
    attack: Callable[[Wire], None], says: str
) -> None:
    lost = verdict_on(client_side, attack)
    assert lost.code is Code.PROTOCOL
    assert says in str(lost)


def open_a_stream_to_the_relay(wire: Wire) -> None:
    frame = HeadersFrame(2, wire.peer.encoder.encode(CONTROL), flags=["END_HEADERS"])
    wire.tell(frame.serialize())


@pytest.mark.parametrize("attack", [flood_pings, open_a_stream_to_the_relay, send_garbage])
def test_a_client_that_does_not_keep_to_the_protocol_is_cut(
    attack: Callable[[Wire], None],
) -> None:
    assert verdict_on(relay_side, attack).code is Code.PROTOCOL


def test_a_client_that_refuses_the_request_is_cut() -> None:
    async def body() -> None:
        wire = relay_side()
        await wire.connection.settled()
        await cast("RelayConnection", wire.connection).open_stream()
        wire.connection.sender.fill()
        wire.peer.send_headers(1, [(":status", "404")])
        wire.say()
        assert "unexpected response" in str(await wire.connection.wait_closed())

    asyncio.run(body(), debug=True)


def test_frames_for_a_stream_that_was_cut_are_dropped_in_silence() -> None:
    async def body() -> None:
        wire = client_side()
        begin(wire, 1, CONTROL)
        stream = await cast("ClientConnection", wire.connection).accept_stream()
        stream.abort(Code.BUSY)
        for _ in range(200):
            wire.tell(DataFrame(1, bytes(100)).serialize())
        wire.connection.sender.fill()
        resets = [e for e in wire.heard if isinstance(e, h2.events.StreamReset)]
        assert [reset.error_code for reset in resets] == [0x100 + Code.BUSY]
        assert not wire.connection.is_closed

    asyncio.run(body(), debug=True)


def test_a_stream_begun_and_cut_at_once_is_delivered_as_cut() -> None:
    async def body() -> None:
        wire = client_side()
        wire.peer.send_headers(1, CONTROL)
        wire.peer.reset_stream(1, 0x100 + Code.DRAINING)
        wire.say()
        stream = await cast("ClientConnection", wire.connection).accept_stream()
        with pytest.raises(StreamReset) as cut:
            await stream.receive()
        assert cut.value.code is Code.DRAINING

    asyncio.run(body(), debug=True)


@pytest.mark.parametrize(
    ("number", "code"),
    [(0, Code.OK), (1, Code.PROTOCOL), (0x105, Code.SUPERSEDED), (0x1FF, Code.ABORTED)],
)
def test_a_goaway_is_the_end_with_its_code(number: int, code: Code) -> None:
    async def body() -> None:
        wire = client_side()
        wire.peer.close_connection(number, b"because")
        wire.say()
        lost = await wire.connection.wait_closed()
        assert (lost.code, str(lost)) == (code, "because")

    asyncio.run(body(), debug=True)


def test_a_peer_that_leaves_control_frames_unread_is_cut() -> None:
    async def body() -> None:
        wire = client_side()
        wire.connection.sender.pause()
        wire.unread = 400 * KIB
        wire.peer.ping(b"12345678")
        wire.say()
        assert "does not read" in str(await wire.connection.wait_closed())

    asyncio.run(body(), debug=True)


def test_a_connection_shows_its_peer_and_its_state() -> None:
    async def body() -> None:
        wire = client_side()
        begin(wire, 1, CONTROL)
        assert repr(wire.connection) == "<ClientConnection 192.0.2.1:443 1 streams>"
        stream = await cast("ClientConnection", wire.connection).accept_stream()
        assert repr(stream) == "<Http2Stream 1 open>"

    asyncio.run(body(), debug=True)
