"""A stream's bytes on their way: taken once, given back when lost, counted when acknowledged."""

import random
from collections.abc import Callable
from functools import partial

import pytest
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.stream import QuicStream
from hypothesis import given
from hypothesis import strategies as st

from tunnel.errors import LocalProtocolError
from tunnel.transport.quic.fast.records import Run
from tunnel.transport.quic.fast.sender import ChunkSender, Frame
from tunnel.transport.quic.halves import HELD_MAX_BYTES, LOW_WATER_BYTES

ACKED, LOST = QuicDeliveryState.ACKED, QuicDeliveryState.LOST
FAR = 1 << 40
Deliver = Callable[[QuicDeliveryState], None]


class Notes(list[str]):
    """What the connection was told."""

    def sender(self) -> ChunkSender:
        stream = QuicStream(stream_id=1)
        return ChunkSender(stream, lambda _: self.append("wake"), lambda _: self.append("ended"))


def sender(data: bytes = b"", *, end: bool = False) -> ChunkSender:
    made = Notes().sender()
    if data or end:
        made.write(data, end)
    return made


def take_run(source: ChunkSender, count: int, size: int) -> Run:
    run = Run(source, 0, count, 0.0)
    source.take_run(run, size)
    return run


def told_of_run(source: ChunkSender, run: Run, state: QuicDeliveryState) -> None:
    source.on_run_delivery(state, run)


def told_of_frame(source: ChunkSender, frame: Frame, state: QuicDeliveryState) -> None:
    source.on_frame_delivery(state, frame)


@given(st.binary(max_size=400), st.integers(0, 1 << 32))
def test_everything_arrives_once_whatever_is_lost(data: bytes, seed: int) -> None:
    chance = random.Random(seed)
    notes = Notes()
    source = notes.sender()
    arrived: dict[int, bytes] = {}
    under_way: list[tuple[Deliver, int, bytes]] = []
    source.write(data[: len(data) // 2])
    source.write(data[len(data) // 2 :], end_stream=True)
    while source.has_frame or under_way:
        if source.in_runs >= 10 and chance.random() < 0.4:
            run = take_run(source, 3, 10)
            under_way.append((partial(told_of_run, source, run), run.offset, run.data))
        elif source.has_frame and chance.random() < 0.7:
            frame = source.take(chance.randint(1, 50), FAR)
            assert frame is not None
            under_way.append((partial(told_of_frame, source, frame), frame.offset, frame.data))
        elif under_way:
            deliver, offset, carried = under_way.pop(chance.randrange(len(under_way)))
            if chance.random() < 0.5:
                deliver(LOST)
            else:
                assert offset not in arrived or not carried
                arrived[offset] = arrived.get(offset, b"") or carried
                deliver(ACKED)
    assert b"".join(carried for _, carried in sorted(arrived.items())) == data
    assert source.is_finished
    assert notes.count("ended") == 1
    assert source.held == 0


def test_bytes_that_may_change_are_copied() -> None:
    buffer = bytearray(b"before")
    source = Notes().sender()
    source.write(buffer)
    buffer[:] = b"after!"
    assert source.take(10, FAR) == Frame(0, b"before", fin=False)


def test_the_peers_credit_is_kept_to_but_what_was_lost_needs_none() -> None:
    source = sender(b"x" * 100, end=True)
    first = source.take(60, 60)
    assert first == Frame(0, b"x" * 60, fin=False)
    assert source.is_blocked_by(60)
    assert source.take(60, 60) is None
    source.on_frame_delivery(LOST, first)
    assert not source.is_blocked_by(60)
    assert source.take(1000, 60) == first


def test_the_end_goes_out_with_the_last_bytes() -> None:
    source = sender(b"x" * 30, end=True)
    assert source.in_runs == 29
    assert take_run(source, source.in_runs // 10, 10).count == 2
    assert source.take(100, FAR) == Frame(20, b"x" * 10, fin=True)
    assert not source.has_frame


def test_an_end_without_bytes_is_a_frame_of_its_own() -> None:
    source = sender(end=True)
    assert source.take(100, 0) == Frame(0, b"", fin=True)
    source.on_frame_delivery(LOST, Frame(0, b"", fin=True))
    assert source.take(100, 0) == Frame(0, b"", fin=True)


def test_an_announcement_is_repeated_only_while_nothing_else_tells_of_the_stream() -> None:
    source = sender()
    source.must_announce = True
    announced = source.take(100, FAR)
    assert announced == Frame(0, b"", fin=False)
    source.on_frame_delivery(LOST, announced)
    assert source.take(100, FAR) == announced
    source.write(b"x")
    source.take(100, FAR)
    source.on_frame_delivery(LOST, announced)
    assert not source.has_frame


def test_a_lost_packet_holds_its_own_bytes_only() -> None:
    chunk = bytes(50_000)
    source = sender(chunk)
    run = take_run(source, 3, 100)
    source.on_run_delivery(LOST, run.part(1, 2))
    lost = source.take(1000, FAR)
    assert lost == Frame(100, bytes(100), fin=False)


def test_a_reset_drops_everything_and_hears_no_more_of_it() -> None:
    notes = Notes()
    source = notes.sender()
    source.write(b"x" * 100)
    run, frame = take_run(source, 2, 10), source.take(10, FAR)
    assert frame is not None
    source.reset(7)
    for state in (ACKED, LOST):
        source.on_run_delivery(state, run)
        source.on_frame_delivery(state, frame)
    assert not source.has_frame
    assert source.in_runs == 0
    assert source.reset_pending
    source.on_reset_delivery(ACKED)
    assert notes.count("ended") == 1


def test_nothing_is_written_after_an_end_or_a_reset() -> None:
    for source in (sender(end=True), sender(b"x")):
        source.reset(7)
        with pytest.raises(LocalProtocolError):
            source.write(b"more")


def test_a_writer_is_told_when_little_is_left_unsent() -> None:
    told: list[bool] = []
    source = sender(bytes(LOW_WATER_BYTES + 2000))
    source.on_room = lambda: told.append(True)
    take_run(source, 1, 1000)
    assert told == []
    take_run(source, 1, 1000)
    assert told == [True]


def test_a_writer_waits_though_everything_is_sent_as_long_as_nothing_is_acknowledged() -> None:
    told: list[bool] = []
    source = sender(bytes(HELD_MAX_BYTES + 1000))
    run = take_run(source, HELD_MAX_BYTES, 1000)
    source.on_room = lambda: told.append(True)
    source.take(1000, FAR)
    assert told == []
    source.on_run_delivery(ACKED, run.part(0, 2))
    assert told == [True]
