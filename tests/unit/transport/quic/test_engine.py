"""The engine over a wire in memory: losses, limits, keys and what it forgets."""

import gc
import random
import tracemalloc
import weakref

import pytest
from aioquic.quic.events import StopSendingReceived, StreamReset
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import Epoch

from tests.unit.transport.quic.wire import Wire
from tunnel.errors import Code
from tunnel.settings.values import KIB, MIB, FlowSettings
from tunnel.transport.options import CONTROL_RESERVE_BYTES
from tunnel.transport.quic import engine as engine_module
from tunnel.transport.quic.engine import Engine, StreamOpened
from tunnel.transport.quic.writing import CONTROL_STREAM

pytestmark = pytest.mark.usefixtures("engines")


def read_all(wire: Wire, engine: Engine, stream_id: int, window: int) -> None:
    """Grant credit for everything that has arrived on a stream."""
    engine.grant(stream_id, len(wire.received[engine][stream_id]) + window)


@pytest.mark.parametrize("seed", range(4))
def test_bytes_arrive_whole_both_ways_though_packets_are_lost_and_reordered(seed: int) -> None:
    wire = Wire(loss=0.05, seed=seed)
    sent = {wire.client: random.Random(seed).randbytes(150_000), wire.relay: b"up" * 40_000}
    stream_id = wire.relay.open_stream()
    wire.relay.write(stream_id, sent[wire.client], end=True)
    wire.run(2)
    wire.client.write(stream_id, sent[wire.relay], end=True)
    wire.run(60)
    assert bytes(wire.received[wire.client][stream_id]) == sent[wire.client]
    assert bytes(wire.received[wire.relay][stream_id]) == sent[wire.relay]


@pytest.mark.parametrize("seed", range(3))
def test_streams_that_ended_are_forgotten_by_both_though_packets_are_lost(seed: int) -> None:
    wire = Wire(loss=0.1, seed=seed)
    for number in range(100):
        stream_id = wire.relay.open_stream()
        wire.relay.write(stream_id, b"x" * 100 * number, end=True)
        wire.run(3)
        if number % 3:
            wire.client.write(stream_id, b"answer", end=True)
        else:
            wire.client.cut(stream_id, Code.BUSY)
            wire.relay.cut(stream_id, Code.BUSY)
    wire.run(30)
    assert (len(wire.relay._streams), len(wire.client._streams)) == (0, 0)


@pytest.mark.slow
def test_twenty_thousand_short_streams_leave_nothing_behind() -> None:
    wire = Wire(delay=0.0001)

    def serve(rounds: int) -> int:
        for _ in range(rounds):
            opened = [wire.relay.open_stream() for _ in range(500)]
            for stream_id in opened:
                wire.relay.write(stream_id, b"question", end=True)
            wire.run(0.05)
            for stream_id in opened:
                wire.client.write(stream_id, b"answer", end=True)
            wire.run(0.05)
            assert all(wire.received[wire.relay].pop(stream_id) for stream_id in opened)
            for engine in (wire.relay, wire.client):
                wire.events[engine].clear()
                wire.received[engine].clear()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        after_one = serve(4)
        grown = serve(36) - after_one
    finally:
        tracemalloc.stop()
    assert (len(wire.relay._streams), len(wire.client._streams)) == (0, 0)
    assert grown < 100 * KIB


def test_an_unread_stream_stops_at_its_window_and_its_neighbour_goes_on() -> None:
    wire = Wire(flow=FlowSettings(stream_window=64 * KIB, connection_window=256 * KIB))
    stalled, neighbour = wire.relay.open_stream(), wire.relay.open_stream()
    for stream_id in (stalled, neighbour):
        wire.relay.write(stream_id, b"x" * MIB, end=True)
    for _ in range(60):
        wire.run(0.1)
        read_all(wire, wire.client, neighbour, 64 * KIB)
    assert len(wire.received[wire.client][stalled]) == 64 * KIB
    assert len(wire.received[wire.client][neighbour]) == MIB


def test_a_stalled_stream_resumes_when_it_is_read_though_packets_are_lost() -> None:
    wire = Wire(flow=FlowSettings(stream_window=32 * KIB), loss=0.05, seed=7)
    stream_id = wire.relay.open_stream()
    wire.relay.write(stream_id, b"x" * 256 * KIB, end=True)
    wire.run(5)
    assert len(wire.received[wire.client][stream_id]) == 32 * KIB
    for _ in range(40):
        read_all(wire, wire.client, stream_id, 32 * KIB)
        wire.run(1)
    assert len(wire.received[wire.client][stream_id]) == 256 * KIB


def test_the_last_connection_credit_is_kept_for_the_control_stream() -> None:
    window = 256 * KIB
    wire = Wire(flow=FlowSettings(stream_window=MIB, connection_window=window))
    wire.client._connection_limits_due = list  # type: ignore[method-assign]  # grants none
    control, other = wire.relay.open_stream(), wire.relay.open_stream()
    wire.relay.write(other, b"x" * MIB)
    wire.run(2)
    assert len(wire.received[wire.client][other]) == window - CONTROL_RESERVE_BYTES
    wire.relay.write(control, b"ping")
    wire.run(1)
    assert control == CONTROL_STREAM
    assert wire.received[wire.client][control] == b"ping"


def test_the_control_stream_goes_before_what_other_streams_queued_earlier() -> None:
    wire = Wire()
    control, other = wire.relay.open_stream(), wire.relay.open_stream()
    wire.run(1)
    wire.relay.write(other, b"x" * 8000)
    wire.relay.write(control, b"ping")
    wire.hear(wire.client, wire.emit(wire.relay)[0])
    wire.run(0)
    assert wire.received[wire.client][control] == b"ping"


