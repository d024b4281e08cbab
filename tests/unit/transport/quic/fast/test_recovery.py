"""What acknowledgements and time do to runs (RFC 9002), and what the controller hears of it."""

from collections.abc import Iterable
from typing import Any

import pytest
from aioquic.quic.congestion.base import QuicCongestionControl, register_congestion_control
from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream

from tunnel.transport.quic.fast.records import Record, Run, count_of
from tunnel.transport.quic.fast.recovery import RunRecovery
from tunnel.transport.quic.fast.sender import ChunkSender

SIZE, RTT = 1000, 0.1


class Listening(QuicCongestionControl):
    """A controller that writes down what it is told."""

    # ruff: noqa: ARG002 - the signatures are aioquic's

    def __init__(self, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self.heard: list[tuple[str, Any]] = []

    def on_packet_sent(self, *, packet: QuicSentPacket) -> None:
        self.bytes_in_flight += packet.sent_bytes
        packet.noted = packet.packet_number  # type: ignore[attr-defined]  # as controllers do

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        self._left("acked", [packet])

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:
        self._left("lost", packets)

    def on_packets_expired(self, *, packets: Iterable[QuicSentPacket]) -> None:
        self._left("expired", packets)

    def on_rtt_measurement(self, *, now: float, rtt: float) -> None:
        self.heard.append(("rtt", round(rtt, 6)))

    def on_persistent_congestion(self) -> None:
        self.heard.append(("persistent", None))

    def _left(self, how: str, packets: Iterable[QuicSentPacket]) -> None:
        for packet in packets:
            self.bytes_in_flight -= packet.sent_bytes
            self.heard.append((how, packet.sent_bytes // SIZE))
            assert hasattr(packet, "noted")


register_congestion_control("listening", Listening)


class Scene:
    """One packet space; what is sent are runs of one stream."""

    def __init__(self, congestion: str = "listening") -> None:
        self.space = QuicPacketSpace(is_application_data=True)
        self.probes = 0
        self.recovery = RunRecovery(
            congestion_control_algorithm=congestion,
            initial_rtt=0.3,
            max_datagram_size=SIZE,
            peer_completed_address_validation=True,
            send_probe=self._probe,
        )
        self.recovery.handshake_confirmed = True
        self.recovery.spaces = [self.space]
        self.sender = ChunkSender(QuicStream(stream_id=1), lambda _: None, lambda _: None)
        self.sender.write(bytes(1 << 20))
        self.number = 0

    @property
    def control(self) -> Any:
        return self.recovery._cc

    def _probe(self) -> None:
        self.probes += 1

    def send(self, count: int, now: float) -> None:
        run = Run(self.sender, self.number, count, now)
        self.sender.take_run(run, SIZE)
        run.sent_bytes = run.count * SIZE
        self.recovery.on_packet_sent(packet=run, space=self.space)
        self.number += count

    def hear(self, now: float, *ranges: range, delay: float = 0.0) -> None:
        self.recovery.on_ack_received(
            ack_rangeset=list(ranges), ack_delay=delay, now=now, space=self.space
        )

    @property
    def flying(self) -> list[tuple[int, int]]:
        """The first number and the count of each record."""
        return [(number, count_of(packet)) for number, packet in self.space.sent_packets.items()]

    def check_counts(self) -> None:
        total = sum(count for _, count in self.flying)
        assert self.space.ack_eliciting_in_flight == total
        assert self.control.bytes_in_flight == total * SIZE


def test_a_run_is_split_when_its_beginning_is_acknowledged() -> None:
    scene = Scene()
    scene.send(16, 1.0)
    scene.hear(1.1, range(5))
    assert scene.flying == [(5, 11)]
    assert scene.control.heard == [("acked", 5), ("rtt", RTT)]
    scene.check_counts()


def test_packets_overtaken_by_three_are_lost_at_once_and_the_others_after_a_while() -> None:
    scene = Scene()
    scene.send(16, 1.0)
    scene.hear(1.1, range(1), range(10, 12))
    assert scene.flying == [(9, 1), (12, 4)]
    assert ("lost", 8) in scene.control.heard
    assert scene.space.loss_time == pytest.approx(1.0 + RTT * 9 / 8)
    scene.recovery.on_loss_detection_timeout(now=scene.space.loss_time or 0.0)
    assert scene.flying == [(12, 4)]
    assert scene.space.loss_time is None
    scene.check_counts()


def test_what_was_lost_is_sent_again_and_counted_once() -> None:
    scene = Scene()
    scene.send(8, 1.0)
    scene.hear(1.1, range(4, 8))
    taken = [scene.sender.take(SIZE, 1 << 30) for _ in range(5)]
    assert [frame and frame.offset for frame in taken] == [0, 1000, 2000, 3000, 8000]
    assert scene.flying == []
    scene.check_counts()


def test_the_controller_hears_in_order_of_acks_then_round_trip_then_losses() -> None:
    scene = Scene()
    scene.send(4, 1.0)
    scene.send(8, 1.01)
    scene.hear(1.11, range(4, 12))
    assert [what for what, _ in scene.control.heard] == ["acked", "rtt", "lost"]


def test_an_acknowledgement_of_nothing_new_changes_nothing() -> None:
    scene = Scene()
    scene.send(4, 1.0)
    scene.hear(1.1, range(4))
    heard = list(scene.control.heard)
    scene.hear(1.2, range(4))
    assert scene.control.heard == heard


def test_the_round_trip_is_measured_without_the_peers_delay() -> None:
    scene = Scene()
    scene.send(1, 1.0)
    scene.hear(1.1, range(1))
    scene.send(1, 2.0)
    scene.hear(2.12, range(1, 2), delay=0.02)
    assert scene.recovery.smoothed_rtt == pytest.approx(RTT)
    scene.send(1, 3.0)
    scene.hear(3.3, range(2, 3), delay=10.0)  # no more than the peer announced: 25 ms
    assert scene.recovery.smoothed_rtt == pytest.approx(RTT * 7 / 8 + 0.275 / 8)


def test_a_timeout_sends_one_packet_again_not_the_whole_run() -> None:
    scene = Scene()
    scene.send(16, 1.0)
    scene.recovery.on_loss_detection_timeout(now=2.0)
    assert scene.flying == [(1, 15)]
    assert scene.control.heard == [("expired", 1)]
    assert scene.probes == 1
    scene.check_counts()


def test_a_timeout_comes_later_each_time() -> None:
    scene = Scene()
    scene.send(16, 1.0)
    waits = []
    for _ in range(3):
        due = scene.recovery.timer_at(scene.space)
        assert due == scene.recovery.get_loss_detection_time(amplification_limited=False)
        waits.append((due or 0.0) - 1.0)
        scene.recovery.on_loss_detection_timeout(now=due or 0.0)
    assert waits == pytest.approx([0.6, 1.2, 2.4])


def test_nothing_in_flight_needs_no_timer() -> None:
    assert Scene().recovery.timer_at(Scene().space) is None


@pytest.mark.parametrize(("pause", "is_persistent"), [(0.1, False), (5.0, True)])
def test_a_long_time_in_which_nothing_arrived_is_persistent_congestion(
    pause: float, is_persistent: bool
) -> None:
    scene = Scene()
    scene.send(1, 1.0)
    scene.hear(1.1, range(1))
    for step in range(3):
        scene.send(4, 2.0 + step * pause)
    scene.send(4, 2.1 + 2 * pause)
    scene.hear(2.2 + 2 * pause, range(13, 17))
    assert (("persistent", None) in scene.control.heard) is is_persistent


def test_packets_that_arrived_in_between_disprove_persistent_congestion() -> None:
    scene = Scene()
    scene.send(1, 1.0)
    scene.hear(1.1, range(1))
    for step in range(3):
        scene.send(4, 2.0 + step * 5)
    scene.send(4, 12.1)
    scene.hear(12.2, range(5, 9), range(13, 17))
    assert ("persistent", None) not in scene.control.heard


def test_frames_are_told_what_became_of_their_packet() -> None:
    scene = Scene()
    told: list[QuicDeliveryState] = []
    for number in range(6):
        handlers = [(told.append, ())] if number in {0, 5} else []
        record = Record(number, 100, 1.0, handlers, eliciting=True)
        scene.recovery.on_packet_sent(packet=record, space=scene.space)
    scene.hear(1.1, range(5, 6))
    assert told == [QuicDeliveryState.ACKED, QuicDeliveryState.LOST]


@pytest.mark.parametrize("congestion", ["reno", "cubic"])
def test_the_window_grows_by_runs_as_by_single_packets(congestion: str) -> None:
    windows = []
    for counts in ([16] * 5, [1] * 80):
        scene = Scene(congestion)
        scene.control.congestion_window = scene.control.ssthresh = 80 * SIZE  # no slow start
        scene.send(1, 0.9)
        scene.hear(1.0, range(1))
        for step in range(12):
            for count in counts:
                scene.send(count, 1.0 + step / 10)
            scene.hear(1.1 + step / 10, range(1, scene.number))
        windows.append(scene.control.congestion_window)
        scene.check_counts()
    assert windows[0] == pytest.approx(windows[1], rel=0.02)
    assert windows[0] > 83 * SIZE
