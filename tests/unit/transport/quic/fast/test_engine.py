"""What the fast engine does itself, what it leaves to aioquic, and what it tells the peer when."""

from typing import Any

import pytest
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionIdIssued, ConnectionIdRetired, StreamDataReceived
from aioquic.quic.logger import QuicLogger
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import CipherSuite
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.transport.quic import wire as wire_module
from tests.unit.transport.quic.wire import CLIENT, RELAY, Wire
from tunnel.settings.values import KIB, MIB, FlowSettings
from tunnel.transport.inbox import CHUNK_MAX_BYTES
from tunnel.transport.quic import configuration
from tunnel.transport.quic.engine import Engine
from tunnel.transport.quic.fast.codec import ack_frame, push_varint, sized_header
from tunnel.transport.quic.fast.engine import FastEngine
from tunnel.transport.quic.fast.receiving import ACK_PACKETS, ACK_SECONDS
from tunnel.transport.quic.fast.records import Run
from tunnel.transport.quic.fast.sealing import Sealer, sealing_keys
from tunnel.transport.quic.fast.sending import NUMBERS_MAX, TURN_MOST_PACKETS, TURN_PACKETS
from tunnel.transport.quic.trains import Train

ROOMY = FlowSettings(stream_window=4 * MIB, stream_window_max=4 * MIB)


def join(*, relay: str = "fast", client: str = "fast", delay: float = 0.01) -> Wire:
    """Return a wire between two engines; datagrams have grown to their full size."""
    wire_module.KINDS.update(relay=relay, client=client)
    try:
        return Wire(flow=ROOMY, delay=delay)
    finally:
        wire_module.KINDS.update(relay="stock", client="stock")


def begin(wire: Wire) -> int:
    """Return a stream that both know."""
    stream_id = wire.relay.open_stream()
    wire.relay.write(stream_id, b"hello")
    wire.run(1)
    wire.received[wire.client].clear()
    return stream_id


def transfer(wire: Wire, size: int = 300_000, seconds: float = 5) -> bool:
    """Say whether bytes go both ways on a new stream."""
    stream_id = begin(wire)
    wire.relay.write(stream_id, bytes(size), end=True)
    wire.client.write(stream_id, bytes(size), end=True)
    wire.run(seconds)
    found = (wire.received[engine][stream_id] for engine in (wire.client, wire.relay))
    return all(len(each) == size for each in found)


def fast(engine: Engine) -> FastEngine:
    assert isinstance(engine, FastEngine)
    return engine


def seal(engine: Engine, plain: bytes) -> bytes:
    """Return an authentic packet of an engine with any frames."""
    keys = sealing_keys(fast(engine)._one_rtt.send)
    phase = fast(engine)._one_rtt.send.key_phase
    sealer = Sealer(keys, engine._peer_cid.cid, engine._packet_number, phase=phase, spin=False)
    sealer.seal(plain)
    engine._packet_number += 1
    return sealer.finish()[0][0]


# What it does itself


def test_a_transfer_takes_no_step_of_aioquics(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any, **_named: Any) -> Any:
        raise AssertionError("aioquic's own way was taken")

    wire = join()
    stream_id = begin(wire)
    for step in ("datagrams_to_send", "receive_datagram", "_handle_stream_frame", "get_timer"):
        monkeypatch.setattr(QuicConnection, step, refuse)
    wire.relay.write(stream_id, bytes(MIB), end=True)
    wire.client.write(stream_id, bytes(MIB), end=True)
    wire.run(5)
    assert len(wire.received[wire.client][stream_id]) == MIB
    assert len(wire.received[wire.relay][stream_id]) == MIB


def test_a_stream_that_the_peer_opens_takes_no_step_of_aioquics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = join()
    begin(wire)
    monkeypatch.delattr(QuicConnection, "_payload_received")
    stream_id = wire.relay.open_stream()
    wire.relay.write(stream_id, b"hello", end=True)
    wire.run(1)
    assert wire.received[wire.client][stream_id] == b"hello"


