"""What is dialled, what serves and what is given up, decided without waiting."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tunnel.client.ending import Ending
from tunnel.client.racing import HTTP2, QUIC, Course, Lane, Rules, resolves_name
from tunnel.errors import Code

FIRST = Lane(QUIC)
POOL = tuple(Lane(HTTP2, number) for number in range(4))
LOST = Ending(Code.TIMEOUT, "no answer to two pings")
NO_ANSWER = Ending(None, "no answer")
BASE = 5.0


@dataclass
class Trial:
    """A course with a clock; what it says is collected."""

    mode: str = "auto"
    remembered: str | None = None
    now: float = 100.0
    dialled: list[tuple[float, Lane]] = field(default_factory=list)

    def __post_init__(self) -> None:
        rules = Rules(self.mode, pool_size=4, probe_interval=BASE)
        self.course = Course(rules, lambda: 0.999, remembered=self.remembered)
        self.begin = self.now
        self.course.start(self.now)

    def until(self, moment: float) -> list[Lane]:
        """Let time pass, and return what was to be dialled on the way."""
        begin = len(self.dialled)
        while (due := self.course.next_timeout()) is not None and due <= self.begin + moment:
            self.now = max(self.now, due)
            took = self.course.take_due(self.now)
            self.dialled += [(self.now - self.begin, lane) for lane in took]
        self.now = max(self.now, self.begin + moment)
        return [lane for _, lane in self.dialled[begin:]]

    def up(self, *lanes: Lane) -> None:
        for lane in lanes:
            self.course.registered(lane, self.now)
            self.course.serving(lane, self.now)

    def end(self, lane: Lane, ending: Ending = NO_ANSWER) -> None:
        self.course.ended(lane, self.now, ending)

    def surplus(self) -> Sequence[Lane]:
        return self.course.take_surplus()

    def failing_probes(self, count: int, lasting: float = 0.0) -> list[float]:
        """Return when each of so many probes begins, none of which has an answer."""
        moments = []
        for _ in range(count):
            self.until((self.course.next_timeout() or 0) - self.begin)
            moments.append(self.now - self.begin)
            self.now += lasting
            self.end(FIRST)
        return moments

    def taken_over(self) -> tuple[Sequence[Lane], Sequence[Lane]]:
        """Let QUIC register, then serve; return what is given up at each."""
        self.course.registered(FIRST, self.now)
        before = self.surplus()
        self.course.serving(FIRST, self.now)
        return before, self.surplus()


def on_quic() -> Trial:
    trial = Trial()
    trial.until(0)
    trial.up(FIRST)
    return trial


def on_pool() -> Trial:
    """Return a trial whose session came to HTTP/2 after a second and a half; QUIC had failed."""
    trial = Trial()
    trial.until(1.5)
    trial.end(FIRST)
    trial.up(POOL[0])
    trial.surplus()
    trial.until(1.5)
    trial.up(*POOL[1:])
    return trial


def test_quic_is_dialled_first_and_http2_a_second_and_a_half_later() -> None:
    trial = Trial()
    trial.until(3)
    assert trial.dialled == [(0.0, FIRST), (1.5, POOL[0])]


def test_where_udp_did_not_pass_last_time_both_start_at_once() -> None:
    trial = Trial(remembered=HTTP2)
    assert set(trial.until(0)) == {FIRST, POOL[0]}


def test_a_remembered_word_that_nobody_knows_changes_nothing() -> None:
    trial = Trial(remembered="carrier-pigeon")
    assert trial.until(0) == [FIRST]


def test_quic_that_registers_ends_the_race() -> None:
    trial = on_quic()
    assert (trial.until(60), trial.course.transport) == ([], QUIC)


def test_http2_is_given_up_when_quic_registers_first_all_the_same() -> None:
    trial = Trial()
    trial.until(2)
    trial.course.registered(FIRST, trial.now)
    assert trial.surplus() == (POOL[0],)


def won_by_http2() -> Trial:
    """Return a trial in which HTTP/2 registered after 2 s, while QUIC was on its way."""
    trial = Trial()
    trial.until(2)
    trial.up(POOL[0])
    return trial


def test_http2_that_registers_first_fills_its_pool_and_lets_quic_run_on() -> None:
    trial = won_by_http2()
    assert (trial.surplus(), trial.until(2)) == ((), list(POOL[1:]))
    assert (trial.course.transport, trial.course.next_probe) == (HTTP2, None)


def test_quic_that_lost_by_a_hair_takes_over_once_it_serves() -> None:
    trial = won_by_http2()
    trial.until(2)
    assert (trial.taken_over(), trial.course.transport) == (((), POOL), QUIC)
    assert trial.course.favourite is None


def test_quic_that_lost_and_fails_is_probed_at_the_interval_which_has_not_doubled() -> None:
    trial = won_by_http2()
    trial.until(4)
    trial.end(FIRST)
    assert trial.failing_probes(3) == [5.0, 15.0, 35.0]


def test_quic_that_lost_is_still_out_of_turn_once_the_interval_has_changed() -> None:
    trial = won_by_http2()
    trial.course.probe_every(7.0, trial.now)
    trial.until(4)
    trial.end(FIRST)
    assert trial.failing_probes(2) == [9.0, 23.0]


def test_quic_that_lost_and_whose_pool_is_lost_is_a_runner_again() -> None:
    trial = won_by_http2()
    trial.end(POOL[0], LOST)
    assert (trial.course.transport, trial.surplus()) == (None, ())
    trial.up(FIRST)
    assert trial.course.transport == QUIC


def test_http2_keeps_its_head_start_of_the_race_when_quic_fails_at_once() -> None:
    trial = Trial()
    trial.until(0)
    trial.end(FIRST)
    assert trial.until(1.4) == []


def test_a_race_that_all_have_lost_is_run_again_after_a_pause() -> None:
    trial = Trial()
    trial.until(2)
    trial.end(FIRST)
    trial.end(POOL[0])
    trial.until(60)
    runs = [(round(at, 1), lane) for at, lane in trial.dialled[2:]]
    assert runs == [(2.5, FIRST), (4.0, POOL[0])]


def test_a_refusal_ends_the_race_for_both() -> None:
    trial = Trial()
    trial.until(2)
    trial.end(FIRST, Ending(Code.UNAUTHORIZED))
    assert trial.surplus() == (POOL[0],)
    assert trial.until(600) == []
    assert trial.until(700) == [FIRST, POOL[0]]


def test_a_relay_that_calls_back_at_once_and_refuses_again_is_not_asked_in_a_loop() -> None:
    trial = Trial()
    for _ in range(8):
        trial.until((trial.course.next_timeout() or 0) - trial.begin)
        trial.end(FIRST, Ending(Code.DRAINING, "", 0.0))
    assert trial.now - trial.begin > 30


def test_after_an_outage_nobody_waits_longer_than_it_lasted() -> None:
    trial = Trial("quic")
    trial.until(0)
    trial.up(FIRST)
    trial.until(30)
    trial.end(FIRST, LOST)
    pauses = []
    for _ in range(12):
        ended_at = trial.now
        trial.until((trial.course.next_timeout() or 0) - trial.begin)
        pauses.append(trial.now - ended_at)
        trial.end(FIRST)
    down = [sum(pauses[:index]) for index in range(len(pauses))]
    assert all(pause <= max(0.5, before) for pause, before in zip(pauses, down, strict=True))
    assert max(pauses) > 25


def test_connections_that_do_not_hold_end_no_outage() -> None:
    trial = Trial("quic")
    pauses = []
    for _ in range(20):
        ended_at = trial.now
        trial.until((trial.course.next_timeout() or 0) - trial.begin)
        pauses.append(trial.now - ended_at)
        trial.up(FIRST)
        trial.until(trial.now - trial.begin + 1)
        trial.end(FIRST, LOST)
    assert max(pauses) > 20


def test_on_http2_quic_is_probed_each_interval_which_doubles_while_it_fails() -> None:
    trial = on_pool()
    assert trial.failing_probes(4, lasting=5.0) == [6.5, 16.5, 36.5, 76.5]


def test_the_probe_interval_stops_doubling_at_a_quarter_of_an_hour() -> None:
    trial = on_pool()
    trial.failing_probes(20)
    assert (trial.course.next_timeout() or 0) - trial.now == 900.0


def test_the_pool_is_given_up_only_once_quic_serves() -> None:
    trial = on_pool()
    trial.until(6.5)
    assert (trial.taken_over(), trial.course.transport) == (((), POOL), QUIC)


def test_a_member_of_the_pool_is_dialled_again_on_its_own() -> None:
    trial = on_pool()
    trial.end(POOL[2], LOST)
    assert (trial.until(2.1), trial.course.transport) == ([POOL[2]], HTTP2)


def test_a_pool_that_is_lost_as_a_whole_starts_the_race_again() -> None:
    trial = on_pool()
    for lane in POOL:
        trial.end(lane, LOST)
    assert trial.course.transport is None
    assert set(trial.until(2.1)) == {FIRST, POOL[0]}


def test_a_silent_quic_has_http2_dialled_at_once_and_keeps_it_until_it_is_heard_again() -> None:
    trial = on_quic()
    trial.until(9)
    trial.course.suspect(FIRST, trial.now)
    assert trial.until(9) == [POOL[0]]
    trial.up(POOL[0])
    assert trial.until(9) == list(POOL[1:])
    trial.course.restored(FIRST)
    assert (trial.surplus(), trial.course.transport) == (POOL, QUIC)


def test_a_quic_that_died_leaves_the_session_to_http2_and_is_probed() -> None:
    trial = on_quic()
    trial.until(9)
    trial.course.suspect(FIRST, trial.now)
    trial.until(9)
    trial.up(POOL[0])
    trial.until(12)
    trial.end(FIRST, LOST)
    assert trial.course.transport == HTTP2
    assert trial.until(12) == [FIRST]  # at once: the relay may only have been restarted
    trial.now += 5.0
    trial.end(FIRST)
    assert (trial.until(16.9), trial.until(17)) == ([], [FIRST])


def test_http2_under_way_when_quic_dies_goes_on_as_a_runner() -> None:
    trial = on_quic()
    trial.course.suspect(FIRST, trial.now)
    trial.until(0)
    trial.end(FIRST, LOST)
    assert trial.surplus() == ()
    trial.up(POOL[0])
    assert trial.course.transport == HTTP2


def test_a_silent_http2_has_quic_tried_at_once() -> None:
    trial = on_pool()
    trial.until(3)
    trial.course.suspect(POOL[1], trial.now)
    assert trial.until(3) == [FIRST]


def test_a_fixed_transport_never_dials_the_other() -> None:
    trial = Trial("h2")
    trial.until(0)
    trial.up(POOL[0])
    trial.until(0)
    trial.up(*POOL[1:])
    trial.course.suspect(POOL[0], trial.now)
    assert (trial.until(3000), trial.dialled[0][1]) == ([], POOL[0])
    quic = Trial("quic")
    quic.until(0)
    quic.up(FIRST)
    quic.course.suspect(FIRST, quic.now)
    assert quic.until(3000) == []


def test_a_superseded_session_waits_a_minute_on_every_lane() -> None:
    trial = on_pool()
    for lane in POOL:
        trial.end(lane, Ending(Code.SUPERSEDED, "", 0.0))
    assert (trial.until(61), trial.surplus()) == ([], ())
    assert set(trial.until(70)) == {FIRST, POOL[0]}


def test_a_probe_under_way_is_given_up_when_the_session_is_superseded() -> None:
    trial = on_pool()
    trial.until(6.5)
    for lane in POOL:
        trial.end(lane, Ending(Code.SUPERSEDED))
    assert trial.surplus() == (FIRST,)


def test_a_quic_that_soon_dies_after_each_migration_is_tried_less_and_less() -> None:
    trial = on_pool()
    intervals = []
    for _ in range(3):
        trial.until((trial.course.next_timeout() or 0) - trial.begin)
        trial.up(FIRST)
        trial.course.suspect(FIRST, trial.now)
        trial.course.take_due(trial.now)
        trial.up(POOL[0])
        trial.end(FIRST, LOST)
        trial.course.take_due(trial.now)
        trial.up(*POOL[1:])
        intervals.append((trial.course.next_timeout() or 0) - trial.now)
    assert intervals == [10.0, 20.0, 40.0]


def test_only_a_win_of_http2_is_worth_remembering() -> None:
    assert (on_quic().course.favourite, on_pool().course.favourite) == (None, HTTP2)


def test_a_proxy_is_handed_the_name_and_resolves_it_itself() -> None:
    assert not resolves_name(POOL[0], "http://proxy:3128")
    assert resolves_name(FIRST, "http://proxy:3128")
    assert resolves_name(POOL[0], None)
