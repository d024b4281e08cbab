import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.protocol.heartbeat import Action, Heartbeat, Pulse

PROPER_FRACTION = st.floats(0, 1, exclude_max=True)


def middle() -> float:
    return 0.5


def due(heartbeat: Heartbeat) -> float:
    then = heartbeat.next_timeout()
    assert then is not None
    return then


def asked(now: float = 0.0) -> Heartbeat:
    """Return a heartbeat of 5 s begun at `now` whose first ping went out at now + 5."""
    heartbeat = Heartbeat(5.0, now, middle)
    heartbeat.handle_timeout(now + 5)
    return heartbeat


def test_the_first_ping_is_due_after_one_interval() -> None:
    heartbeat = Heartbeat(5.0, 100.0, middle)
    assert (due(heartbeat), heartbeat.handle_timeout(105.0)) == (105.0, (Action.PING,))


@pytest.mark.parametrize(("random", "interval"), [(0.0, 4.0), (0.5, 5.0), (1 - 2**-53, 6.0)])
def test_the_interval_varies_by_a_fifth(random: float, interval: float) -> None:
    assert due(Heartbeat(5.0, 0.0, lambda: random)) == pytest.approx(interval)


def test_nothing_is_done_before_the_time() -> None:
    assert Heartbeat(5.0, 0.0, middle).handle_timeout(4.999) == ()


def test_an_answer_in_time_leads_to_the_next_ping_one_interval_after_the_last() -> None:
    heartbeat = asked()
    assert heartbeat.heard(5.04) == ()
    assert (heartbeat.state, due(heartbeat)) == (Pulse.ALIVE, 10.0)


def test_a_first_miss_takes_it_out_of_rotation_and_asks_again_at_once() -> None:
    heartbeat = asked()
    assert heartbeat.handle_timeout(8.0) == (Action.SUSPECT, Action.PING)


def test_a_second_miss_closes() -> None:
    heartbeat = asked()
    heartbeat.handle_timeout(8.0)
    assert heartbeat.handle_timeout(11.0) == (Action.CLOSE,)


def test_the_dead_are_not_asked_again() -> None:
    heartbeat = asked()
    heartbeat.handle_timeout(8.0)
    heartbeat.handle_timeout(11.0)
    assert (heartbeat.next_timeout(), heartbeat.handle_timeout(99.0)) == (None, ())


def test_the_dead_do_not_rise() -> None:
    heartbeat = asked()
    heartbeat.handle_timeout(8.0)
    heartbeat.handle_timeout(11.0)
    assert (heartbeat.heard(11.1), heartbeat.state) == ((), Pulse.DEAD)


def test_any_byte_restores_a_suspect() -> None:
    heartbeat = asked()
    heartbeat.handle_timeout(8.0)
    assert heartbeat.heard(9.0) == (Action.RESTORE,)


def test_bytes_from_before_the_ping_do_not_answer_it() -> None:
    heartbeat = asked()
    assert (heartbeat.heard(4.9), heartbeat.state) == ((), Pulse.ASKED)


def test_bytes_at_the_very_tick_of_the_ping_answer_it() -> None:
    heartbeat = asked()  # a loop whose clock stands still within one turn sees them so
    heartbeat.heard(5.0)
    assert heartbeat.state is Pulse.ALIVE


def test_bytes_reported_late_still_count_at_the_deadline() -> None:
    heartbeat = asked()
    heartbeat.heard(5.1)  # told at 8.0, just before the deadline is looked at
    assert heartbeat.handle_timeout(8.0) == ()


@pytest.mark.parametrize("misses", [0, 1])
def test_our_own_late_tick_judges_nobody_and_asks_at_once(misses: int) -> None:
    heartbeat = asked()
    for _ in range(misses):
        heartbeat.handle_timeout(due(heartbeat))
    before, late = heartbeat.state, due(heartbeat) + 2.001
    assert heartbeat.handle_timeout(late) == (Action.PING,)
    assert (heartbeat.state, due(heartbeat)) == (before, late + 3)


def test_a_tick_late_by_two_seconds_still_judges() -> None:
    assert asked().handle_timeout(10.0) == (Action.SUSPECT, Action.PING)


@given(st.floats(0, 60), st.floats(0, 0.5), st.lists(PROPER_FRACTION, min_size=30, max_size=30))
def test_a_dead_path_is_suspect_within_nine_seconds_and_closed_within_twelve(
    died: float, round_trip: float, jitter: list[float]
) -> None:
    heartbeat = Heartbeat(5.0, 0.0, iter(jitter).__next__)
    times: dict[Action, float] = {}
    while (now := heartbeat.next_timeout()) is not None:
        actions = heartbeat.handle_timeout(now)
        times |= dict.fromkeys(actions, now)
        if Action.PING in actions and now + round_trip <= died:
            heartbeat.heard(now + round_trip)
    assert times[Action.SUSPECT] - died <= 9 + 1e-9
    assert times[Action.CLOSE] - died <= 12 + 1e-9


@given(st.floats(1, 60), st.lists(PROPER_FRACTION, min_size=60, max_size=60))
def test_a_peer_that_answers_within_three_seconds_is_never_suspect(
    interval: float, jitter: list[float]
) -> None:
    heartbeat = Heartbeat(interval, 0.0, iter(jitter).__next__)
    for _ in range(50):
        now = due(heartbeat)
        assert heartbeat.handle_timeout(now) == (Action.PING,)
        heartbeat.heard(now + 2.999)