def test_the_end_of_a_chunk_waits_for_what_its_writer_writes_next() -> None:
    wire = join()
    stream_id = begin(wire)
    wire.relay._loss._cc.congestion_window = 1 << 24
    fast(wire.relay)._recovery.pacer.packet_time = None
    news: list[str] = []
    wire.relay.write(stream_id, bytes(10 * wire.relay._max_datagram_size))
    wire.relay.when_room(stream_id, lambda: news.append("room"))
    sizes = {len(datagram) for datagram in wire.emit(wire.relay)}
    assert (sizes, news) == ({wire.relay._max_datagram_size}, ["room"])
    wire.relay.write(stream_id, bytes(10 * wire.relay._max_datagram_size))
    *full, last = [len(datagram) for datagram in wire.emit(wire.relay)]
    assert set(full) == {wire.relay._max_datagram_size}
    assert last < full[0]


def turns_at(wire: Wire, rate: float | None) -> list[Run]:
    """Return what leaves of two streams in bulk, at so many bytes per second."""
    first, second = begin(wire), begin(wire)
    wire.relay._loss._cc.congestion_window = 1 << 24
    pacer = fast(wire.relay)._recovery.pacer
    pacer.packet_time = wire.relay._max_datagram_size / rate if rate else None
    pacer.bucket_time = pacer.bucket_max = 10.0
    for stream_id in (first, second):
        wire.relay.write(stream_id, bytes(200_000))
    wire.emit(wire.relay)
    return [run for run in fast(wire.relay)._space.sent_packets.values() if isinstance(run, Run)]


@pytest.mark.parametrize("rate", [None, 1_000_000.0])
def test_bulk_is_remembered_in_runs_and_streams_take_turns(rate: float | None) -> None:
    runs = turns_at(join(), rate)
    senders = [run.sender for run in runs]
    assert {run.count for run in runs[:8]} == {TURN_PACKETS}
    assert senders[:8] == [senders[0], senders[1]] * 4


def test_turns_are_longer_where_they_are_soon_over() -> None:
    runs = turns_at(join(), 1e9)
    senders = [run.sender for run in runs]
    assert {run.count for run in runs[:3]} == {TURN_MOST_PACKETS}
    assert senders[:3] == [senders[0], senders[1], senders[0]]


def test_packets_wait_when_too_many_numbers_are_unknown() -> None:
    wire = join()
    stream_id = begin(wire)
    engine = fast(wire.relay)
    engine._loss._cc.congestion_window = 1 << 30
    engine._recovery.pacer.packet_time = None
    engine._space.largest_acked_packet = engine._packet_number - NUMBERS_MAX + 5
    wire.relay.write(stream_id, bytes(200_000))
    assert len(wire.emit(wire.relay)) == 5


def test_a_timeout_probes_though_the_window_is_full() -> None:
    wire = join()
    stream_id = begin(wire)
    wire.relay.write(stream_id, bytes(500_000))
    wire.emit(wire.relay)
    engine = fast(wire.relay)
    engine._loss._cc.congestion_window = 2 * 1350
    before = engine._space.ack_eliciting_in_flight
    engine.get_timer()
    wire.now = engine._loss_at or 0.0  # the pacer's is due before
    engine.handle_timer(wire.now)
    assert len(wire.emit(wire.relay)) == 1
    assert engine._space.ack_eliciting_in_flight == before
    assert wire.emit(wire.relay) == []


def test_credit_for_many_streams_leaves_at_once() -> None:
    wire = join()
    streams = [wire.relay.open_stream() for _ in range(300)]
    wire.run(1)
    for stream_id in streams:
        wire.client.grant(stream_id, 8 * MIB)
    wire.run(1)
    limits = [wire.relay._streams[stream_id].max_stream_data_remote for stream_id in streams]
    assert set(limits) == {8 * MIB}