def test_more_than_the_granted_credit_is_a_flow_control_error() -> None:
    wire = Wire(flow=FlowSettings(stream_window=64 * KIB))
    stream_id = wire.relay.open_stream()
    wire.run(1)
    wire.relay._streams[stream_id].max_stream_data_remote = MIB
    wire.relay.write(stream_id, b"x" * 65 * KIB)
    wire.run(1)
    assert wire.client.termination is not None
    assert wire.client.termination.error_code == QuicErrorCode.FLOW_CONTROL_ERROR


@pytest.mark.parametrize("stream_id", [0, 2])
def test_a_stream_that_the_client_opens_is_refused(stream_id: int) -> None:
    wire = Wire()
    wire.client._remote_max_streams_bidi = wire.client._remote_max_streams_uni = 10
    wire.client._remote_max_stream_data_bidi_remote = MIB
    wire.client._remote_max_stream_data_uni = MIB
    wire.client.send_stream_data(stream_id, b"mine")
    wire.run(1)
    assert wire.relay.termination is not None
    assert wire.relay.termination.error_code == QuicErrorCode.STREAM_LIMIT_ERROR


def test_a_stream_is_announced_before_it_has_bytes_though_the_first_packet_is_lost() -> None:
    wire = Wire()
    stream_id = wire.relay.open_stream()
    assert wire.emit(wire.relay)  # lost
    wire.run(2)
    assert StreamOpened(stream_id) in wire.events[wire.client]


def test_a_cut_tells_the_peer_by_both_halves_with_the_code() -> None:
    wire = Wire()
    stream_id = wire.relay.open_stream()
    wire.relay.write(stream_id, b"x")
    wire.run(1)
    wire.relay.cut(stream_id, Code.BUSY)
    wire.run(1)
    told = [e for e in wire.events[wire.client] if isinstance(e, StreamReset | StopSendingReceived)]
    assert {(type(event), event.error_code) for event in told} == {
        (StreamReset, Code.BUSY),
        (StopSendingReceived, Code.BUSY),
    }


def test_a_cut_stream_gives_its_unread_credit_back_to_the_connection() -> None:
    wire = Wire(flow=FlowSettings(stream_window=64 * KIB, connection_window=128 * KIB))
    for _ in range(20):
        stream_id = wire.relay.open_stream()
        wire.relay.write(stream_id, b"x" * 64 * KIB)
        wire.run(1)
        wire.client.cut(stream_id, Code.BUSY)
        wire.run(1)
    last = wire.relay.open_stream()
    wire.relay.write(last, b"y" * 64 * KIB)
    wire.run(1)
    assert len(wire.received[wire.client][last]) == 64 * KIB


@pytest.mark.parametrize("role", ["relay", "client"])
def test_keys_are_updated_while_bytes_flow(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "KEY_UPDATE_PACKETS", 50)
    wire = Wire(loss=0.02, seed=3)
    updating: Engine = getattr(wire, role)
    phases = set()
    stream_id = wire.relay.open_stream()
    wire.relay.write(stream_id, b"x" * 250_000, end=True)
    for _ in range(600):
        wire.run(0.05)
        phases.add(updating._cryptos[Epoch.ONE_RTT].send.key_phase)
    assert phases == {0, 1}
    assert len(wire.received[wire.client][stream_id]) == 250_000


def test_a_key_update_by_the_receiver_survives_the_loss_of_its_first_packet() -> None:
    wire = Wire()
    stream_id = wire.relay.open_stream()
    wire.relay.write(stream_id, b"x" * 200_000, end=True)
    wire.run(0.03)
    wire.client.request_key_update()
    assert wire.emit(wire.client)  # lost
    wire.run(10)
    assert len(wire.received[wire.client][stream_id]) == 200_000


def test_handshake_bytes_beyond_64_kib_end_the_connection() -> None:
    wire = Wire()
    sender = wire.client._crypto_streams[Epoch.ONE_RTT].sender
    sender.write(b"\x04\x80\x00\x00" + bytes(80_000))
    wire.run(5)
    assert wire.relay.termination is not None
    assert wire.relay.termination.error_code == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED


def test_the_server_issues_no_session_tickets() -> None:
    wire = Wire()
    wire.run(1)
    assert wire.client._crypto_streams[Epoch.ONE_RTT].receiver.highest_offset == 0


def test_the_peer_follows_a_new_source_port() -> None:
    wire = Wire()
    stream_id = wire.relay.open_stream()
    wire.run(1)
    wire.client.write(stream_id, b"from elsewhere")
    moved = ("192.0.2.2", 6000)
    for datagram in wire.emit(wire.client):
        wire.relay.receive_datagram(datagram, moved, wire.now)
    assert wire.relay.get_peer_address() == moved


def test_an_engine_that_has_let_go_is_freed_without_the_collector_of_cycles() -> None:
    wire = Wire()
    wire.relay.write(wire.relay.open_stream(), b"x" * KIB, end=True)
    wire.run(1)
    engine = wire.relay
    del wire
    gc.collect()
    gc.disable()
    try:
        engine.close()
        engine.let_go()
        left = weakref.ref(engine)
        del engine
        assert left() is None
    finally:
        gc.enable()


def test_no_buffers_of_the_handshake_are_kept_after_it() -> None:
    wire = Wire()
    wire.run(1)
    for engine in (wire.relay, wire.client):
        assert not engine._crypto_buffers
