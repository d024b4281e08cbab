import pytest

from tunnel.errors import Code
from tunnel.protocol.backoff import (
    DISPLACED_INTERVAL,
    LONGEST_DELAY,
    REFUSED_INTERVAL,
    SPREAD,
    Backoff,
    full_jitter,
    retry_delay,
)

LATEST = 1 - 2**-53  # the largest float that a `random` returns


def lowest() -> float:
    return 0.0


def highest() -> float:
    return LATEST


@pytest.mark.parametrize(
    ("failures", "ceiling"), [(1, 0.5), (2, 1), (3, 2), (6, 16), (7, 30), (8, 30), (10**6, 30)]
)
def test_the_ceiling_doubles_from_half_a_second_to_thirty(failures: int, ceiling: float) -> None:
    assert full_jitter(failures, highest) == pytest.approx(ceiling)


def test_jitter_is_full() -> None:
    assert full_jitter(7, lowest) == 0


@pytest.mark.parametrize(
    ("code", "seconds"),
    [
        (Code.UNAUTHORIZED, REFUSED_INTERVAL),
        (Code.NAME_REFUSED, REFUSED_INTERVAL),
        (Code.REVOKED, REFUSED_INTERVAL),
        (Code.VERSION, REFUSED_INTERVAL),
        (Code.NAME_TAKEN, DISPLACED_INTERVAL),
        (Code.SUPERSEDED, DISPLACED_INTERVAL),
    ],
)
def test_a_refusal_has_its_own_interval(code: Code, seconds: float) -> None:
    assert retry_delay(code, None, 1, lowest) == seconds


@pytest.mark.parametrize("code", [Code.BUSY, Code.DRAINING])
def test_retry_after_is_kept_where_the_relay_gave_it(code: Code) -> None:
    assert retry_delay(code, 7.0, 1, lowest) == 7.0


@pytest.mark.parametrize("code", [Code.BUSY, Code.DRAINING])
def test_without_retry_after_a_busy_relay_is_a_failure_like_others(code: Code) -> None:
    assert retry_delay(code, None, 2, highest) == pytest.approx(1.0)


@pytest.mark.parametrize("code", [None, Code.OK, Code.PROTOCOL, Code.TIMEOUT, Code.INTERNAL])
def test_everything_else_backs_off_whatever_retry_after_says(code: Code | None) -> None:
    assert retry_delay(code, 500.0, 1, highest) == pytest.approx(0.5)


def test_a_fixed_interval_is_never_undercut_and_spread_by_a_tenth() -> None:
    assert retry_delay(Code.BUSY, 10.0, 1, highest) == pytest.approx(10 * (1 + SPREAD))


def test_failures_in_a_row_add_up() -> None:
    backoff = Backoff(highest)
    assert [backoff.next_delay() for _ in range(3)] == pytest.approx([0.5, 1, 2])


def test_a_minute_of_health_forgets_the_failures_before() -> None:
    backoff = Backoff(highest)
    for _ in range(9):
        backoff.next_delay()
    assert backoff.next_delay(healthy_for=60.0) == pytest.approx(0.5)


def test_less_than_a_minute_of_health_forgets_nothing() -> None:
    backoff = Backoff(highest)
    for _ in range(9):
        backoff.next_delay()
    assert backoff.next_delay(healthy_for=59.9) == pytest.approx(LONGEST_DELAY)
