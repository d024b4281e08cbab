"""In what sizes and in which order streams are framed, and in what pieces they arrive."""

import asyncio
from typing import cast

import h2.events
from h2.settings import SettingCodes

from tests.unit.transport.http2.test_changes import change, relay_of_a_client, run
from tests.unit.transport.http2.test_hostile import CONTROL, Wire, begin, client_side
from tunnel.settings.values import KIB, MIB
from tunnel.stream import Stream
from tunnel.transport.http2.connection import ClientConnection, RelayConnection
from tunnel.transport.http2.frames import HEADER_BYTES, frame_header

TLS_RECORD_BYTES = 16 * KIB  # of plaintext, at most (RFC 8446 §5.1)


async def relay_with_room() -> tuple[Wire, RelayConnection, Stream]:
    """Return a relay whose client takes frames of any size and much of everything; control."""
    wire, relay, control = await relay_of_a_client()
    change(wire, SettingCodes.MAX_FRAME_SIZE, MIB)
    change(wire, SettingCodes.INITIAL_WINDOW_SIZE, 16 * MIB)
    wire.peer.increment_flow_control_window(16 * MIB)
    wire.say()
    return wire, relay, control


def frames_heard(wire: Wire) -> list[tuple[int, int]]:
    """Return stream and size of each DATA frame."""
    events = [event for event in wire.heard if isinstance(event, h2.events.DataReceived)]
    return [(event.stream_id, len(event.data)) for event in events]


async def send_at_once(relay: RelayConnection, streams: list[Stream], size: int) -> None:
    async with asyncio.TaskGroup() as group:
        for stream in streams:
            group.create_task(stream.send(bytes(size)))
        await asyncio.sleep(0)
        relay.sender.fill()


def test_the_frames_of_a_stream_alone_fill_four_tls_records_each() -> None:
    async def body() -> None:
        wire, relay, _ = await relay_with_room()
        await send_at_once(relay, [await relay.open_stream()], MIB)
        sizes = [size + HEADER_BYTES for _, size in frames_heard(wire)]
        assert set(sizes[:-1]) == {4 * TLS_RECORD_BYTES}

    run(body())


def test_streams_take_turns_of_one_tls_record() -> None:
    async def body() -> None:
        wire, relay, _ = await relay_with_room()
        await send_at_once(relay, [await relay.open_stream() for _ in range(3)], 100 * KIB)
        heard = frames_heard(wire)
        assert [stream_id for stream_id, _ in heard[:9]] == [3, 5, 7] * 3
        assert {size + HEADER_BYTES for _, size in heard[:9]} == {TLS_RECORD_BYTES}

    run(body())


def test_control_goes_before_all_streams_that_wait() -> None:
    async def body() -> None:
        wire, relay, control = await relay_with_room()
        stream = await relay.open_stream()
        async with asyncio.TaskGroup() as group:
            group.create_task(stream.send(b"visitor"))
            group.create_task(control.send(b"control"))
            await asyncio.sleep(0)
            relay.sender.fill()
        assert frames_heard(wire) == [(1, 7), (3, 7)]

    run(body())


def test_the_end_travels_with_the_last_bytes() -> None:
    async def body() -> None:
        wire, relay, _ = await relay_with_room()
        stream = await relay.open_stream()
        async with asyncio.TaskGroup() as group:
            group.create_task(stream.send(b"last"))
            group.create_task(stream.finish())
            await asyncio.sleep(0)
            relay.sender.fill()
        [data] = [event for event in wire.heard if isinstance(event, h2.events.DataReceived)]
        assert data.data == b"last"
        assert data.stream_ended is not None

    run(body())


def test_bytes_of_a_frame_are_handed_on_before_all_of_it_is_there() -> None:
    async def body() -> None:
        wire = client_side()
        begin(wire, 1, CONTROL)
        stream = await cast("ClientConnection", wire.connection).accept_stream()
        wire.tell(frame_header(1000, 0, 1, 1) + b"first")
        assert await stream.receive() == b"first"
        wire.tell(bytes(994))
        assert await stream.receive() == bytes(994)
        wire.tell(b"x")
        assert await stream.receive() == b"x"
        assert await stream.receive() == b""

    run(body())


def test_a_stream_cut_amid_a_frame_drops_the_rest_and_credits_it() -> None:
    async def body() -> None:
        wire = client_side()
        begin(wire, 1, CONTROL)
        stream = await cast("ClientConnection", wire.connection).accept_stream()
        wire.tell(frame_header(1000, 0, 1, 1) + bytes(10))
        before = wire.connection.engine._owed
        stream.abort()
        wire.tell(bytes(990))
        assert wire.connection.engine._owed == before + 990
        assert not wire.connection.is_closed
        wire.peer.ping(b"still up")
        wire.say()
        assert any(isinstance(event, h2.events.PingAckReceived) for event in wire.heard)

    run(body())