def test_a_controller_hears_when_there_is_nothing_more_to_send_but_not_when_there_is() -> None:
    wire = join()
    stream_id = begin(wire)
    told: list[bool] = []
    wire.relay._loss._cc.on_app_limited = lambda: told.append(True)  # type: ignore[attr-defined]  # as controllers of ours have it
    wire.relay.write(stream_id, bytes(5_000))
    wire.relay.when_room(stream_id, lambda: None)
    wire.emit(wire.relay)
    assert told == []
    wire.relay.write(stream_id, bytes(5_000))
    wire.emit(wire.relay)
    assert told == [True]


def test_what_comes_at_once_is_told_in_pieces_that_a_reader_may_be_given() -> None:
    wire = join()
    stream_id = begin(wire)
    wire.relay._loss._cc.congestion_window = 1 << 24
    fast(wire.relay)._recovery.pacer.packet_time = None
    wire.relay.write(stream_id, bytes(MIB))
    wire.client.receive_burst(wire.emit(wire.relay), RELAY, wire.now)
    sizes = []
    while (event := wire.client.next_event()) is not None:
        assert isinstance(event, StreamDataReceived)
        sizes.append(len(event.data))
    assert sum(sizes) == MIB
    assert CHUNK_MAX_BYTES - 1350 < max(sizes) <= CHUNK_MAX_BYTES


def test_what_came_in_one_train_arrives_up_to_each_gap_and_the_next_stream() -> None:
    wire = join()
    first, second = begin(wire), begin(wire)
    wire.relay._loss._cc.congestion_window = 1 << 24
    fast(wire.relay)._recovery.pacer.packet_time = None
    for stream_id in (first, second):
        wire.relay.write(stream_id, bytes(60_000))
    size = wire.relay._max_datagram_size
    datagrams = [each for each in wire.emit(wire.relay) if len(each) == size]
    del datagrams[70]
    wire.client.receive_burst(Train(b"".join(datagrams), size), RELAY, wire.now)
    numbers = [len(each) for each in fast(wire.client)._space.ack_queue][-2:]
    assert numbers[1] == len(datagrams) - 70
    wire.run(1)
    assert [len(wire.received[wire.client][each]) for each in (first, second)] == [60_000] * 2


# When it acknowledges


def several(wire: Wire, stream_id: int, count: int) -> list[bytes]:
    """Return as many datagrams of the relay that ask for an acknowledgement."""
    datagrams = []
    for _ in range(count):
        wire.relay.write(stream_id, b"x")
        datagrams += wire.emit(wire.relay)
    assert len(datagrams) == count
    return datagrams


def test_ten_packets_are_acknowledged_by_one() -> None:
    wire = join()
    datagrams = several(wire, begin(wire), ACK_PACKETS)
    for datagram in datagrams[:-1]:
        wire.hear(wire.client, datagram)
        assert wire.emit(wire.client) == []
    wire.hear(wire.client, datagrams[-1])
    assert len(wire.emit(wire.client)) == 1


def test_few_packets_are_acknowledged_within_a_quarter_of_a_round_trip() -> None:
    wire = join(delay=0.01)
    wire.hear(wire.client, several(wire, begin(wire), 1)[0])
    timer = wire.client.get_timer()
    assert timer is not None
    assert 0.0 < timer - wire.now <= 0.02 / 4 * 1.2
    wire.now = timer
    assert len(wire.emit(wire.client)) == 1


def test_on_a_long_path_an_acknowledgement_waits_no_longer_than_we_announced() -> None:
    wire = join(delay=0.5)
    stream_id = begin(wire)
    wire.run(3)
    wire.hear(wire.client, several(wire, stream_id, 1)[0])
    timer = wire.client.get_timer()
    assert timer is not None
    assert timer - wire.now <= ACK_SECONDS + 1e-9


