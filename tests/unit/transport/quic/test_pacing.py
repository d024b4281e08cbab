"""How many packets may leave when."""

import pytest
from aioquic.quic.congestion.base import create_congestion_control

from tunnel.transport.quic.pacing import GAIN, DebtPacer

SIZE = 1250
WINDOW, RTT = 125_000, 0.1  # 1.25 MB/s, and a quarter more: 1250 packets per second


def pacer(rate: float | None = None) -> DebtPacer:
    control = create_congestion_control("reno", max_datagram_size=SIZE)
    if rate is not None:
        control.pacing_rate = rate  # type: ignore[attr-defined]  # as controllers of ours have it
    made = DebtPacer(control, SIZE)
    made.update_rate(WINDOW, RTT)
    return made


def sent_in(pacer: DebtPacer, start: float, seconds: float, step: float) -> int:
    """Send whatever may leave, every `step` seconds."""
    total, now = 0, start
    while now < start + seconds:
        allowed = pacer.packets_allowed(now)
        assert allowed is not None
        pacer.spend(allowed)
        total += allowed
        now += step
    return total


def test_before_a_round_trip_was_measured_everything_may_leave() -> None:
    control = create_congestion_control("reno", max_datagram_size=SIZE)
    assert DebtPacer(control, SIZE).packets_allowed(1.0) is None


@pytest.mark.parametrize("step", [0.0001, 0.001, 0.01])
def test_over_time_as_much_leaves_as_the_window_allows_and_a_quarter(step: float) -> None:
    pacing = pacer()
    sent_in(pacing, 1.0, 1.0, step)
    expected = GAIN * WINDOW / RTT / SIZE
    assert sent_in(pacing, 2.0, 10.0, step) == pytest.approx(10 * expected, rel=0.02)


def test_a_controllers_own_rate_is_kept_to() -> None:
    pacing = pacer(rate=400 * SIZE)
    sent_in(pacing, 1.0, 1.0, 0.001)
    assert sent_in(pacing, 2.0, 10.0, 0.001) == pytest.approx(4000, rel=0.02)


def test_what_a_burst_took_too_much_is_owed() -> None:
    pacing = pacer()
    pacing.packets_allowed(1.0)
    pacing.spend(16 + 1250)
    assert pacing.packets_allowed(1.9) == 0
    assert sent_in(pacing, 2.1, 0.1, 0.001) == pytest.approx(125, abs=20)


def test_a_pause_saves_up_no_more_than_a_burst() -> None:
    pacing = pacer()
    assert pacing.packets_allowed(1000.0) == 16


def test_the_next_burst_is_waited_for_a_millisecond_at_most_unless_the_rate_is_tiny() -> None:
    pacing = pacer()
    assert pacing.resume_at(5.0) == pytest.approx(5.001)
    pacing.update_rate(2 * SIZE, 1.0)
    assert pacing.resume_at(5.0) == pytest.approx(5.4)


def test_a_rate_says_how_many_packets_it_gives_in_a_time() -> None:
    assert pacer(rate=40_000 * SIZE).packets_in(0.001) == 40
    pacing = pacer()
    pacing.packet_time = None
    assert pacing.packets_in(0.001) == 0
