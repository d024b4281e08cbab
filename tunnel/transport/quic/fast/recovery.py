"""Loss recovery over runs (RFC 9002): acknowledgements, losses, and what a timeout sends again."""

from collections.abc import Iterable
from typing import Any

from aioquic.quic.congestion.base import K_GRANULARITY
from aioquic.quic.congestion.cubic import CubicCongestionControl
from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import (
    K_PACKET_THRESHOLD,
    K_PERSISTENT_CONGESTION_THRESHOLD,
    K_TIME_THRESHOLD,
    QuicPacketRecovery,
    QuicPacketSpace,
)

from tunnel.transport.quic.fast.records import Run, count_of, parts_of
from tunnel.transport.quic.fast.repeating import LossShare
from tunnel.transport.quic.fast.settling import replaced, settle
from tunnel.transport.quic.pacing import DebtPacer, note_app_limited


class RunRecovery(QuicPacketRecovery):
    """aioquic's recovery for records of more than one packet.

    What congestion controllers are told, and when: see `pacing.PacedControl`.
    """

    def __init__(self, *, max_datagram_size: int, **arguments: Any) -> None:
        super().__init__(max_datagram_size=max_datagram_size, **arguments)
        self.pacer = self._pacer = DebtPacer(self._cc, max_datagram_size)
        self.losses = LossShare()

    @property
    def smoothed_rtt(self) -> float:
        """Seconds of a round trip; what is assumed before the first was measured."""
        return self._rtt_smoothed if self._rtt_initialized else self._rtt_initial

    def note_app_limited(self) -> None:
        """Tell a controller that wants to know that there is nothing more to send."""
        note_app_limited(self._cc)

    def timer_at(self, space: QuicPacketSpace) -> float | None:
        """Return when something is lost or has to be probed; of the one space that is left."""
        if space.loss_time is not None:
            return float(space.loss_time)
        if not space.ack_eliciting_in_flight:
            return None
        timeout: float = self.get_probe_timeout() * 2**self._pto_count
        return self._time_of_last_sent_ack_eliciting_packet + timeout

    def on_packet_sent(self, *, packet: QuicSentPacket, space: QuicPacketSpace) -> None:
        super().on_packet_sent(packet=packet, space=space)
        space.ack_eliciting_in_flight += count_of(packet) - 1

    def on_ack_received(
        self,
        *,
        ack_rangeset: RangeSet | list[range],
        ack_delay: float,
        now: float,
        space: QuicPacketSpace,
    ) -> None:
        """Settle what an ACK frame tells of (RFC 9002 §A.7)."""
        largest = ack_rangeset[-1].stop - 1
        space.largest_acked_packet = max(space.largest_acked_packet, largest)
        acknowledged, remains = settle(space.sent_packets.values(), ack_rangeset)
        if not acknowledged:
            return
        space.sent_packets = replaced(space.sent_packets, remains)
        for packet in acknowledged:
            self._acknowledge(packet, now, space)
        newest = acknowledged[-1]
        is_eliciting = any(packet.is_ack_eliciting for packet in acknowledged)
        if newest.packet_number + count_of(newest) - 1 == largest and is_eliciting:
            self._measure(now - (newest.sent_time or now), ack_delay, now)
        self._detect_loss(now=now, space=space)
        if self.peer_completed_address_validation:
            self._pto_count = 0

    def _acknowledge(self, packet: QuicSentPacket, now: float, space: QuicPacketSpace) -> None:
        if packet.is_ack_eliciting:
            space.ack_eliciting_in_flight -= count_of(packet)
            self.losses.add(arrived=count_of(packet))
        if packet.in_flight:
            self._tell_control(packet, now)
        for handler, arguments in packet.delivery_handlers:
            handler(QuicDeliveryState.ACKED, *arguments)

    def _tell_control(self, packet: QuicSentPacket, now: float) -> None:
        control = self._cc
        before = control.congestion_window
        is_slow_start = control.ssthresh is None or before < control.ssthresh
        control.on_packet_acked(now=now, packet=packet)
        if isinstance(control, CubicCongestionControl) and not is_slow_start:
            grown = control.congestion_window - before
            # Where it follows Reno it counts bytes; else it grows by so much for each packet.
            is_reno = control.congestion_window == control._W_est  # noqa: SLF001 - tells which it was
            if not is_reno and 0 < grown <= packet.sent_bytes:
                control.congestion_window += (count_of(packet) - 1) * grown

    def _measure(self, latest: float, ack_delay: float, now: float) -> None:
        """Take a sample of the round trip (RFC 9002 §5.3)."""
        self._rtt_latest = latest
        self._rtt_min = min(self._rtt_min, latest)
        if not self._rtt_initialized:
            self._rtt_initialized = True
            self._rtt_first_sample_time = now
            self._rtt_smoothed = latest
            self._rtt_variance = latest / 2
        else:
            delay = min(ack_delay, self.max_ack_delay)
            adjusted = latest - delay if latest >= self._rtt_min + delay else latest
            deviation = abs(self._rtt_smoothed - adjusted)
            self._rtt_variance += (deviation - self._rtt_variance) / 4
            self._rtt_smoothed += (adjusted - self._rtt_smoothed) / 8
        self._cc.on_rtt_measurement(now=now, rtt=latest)
        self._update_pacer()

    def _update_pacer(self) -> None:
        self._pacer.update_rate(
            congestion_window=self._cc.congestion_window, smoothed_rtt=self._rtt_smoothed
        )

    def _detect_loss(self, *, now: float, space: QuicPacketSpace) -> None:
        """Give up what was overtaken by enough packets, or by any long ago (RFC 9002 §6.1)."""
        patience = self._patience()
        largest = space.largest_acked_packet
        lost: list[QuicSentPacket] = []
        remains: dict[int, list[QuicSentPacket]] = {}
        space.loss_time = None
        for packet in space.sent_packets.values():
            start = packet.packet_number
            if start > largest:
                break
            sent_time = packet.sent_time or 0.0
            is_old = sent_time + patience <= now
            first_kept = max(start, largest + 1 - (0 if is_old else K_PACKET_THRESHOLD))
            if first_kept >= start + count_of(packet):
                lost.append(packet)
                continue
            if first_kept > start:
                remains[start] = parts_of(packet, [first_kept])
                lost.append(remains[start][0])
            if first_kept <= largest and space.loss_time is None:
                space.loss_time = sent_time + patience  # no later packet is due earlier
        if not lost:
            return
        if remains:
            space.sent_packets = replaced(space.sent_packets, remains)
        is_persistent = self._in_persistent_congestion(packets=lost)
        self._on_packets_lost(
            now=now, packets=lost, persistent_congestion=is_persistent, space=space
        )

    def _patience(self) -> float:
        """Seconds after which a packet counts as lost when a later one has arrived."""
        if not self._rtt_initialized:
            return K_TIME_THRESHOLD * self._rtt_initial
        longest = max(self._rtt_latest, self._rtt_smoothed)
        return max(K_TIME_THRESHOLD * longest, K_GRANULARITY)

    def _on_packets_lost(
        self, *, packets: Iterable[QuicSentPacket], space: QuicPacketSpace, **about: Any
    ) -> None:
        lost = list(packets)
        super()._on_packets_lost(packets=lost, space=space, **about)
        count = sum(map(count_of, lost))
        space.ack_eliciting_in_flight -= count - len(lost)
        self.losses.add(lost=count)

    def _in_persistent_congestion(self, *, packets: list[QuicSentPacket]) -> bool:
        """Whether nothing has arrived of what was sent over a long time (RFC 9002 §7.6)."""
        if not self._rtt_initialized:
            return False
        duration = self.get_probe_timeout() * K_PERSISTENT_CONGESTION_THRESHOLD
        began: float | None = None
        next_number = -1
        for packet in packets:
            sent_time = packet.sent_time or 0.0
            if packet.packet_number != next_number:
                began = None  # something in between has arrived, or was of no account
            next_number = packet.packet_number + count_of(packet)
            if not packet.is_ack_eliciting or sent_time <= self._rtt_first_sample_time:
                continue
            if began is None:
                began = sent_time
            elif sent_time - began > duration:
                return True
        return False

    def reschedule_data(self, *, now: float, speed_up_handshake: bool = False) -> None:
        """Send the oldest packet again (RFC 9002 §6.2.4): one, not the run it belongs to."""
        for space in self.spaces:
            oldest = next((p for p in space.sent_packets.values() if p.is_ack_eliciting), None)
            if isinstance(oldest, Run) and oldest.count > 1:
                start = oldest.packet_number
                remains = {start: parts_of(oldest, [start + 1])}
                space.sent_packets = replaced(space.sent_packets, remains)
        super().reschedule_data(now=now, speed_up_handshake=speed_up_handshake)
