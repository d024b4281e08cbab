"""What a peer of the QUIC engine cannot make it keep or do, though the protocol would allow it."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import pytest
from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # not in its __all__
from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicStreamFrame
from aioquic.quic.packet_builder import QuicDeliveryState

from tests.unit.transport.loops import on_both_loops, run_on
from tests.unit.transport.quic.places import joined, run
from tests.unit.transport.quic.wire import Wire
from tunnel.errors import Code
from tunnel.settings.values import KIB, MIB, FlowSettings
from tunnel.transport.quic.endpoint import Endpoint
from tunnel.transport.quic.engine import Engine
from tunnel.transport.quic.halves import HELD_MAX_BYTES, PIECES_MAX, sender_of
from tunnel.transport.quic.trains import Burst


def hear_bytes(engine: Engine, stream_id: int, offset: int, data: bytes) -> None:
    """Hand an engine a STREAM frame."""
    buf = Buffer(capacity=64 + len(data))
    for number in (stream_id, offset, len(data)):
        buf.push_uint_var(number)
    buf.push_bytes(data)
    frame = Buffer(data=buf.data)
    engine._handle_stream_frame(None, QuicFrameType.STREAM_BASE | 6, frame)  # type: ignore[arg-type]


def test_bytes_behind_a_gap_use_up_the_connections_credit() -> None:
    wire = Wire(FlowSettings(stream_window=256 * KIB, connection_window=MIB))
    streams = [wire.relay.open_stream() for _ in range(8)]
    wire.run(1)
    for stream_id in streams[:4]:
        hear_bytes(wire.client, stream_id, 256 * KIB - 1, b"x")
        wire.run(1)  # whatever is granted is granted now
    with pytest.raises(QuicConnectionError, match="Over connection data limit"):
        hear_bytes(wire.client, streams[4], 256 * KIB - 1, b"x")


def test_a_reset_gives_the_credit_for_bytes_behind_a_gap_back() -> None:
    wire = Wire(FlowSettings(stream_window=256 * KIB, connection_window=MIB))
    for _ in range(20):
        stream_id = wire.relay.open_stream()
        wire.relay.write(stream_id, bytes(200 * KIB))
        wire.emit(wire.relay)  # and none of it arrives
        wire.relay.cut(stream_id, Code.ABORTED)
        wire.run(5)
    assert wire.client._local_max_data.value >= wire.client._local_max_data.used + MIB * 3 // 4


def test_a_stream_in_too_many_pieces_ends_the_connection() -> None:
    wire = Wire()
    stream_id = wire.relay.open_stream()
    wire.run(1)
    receiver = wire.client._streams[stream_id].receiver
    for number in range(1, PIECES_MAX + 1):
        receiver.handle_frame(QuicStreamFrame(data=b"x", offset=2 * number))
    with pytest.raises(QuicConnectionError) as fault:
        receiver.handle_frame(QuicStreamFrame(data=b"x", offset=2 * PIECES_MAX + 2))
    assert fault.value.error_code == QuicErrorCode.PROTOCOL_VIOLATION


def test_a_writer_waits_though_only_the_first_byte_is_not_acknowledged() -> None:
    wire = Wire(FlowSettings(stream_window_max=64 * MIB, connection_window=64 * MIB))
    stream_id = wire.relay.open_stream()
    sender = sender_of(wire.relay._streams[stream_id])
    sent = 0
    while not wire.relay.is_full(stream_id) and sent <= 2 * HELD_MAX_BYTES:
        wire.relay.write(stream_id, bytes(32 * KIB))
        while (frame := sender.get_frame(32 * KIB, 64 * MIB)) is not None:
            if frame.offset:
                sender.on_data_delivery(QuicDeliveryState.ACKED, sent, sent + 32 * KIB, fin=False)
        sent += 32 * KIB
    assert HELD_MAX_BYTES < sent <= HELD_MAX_BYTES + 32 * KIB
    told: list[bool] = []
    wire.relay.when_room(stream_id, lambda: told.append(True))
    assert told == []
    sender.on_data_delivery(QuicDeliveryState.ACKED, 0, 32 * KIB, fin=False)
    assert told == [True]
    assert not wire.relay.is_full(stream_id)


def test_streams_that_starved_are_forgotten_when_they_end() -> None:
    wire = Wire(FlowSettings(stream_window=64 * KIB))
    stream_id = wire.relay.open_stream()
    wire.relay.write(stream_id, bytes(100 * KIB))
    wire.run(1)
    assert wire.relay._starved == {stream_id}
    wire.relay.cut(stream_id, Code.ABORTED)
    wire.client.cut(stream_id, Code.ABORTED)
    wire.run(5)
    assert (wire.relay._starved, len(wire.relay._streams)) == (set(), 0)


@pytest.mark.parametrize("step", ["bursts_to_send", "get_timer"])
def test_an_engine_that_fails_when_nobody_listens_ends_its_connection(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_args: Any) -> Any:
        raise AssertionError("a bug")

    async def main() -> None:
        async with joined() as (relay, _):
            monkeypatch.setattr(relay.engine, step, fail)
            relay.schedule_flush()
            assert (await relay.wait_closed()).code is Code.INTERNAL

    run(main())


@on_both_loops
def test_a_socket_is_watched_though_an_error_comes_behind_datagrams(loop: str) -> None:
    async def body() -> None:
        got: list[bytes] = []
        news = asyncio.Event()

        def receive(bursts: Sequence[Burst]) -> None:
            got.extend(payload for payloads, _ in bursts for payload in payloads)
            news.set()

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            sock.connect(peer.getsockname())
            endpoint = Endpoint(sock, receive)
            address = sock.getsockname()
            port = peer.getsockname()
            peer.sendto(b"before", address)
            peer.close()
            sock.send(b"to nobody")  # the answer is an error that waits at the socket
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
                again.bind(port)
                for number in range(3):
                    news.clear()
                    again.sendto(b"%d" % number, address)
                    await news.wait()
            endpoint.close()
        assert got == [b"before", b"0", b"1", b"2"]

    run_on(loop, body())