def test_a_packet_out_of_order_is_acknowledged_at_once() -> None:
    wire = join()
    first, second, third = several(wire, begin(wire), 3)
    wire.hear(wire.client, first)
    assert wire.emit(wire.client) == []
    wire.hear(wire.client, third)
    assert len(wire.emit(wire.client)) == 1
    wire.hear(wire.client, second)
    assert len(wire.emit(wire.client)) == 1


def test_a_duplicate_is_not_delivered_twice() -> None:
    wire = join()
    stream_id = begin(wire)
    wire.relay.write(stream_id, bytes(20_000))
    for datagram in wire.emit(wire.relay):
        wire.client.receive_burst([datagram, datagram], RELAY, wire.now)
        wire.client.receive_burst([datagram], RELAY, wire.now)
    wire.run(1)
    assert len(wire.received[wire.client][stream_id]) == 20_000


def test_an_acknowledgement_goes_along_with_other_frames() -> None:
    wire = join()
    stream_id = begin(wire)
    wire.hear(wire.client, several(wire, stream_id, 1)[0])
    wire.client.write(stream_id, b"answer")
    assert len(wire.emit(wire.client)) == 1
    assert fast(wire.client)._space.ack_at is None


def test_one_who_only_acknowledges_is_acknowledged_now_and_then() -> None:
    """Or the records of its packets would pile up for as long as a transfer lasts."""
    wire = join()
    stream_id = begin(wire)
    for _ in range(3000):
        wire.relay.write(stream_id, bytes(2_000))
        wire.run(0.011)
    assert len(fast(wire.client)._space.sent_packets) < 300


# What it leaves to aioquic


def log_packets(engine: Engine) -> None:
    engine._quic_logger = QuicLogger().start_trace(is_client=False, odcid=b"12345678")


def forget_validation(engine: Engine) -> None:
    engine._network_paths[0].is_validated = False
    engine._network_paths[0].bytes_received = 1 << 30


@pytest.mark.parametrize("change", [log_packets, forget_validation])
def test_packets_that_need_more_go_aioquics_way(change: Any) -> None:
    wire = join()
    assert fast(wire.relay)._is_bypassing()
    change(wire.relay)
    assert not fast(wire.relay)._is_bypassing()
    assert transfer(wire)


def test_other_ciphers_go_aioquics_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_chacha(*arguments: Any) -> Any:
        made = configuration.client_configuration(*arguments)
        made.cipher_suites = [CipherSuite.CHACHA20_POLY1305_SHA256]
        return made

    monkeypatch.setattr(wire_module, "client_configuration", with_chacha)
    wire = join()
    assert wire.relay._handshake_confirmed
    assert not fast(wire.relay)._is_bypassing()
    assert transfer(wire)


def test_other_connection_ids_go_aioquics_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "CONNECTION_ID_BYTES", 12)
    wire = join()
    assert wire.relay._handshake_confirmed
    assert not fast(wire.relay)._is_bypassing()
    assert transfer(wire)


def test_a_burst_is_taken_whole_though_some_of_it_is_aioquics() -> None:
    wire = join()
    stream_id = begin(wire)
    wire.relay.write(stream_id, bytes(10_000))
    datagrams = wire.emit(wire.relay)
    noise = [b"\xc0" + bytes(40), b"", b"\x40" * 30, bytes(1350)]
    mixed = [each for pair in zip(datagrams, noise * 4, strict=False) for each in pair]
    wire.client.receive_burst(mixed, RELAY, wire.now)
    wire.run(1)
    assert len(wire.received[wire.client][stream_id]) == 10_000


# What a peer may send


