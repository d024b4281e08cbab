"""How many spares a client keeps, and when TCP is not worth it."""

from tunnel.client.spare_plan import (
    BURST,
    FEWEST,
    LOSSY_FOR,
    QUIET_AFTER,
    SEGMENTS_JUDGED,
    LossGauge,
    SparePlan,
)


def test_it_begins_with_few() -> None:
    plan = SparePlan(64)
    assert plan.missing(0) == FEWEST
    assert SparePlan(2).missing(0) == 2


def test_visitors_at_once_double_what_is_kept_up_to_what_the_relay_takes() -> None:
    plan = SparePlan(64)
    targets = []
    for _ in range(40):
        plan.taken(now=1.0)
        targets.append(plan.target)
    assert targets[:9] == [4, 4, 8, 8, 16, 16, 16, 16, 32]
    assert targets[-1] == 64


def test_a_visitor_now_and_then_changes_nothing() -> None:
    plan = SparePlan(64)
    for number in range(50):
        plan.taken(now=number * BURST)
    assert plan.target == FEWEST


def test_little_that_is_missing_waits_for_more() -> None:
    plan = SparePlan(64)
    plan.target = 16
    assert [plan.missing(waiting) for waiting in (16, 13, 12, 0)] == [0, 0, 4, 16]


def test_after_a_quiet_time_half_will_do() -> None:
    plan = SparePlan(64)
    for _ in range(5):
        plan.taken(now=0.0)
    plan.rest(now=QUIET_AFTER - 1)
    assert (plan.target, plan.surplus(16)) == (16, 0)
    plan.rest(now=QUIET_AFTER)
    assert (plan.target, plan.surplus(16)) == (8, 8)
    for minute in range(2, 9):
        plan.rest(now=minute * QUIET_AFTER)
    assert plan.target == FEWEST


def test_a_path_is_judged_by_enough_segments() -> None:
    gauge = LossGauge()
    gauge.note(SEGMENTS_JUDGED - 1, SEGMENTS_JUDGED // 2, now=0.0)
    assert not gauge.is_lossy(now=0.0)
    gauge.note(1, 0, now=0.0)
    assert gauge.is_lossy(now=0.0)
    assert gauge.is_lossy(now=LOSSY_FOR - 1)
    assert not gauge.is_lossy(now=LOSSY_FOR)  # tried again


def test_a_thousandth_is_tolerated() -> None:
    gauge = LossGauge()
    gauge.note(10_000, 10, now=0.0)
    assert not gauge.is_lossy(now=0.0)
    gauge.note(10_000, 11, now=0.0)
    assert gauge.is_lossy(now=0.0)
