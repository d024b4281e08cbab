"""What HTTP/2 allows a peer to change while streams are under way, and what that does to credit."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, cast

import h2.events
import pytest
from h2.settings import SettingCodes
from hyperframe.frame import DataFrame, HeadersFrame

from tests.unit.transport.http2.test_hostile import CONTROL, STREAM, Wire, begin, client_side
from tunnel.errors import Code, ConnectionLost, StreamReset
from tunnel.settings.values import KIB, FlowSettings
from tunnel.stream import Stream
from tunnel.transport.http2.connection import ClientConnection, RelayConnection
from tunnel.transport.options import TransportOptions

OPTIONS = TransportOptions(
    flow=FlowSettings(
        stream_window=64 * KIB, stream_window_max=64 * KIB, connection_window=256 * KIB
    )
)


def run(body: Coroutine[Any, Any, None]) -> None:
    """Run to the end within 10 s; what the loop reports as unhandled is an error."""
    faults: list[str] = []

    async def bounded() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: faults.append(repr(context))
        )
        async with asyncio.timeout(10):
            await body

    asyncio.run(bounded(), debug=True)
    assert faults == []


async def relay_of_a_client() -> tuple[Wire, RelayConnection, Stream]:
    """Return a settled relay whose peer can say anything, and its control stream."""
    relay = RelayConnection(OPTIONS)
    wire = Wire(relay, peer_is_relay=False)
    await relay.settled()
    control = await relay.open_stream()
    relay.sender.fill()
    return wire, relay, control


def change(wire: Wire, setting: SettingCodes, value: int) -> None:
    wire.peer.update_settings({setting: value})
    wire.say()


def received(wire: Wire, stream_id: int) -> int:
    events = [event for event in wire.heard if isinstance(event, h2.events.DataReceived)]
    return sum(len(event.data) for event in events if event.stream_id == stream_id)


def test_a_window_that_shrinks_below_what_is_under_way_stops_the_stream_until_it_grows() -> None:
    async def body() -> None:
        wire, relay, _ = await relay_of_a_client()
        stream = await relay.open_stream()
        wire.peer.increment_flow_control_window(1024 * KIB)
        wire.say()
        async with asyncio.TaskGroup() as group:
            group.create_task(stream.send(bytes(60_000)))
            await asyncio.sleep(0)
            relay.sender.fill()
            assert received(wire, 3) == 60_000
            change(wire, SettingCodes.INITIAL_WINDOW_SIZE, 1000)  # 59,000 more than there is now
            group.create_task(stream.send(bytes(10_000)))
            await asyncio.sleep(0)
            relay.sender.fill()
            assert received(wire, 3) == 60_000
            change(wire, SettingCodes.INITIAL_WINDOW_SIZE, 65_535)
            wire.peer.increment_flow_control_window(10_000, 3)
            wire.say()
            assert received(wire, 3) == 70_000

    run(body())


def test_a_client_that_lowers_its_limit_on_streams_is_cut() -> None:
    async def body() -> None:
        wire, relay, _ = await relay_of_a_client()
        change(wire, SettingCodes.MAX_CONCURRENT_STREAMS, 1)
        assert (await relay.wait_closed()).code is Code.PROTOCOL
        with pytest.raises(ConnectionLost):
            await relay.open_stream()

    run(body())


def test_bytes_for_streams_that_were_cut_are_credited_like_all_others() -> None:
    async def body() -> None:
        wire = client_side()
        connection = wire.connection
        begin(wire, 1, CONTROL)
        begin(wire, 3, STREAM)
        client = cast("ClientConnection", connection)
        await client.accept_stream()
        (await client.accept_stream()).abort()
        window = connection.engine.inbound_flow_control_window
        for _ in range(2 * window // (16 * KIB)):
            wire.tell(DataFrame(3, bytes(16 * KIB)).serialize())
            assert connection.engine.inbound_flow_control_window >= window * 3 // 4 - 16 * KIB

    run(body())


def test_an_answer_to_a_stream_that_was_cut_long_ago_is_dropped_in_silence() -> None:
    async def body() -> None:
        wire, relay, _ = await relay_of_a_client()
        change(wire, SettingCodes.MAX_CONCURRENT_STREAMS, 200)
        for _ in range(1100):  # more than h2 remembers
            (await relay.open_stream()).abort()
        for _ in range(90):
            await relay.open_stream()
        headers = wire.peer.encoder.encode([(":status", "200")])
        wire.tell(HeadersFrame(3, headers, flags=["END_HEADERS"]).serialize())
        assert not relay.is_closed

    run(body())


def test_opening_does_not_look_at_the_streams_that_are_open() -> None:
    async def body() -> None:
        wire, relay, _ = await relay_of_a_client()
        looked_at: list[int] = []

        class Watched(dict[int, Any]):
            def items(self) -> Any:
                looked_at.append(len(self))
                return super().items()

        relay.engine.streams = Watched(relay.engine.streams)
        for _ in range(50):
            await relay.open_stream()
        assert looked_at == []
        assert not wire.is_closed

    run(body())


@pytest.mark.parametrize("step", ["receive_data", "local_flow_control_window"])
def test_an_engine_that_fails_ends_its_connection(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_args: Any) -> Any:
        raise AssertionError("a bug")

    async def body() -> None:
        wire, relay, control = await relay_of_a_client()
        monkeypatch.setattr(relay.engine, step, fail)
        async with asyncio.TaskGroup() as group:
            group.create_task(expect_cut(control.send(b"hello")))
            await asyncio.sleep(0)
            if step == "receive_data":
                wire.peer.ping(b"12345678")
                wire.say()
            assert (await relay.wait_closed()).code is Code.INTERNAL

    run(body())


async def expect_cut(attempt: Coroutine[Any, Any, None]) -> None:
    with suppress(StreamReset):
        await attempt