def test_an_acknowledgement_of_what_was_never_sent_ends_the_connection() -> None:
    wire = join()
    begin(wire)
    frame = ack_frame([range(wire.relay._packet_number + 1000)], 0)
    wire.relay.receive_burst([seal(wire.client, frame)], CLIENT, wire.now)
    assert wire.relay.termination is not None
    assert wire.relay.termination.error_code == QuicErrorCode.PROTOCOL_VIOLATION


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (sized_header(1, 5 * MIB, 1, fin=False) + b"x", QuicErrorCode.FLOW_CONTROL_ERROR),
        (sized_header(0, 0, 1, fin=False) + b"x", QuicErrorCode.STREAM_LIMIT_ERROR),
        (sized_header(1, 0, 2, fin=True) + b"xy" + sized_header(1, 0, 3, fin=True) + b"xyz",
         QuicErrorCode.FINAL_SIZE_ERROR),
        (sized_header(1, 0, 9, fin=False) + b"short", QuicErrorCode.FRAME_ENCODING_ERROR),
        (b"\x02\x05\x00\x00", QuicErrorCode.FRAME_ENCODING_ERROR),
        (b"\x02\x05\x00\x00\x09", QuicErrorCode.FRAME_ENCODING_ERROR),
        (b"\x0c\x80\x00", QuicErrorCode.FRAME_ENCODING_ERROR),
        (b"\x21\x00", QuicErrorCode.FRAME_ENCODING_ERROR),
    ],
)  # fmt: skip
def test_a_fault_in_a_frame_ends_the_connection(frames: bytes, code: QuicErrorCode) -> None:
    wire = join()
    assert begin(wire) == 1
    wire.relay.receive_burst([seal(wire.client, frames)], CLIENT, wire.now)
    assert wire.relay.termination is not None
    assert wire.relay.termination.error_code == code


STREAM_FRAMES = st.builds(
    lambda stream_id, offset, data, fin: sized_header(stream_id, offset, len(data), fin=fin) + data,
    st.sampled_from([0, 1, 1, 1, 2, 5]),
    st.integers(0, 30),
    st.binary(max_size=20),
    st.booleans(),
)
ODD_FRAMES = st.one_of(
    st.binary(min_size=1, max_size=20).filter(lambda noise: noise[0] not in {2, 3}),
    st.builds(lambda kind, numbers: bytes((kind,)) + b"".join(map(push_varint, numbers)),
              st.integers(4, 0x1E), st.lists(st.integers(0, 70), max_size=3)),
    st.sampled_from([b"\x00", b"\x01", b"\x02\x00\x00\x00\x00"]),
)  # fmt: skip


@settings(max_examples=40)
@given(
    st.booleans(),
    st.lists(st.lists(st.one_of(STREAM_FRAMES, ODD_FRAMES), min_size=1, max_size=4), max_size=4),
)
def test_whatever_frames_come_both_engines_make_the_same_of_them(
    is_at_relay: bool,
    packets: list[list[bytes]],
) -> None:
    outcomes = []
    for kind in ("fast", "stock"):
        wire = join(relay=kind) if is_at_relay else join(client=kind)
        begin(wire)
        engine, peer = wire.relay, wire.client
        if not is_at_relay:
            engine, peer = peer, engine
        for frames in packets:
            packet = seal(peer, b"".join(frames))
            engine.receive_burst([packet], CLIENT if is_at_relay else RELAY, wire.now)
        ending = engine.termination
        events: list[Any] = []
        while (event := engine.next_event()) is not None:
            is_of_chance = isinstance(event, ConnectionIdIssued | ConnectionIdRetired)
            events.append(type(event) if is_of_chance else event)
        outcomes.append((ending and (ending.error_code, ending.frame_type), events))
    assert outcomes[0] == outcomes[1]


def test_a_transfer_goes_on_beside_a_thousand_idle_streams() -> None:
    wire = join()
    for _ in range(900):
        wire.relay.write(wire.relay.open_stream(), b"idle")
    wire.run(2)
    assert len(wire.relay._streams) == 900
    before = len(fast(wire.relay)._sending)
    assert transfer(wire, 64 * KIB)
    assert before == 0
