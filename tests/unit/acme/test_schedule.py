"""When certificates are renewed, and how failures space out: by arithmetic, without waiting."""

import json
import math
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnel.acme.schedule import (
    ERROR_LIMIT,
    FAILURES_PER_HOUR,
    HOUR,
    JITTER,
    POSTPONED_MIN,
    RETRY_AFTER_MAX,
    Record,
    RenewalWindow,
    renewal_time,
    retry_delay,
)

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
ROUNDING = timedelta(microseconds=2)
LEAF = bytes(range(32))
FULL = Record(
    failures=3,
    failed_at=(NOW - 3 * MINUTE, NOW - timedelta(microseconds=1)),
    last_error='said "no"\n\udcff',
    retry_at=NOW + HOUR,
    leaf=LEAF.hex(),
    window=RenewalWindow(NOW, NOW + DAY),
    draw=0.1 + 0.2,
    postponements=2,
)

draws = st.floats(0, 1, exclude_max=True)
moments = st.timedeltas(-2000 * DAY, 20000 * DAY).map(lambda distance: NOW + distance)
lifetimes = st.integers(30, 400 * 86400).map(lambda value: timedelta(seconds=value))
seconds = st.floats(0, 1e12)


def due(lifetime: timedelta, window: RenewalWindow | None = None, *, draw: float = 0.0) -> float:
    """Return the fraction of its life after which a certificate of NOW is renewed."""
    at = renewal_time(NOW, NOW + lifetime, renew_before=None, window=window, draw=draw)
    return (at - NOW) / lifetime


# -- renewal


def test_a_long_life_is_renewed_with_a_third_left() -> None:
    assert due(90 * DAY) == pytest.approx(2 / 3)


def test_a_short_life_is_renewed_with_half_left() -> None:
    assert due(timedelta(hours=160)) == pytest.approx(1 / 2)


def test_ten_days_are_a_long_life() -> None:
    assert due(10 * DAY) == pytest.approx(2 / 3)
    assert due(10 * DAY - timedelta(seconds=1)) == pytest.approx(1 / 2)


def test_a_fleet_of_one_day_spreads_over_a_fiftieth_of_the_life() -> None:
    assert due(90 * DAY, draw=0.5) == pytest.approx(2 / 3 - 1 / 100)


def test_the_operators_margin_overrides_the_window() -> None:
    window = RenewalWindow(NOW, NOW + DAY)
    for draw in (0.0, 0.99):
        at = renewal_time(NOW, NOW + 90 * DAY, renew_before=864e3, window=window, draw=draw)
        assert at == NOW + 80 * DAY


@given(margin=st.floats(0, 1e300) | st.just(math.inf), lifetime=lifetimes, draw=draws)
def test_no_margin_renews_in_the_first_half(
    margin: float, lifetime: timedelta, draw: float
) -> None:
    at = renewal_time(NOW, NOW + lifetime, renew_before=margin, window=None, draw=draw)
    assert NOW + lifetime / 2 <= at <= NOW + lifetime


@given(start=moments, lifetime=lifetimes, draw=draws)
def test_without_advice_renewal_lies_in_the_second_half_but_for_jitter(
    start: datetime, lifetime: timedelta, draw: float
) -> None:
    at = renewal_time(start, start + lifetime, renew_before=None, window=None, draw=draw)
    assert start + lifetime * (1 / 2 - JITTER) - ROUNDING <= at < start + lifetime


@given(draw=draws)
def test_the_place_in_the_window_is_drawn(draw: float) -> None:
    window = RenewalWindow(NOW + 50 * DAY, NOW + 52 * DAY)
    at = renewal_time(NOW, NOW + 90 * DAY, renew_before=None, window=window, draw=draw)
    assert at == window.start + 2 * DAY * draw


def test_a_window_that_is_past_makes_renewal_due() -> None:
    window = RenewalWindow(NOW - 2 * DAY, NOW - DAY)
    assert due(90 * DAY, window, draw=0.99) < 0


@pytest.mark.parametrize("length", [timedelta(0), -DAY])
def test_a_window_without_length_is_none(length: timedelta) -> None:
    window = RenewalWindow(NOW + DAY, NOW + DAY + length)
    assert due(90 * DAY, window) == due(90 * DAY)


@given(start=moments, length=lifetimes, lifetime=lifetimes, draw=draws)
def test_no_window_puts_renewal_off_to_the_end(
    start: datetime, length: timedelta, lifetime: timedelta, draw: float
) -> None:
    assert due(lifetime, RenewalWindow(start, start + length), draw=draw) < 0.91


def test_a_certificate_that_ends_before_it_begins_is_due_at_its_end() -> None:
    assert renewal_time(NOW, NOW - DAY, renew_before=None, window=None, draw=0.5) == NOW - DAY


# -- retries


def test_retries_become_rare_and_end_up_daily() -> None:
    minutes = [retry_delay(failures, None) / 60 for failures in (1, 2, 3, 4, 5, 10**9)]
    assert minutes == [1, 10, 100, 1440, 1440, 1440]


@pytest.mark.parametrize(
    ("failures", "left", "delay"),
    [
        (1, 2e6, 60),
        (4, 4 * 86400, 86400),
        (4, 2 * 86400, 43200),
        (4, 12 * 3600, 3 * 3600),
        (3, 3600, 900),
        (9, 30, 60),
        (1, 1, 60),
        (4, 0, 86400),
        (4, -1, 86400),
    ],
)
def test_the_shorter_the_life_that_is_left_the_sooner_it_is_tried_again(
    failures: int, left: float, delay: float
) -> None:
    assert retry_delay(failures, None, left) == delay
    assert retry_delay(failures, 1e5, left) == 1e5


def test_a_day_is_long_enough_for_a_ca_that_is_back_in_time() -> None:
    ends, now, record, orders = NOW + DAY / 2, NOW, Record(), 0
    while (now := record.may_order_at(now)) < ends:
        record, orders = record.failed("down", now, not_after=ends, draw=0.99), orders + 1
    assert 10 < orders < 20
    assert ends - record.failed_at[-1] < HOUR


@given(failures=st.integers(0, 20), retry_after=st.none() | st.floats(0, 1e6), draw=draws)
def test_a_fleet_comes_back_up_to_a_tenth_later(
    failures: int, retry_after: float | None, draw: float
) -> None:
    for attempt in (Record.failed, Record.postponed):
        record = Record(failures=failures)
        least = attempt(record, "no", NOW, retry_after).may_order_at(NOW) - NOW
        most = attempt(record, "no", NOW, retry_after, draw=draw).may_order_at(NOW) - NOW
        assert abs(most - least * (1 + draw / 10)) < ROUNDING


@pytest.mark.parametrize(
    ("retry_after", "wait"), [(7200.0, 2 * HOUR), (None, MINUTE), (1.0, MINUTE)]
)
def test_postponing_does_not_shorten_what_the_ca_asked_for(
    retry_after: float | None, wait: timedelta
) -> None:
    record = Record().failed("busy", NOW, retry_after).postponed("no relay", NOW, 30.0)
    assert record.may_order_at(NOW) == NOW + wait


def test_postponing_forgets_a_wait_that_is_incredible() -> None:
    record = Record(retry_at=NOW + 300 * DAY).postponed("no relay", NOW)
    assert record.retry_at == NOW + MINUTE


@pytest.mark.parametrize(
    ("retry_after", "delay"),
    [(5.0, 60.0), (3600.0, 3600.0), (1e300, RETRY_AFTER_MAX), (-1.0, 60.0), (math.nan, 60.0)],
)
def test_retry_after_makes_it_later_within_reason(retry_after: float, delay: float) -> None:
    assert retry_delay(1, retry_after) == delay


@given(failures=st.integers(0, 20), retry_after=seconds)
def test_no_order_is_placed_before_retry_after(failures: int, retry_after: float) -> None:
    record = Record(failures=failures).failed("busy", NOW, retry_after)
    wait = (record.may_order_at(NOW) - NOW).total_seconds()
    assert wait >= min(retry_after, RETRY_AFTER_MAX) - 1e-5  # datetime keeps microseconds
    assert wait <= RETRY_AFTER_MAX


def test_a_fresh_record_permits_an_order_at_once() -> None:
    assert Record().may_order_at(NOW) == NOW


def test_what_may_be_ordered_since_long_may_be_ordered_now() -> None:
    assert Record(retry_at=NOW - DAY).may_order_at(NOW) == NOW


def test_failures_add_up_and_say_why() -> None:
    record = Record().failed("first", NOW).failed("second", NOW + MINUTE)
    assert (record.failures, record.last_error) == (2, "second")
    assert record.failed_at == (NOW, NOW + MINUTE)
    assert record.retry_at == NOW + 11 * MINUTE


def test_what_a_ca_says_is_kept_in_part() -> None:
    for record in (Record().failed("x" * 10**6, NOW), Record().postponed("x" * 10**6, NOW)):
        assert record.last_error == "x" * ERROR_LIMIT


def test_postponing_is_no_failure_and_slows_down_from_the_third_on() -> None:
    record, waits = Record(failures=2, failed_at=(NOW,)), []
    for _ in range(4):
        record = record.postponed("no relay", NOW)
        waits.append((record.may_order_at(NOW) - NOW) / MINUTE)
    assert waits == [1, 1, 10, 10]
    assert (record.failures, record.failed_at, record.last_error) == (2, (NOW,), "no relay")


def test_a_failed_order_ends_a_row_of_postponements() -> None:
    record = Record(postponements=2).failed("invalid", NOW).postponed("no relay", NOW)
    assert record.retry_at == NOW + MINUTE


@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [(30.0, 30.0), (7200.0, 7200.0), (0.0, POSTPONED_MIN), (math.inf, RETRY_AFTER_MAX)],
)
def test_who_postpones_may_say_until_when(retry_after: float, wait: float) -> None:
    record = Record(postponements=5).postponed("busy", NOW, retry_after)
    assert record.may_order_at(NOW) == NOW + timedelta(seconds=wait)


def test_a_certificate_makes_all_forgotten_but_the_hours_failures() -> None:
    record = FULL.issued(LEAF[::-1], 0.25)
    assert record == Record(failed_at=FULL.failed_at, leaf=LEAF[::-1].hex(), draw=0.25)


def test_a_window_changes_nothing_else() -> None:
    assert FULL.with_window(None) == replace(FULL, window=None)
    assert FULL.with_window(None).with_window(FULL.window) == FULL


def test_the_sixth_order_waits_until_the_first_failure_is_an_hour_old() -> None:
    record = Record()
    for minute in range(FAILURES_PER_HOUR):
        record = record.failed("invalid", NOW + minute * MINUTE).issued(LEAF, 0.0)
    assert record.may_order_at(NOW + 30 * MINUTE) == NOW + HOUR
    assert record.may_order_at(NOW + HOUR) == NOW + HOUR


events = st.tuples(
    st.sampled_from(["failed", "postponed", "issued", "restarted"]),
    st.none() | st.floats(0, 100),
    st.timedeltas(timedelta(0), timedelta(minutes=20)),  # how long the attempt took
)


@settings(max_examples=200)
@given(st.lists(events, max_size=60))
def test_never_more_than_five_orders_fail_in_an_hour(
    run: list[tuple[str, float | None, timedelta]],
) -> None:
    record, now, failed = Record(), NOW, []
    for event, retry_after, took in run:
        now = record.may_order_at(now) + took
        match event:
            case "failed":
                record = record.failed("invalid", now, retry_after)
                failed.append(now)
            case "postponed":
                record = record.postponed("no relay", now, retry_after)
            case "issued":
                record = record.issued(LEAF, 0.5)
            case _:
                record = Record.from_json(record.to_json())
    for first, sixth in zip(failed, failed[FAILURES_PER_HOUR:], strict=False):
        assert sixth - first >= HOUR


# -- a clock that was wrong


def test_failures_in_the_future_do_not_count() -> None:
    record = Record(failed_at=(NOW + 300 * DAY,) * FAILURES_PER_HOUR)
    assert record.may_order_at(NOW) == NOW
    assert record.failed("invalid", NOW).failed_at == (NOW,)


def test_a_retry_incredibly_far_ahead_is_ignored() -> None:
    assert Record(retry_at=NOW + 8 * DAY).may_order_at(NOW) == NOW + 8 * DAY
    assert Record(retry_at=NOW + 8 * DAY + MINUTE).may_order_at(NOW) == NOW


@given(st.lists(moments, max_size=8), moments)
def test_whatever_the_clock_was_the_wait_is_bounded(clock: list[datetime], now: datetime) -> None:
    record = Record()
    for moment in clock:
        record = record.failed("invalid", moment, 1e9)
    assert record.may_order_at(now) - now <= 8 * DAY


# -- on disk


@given(
    st.builds(
        Record,
        failures=st.integers(0, 10**6),
        failed_at=st.lists(moments, max_size=FAILURES_PER_HOUR).map(tuple),
        last_error=st.none() | st.text(max_size=ERROR_LIMIT),
        retry_at=st.none() | moments,
        leaf=st.none() | st.binary(min_size=32, max_size=32).map(bytes.hex),
        window=st.none() | st.builds(RenewalWindow, moments, moments),
        draw=draws,
        postponements=st.integers(0, 10**6),
        chain=st.none() | st.integers(0, 10),
    )
)
def test_a_record_is_read_back_exactly(record: Record) -> None:
    assert Record.from_json(record.to_json()) == record


def test_other_time_zones_are_read_as_utc() -> None:
    zone = timezone(timedelta(hours=2))
    record = Record.from_json(Record(retry_at=NOW.astimezone(zone)).to_json())
    assert record.retry_at is not None
    assert record.retry_at.isoformat() == NOW.isoformat()


def test_a_record_of_before_chains_were_counted_is_read() -> None:
    fields = json.loads(FULL.to_json())
    del fields["chain"]
    assert Record.from_json(json.dumps(fields).encode()) == FULL


def changed(**fields: object) -> bytes:
    return json.dumps({**json.loads(FULL.to_json()), **fields}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[" * 100_000,
        b"[]",
        b"{}",
        FULL.to_json()[:-20],
        b'{"version": 1}',
        changed(version=2),
        changed(failures=-1),
        changed(failures=True),
        changed(failures=1.0),
        changed(failed_at=None),
        changed(failed_at=["yesterday"]),
        changed(failed_at=[NOW.isoformat()] * (FAILURES_PER_HOUR + 1)),
        changed(last_error="x" * (ERROR_LIMIT + 1)),
        changed(last_error=["x"]),
        changed(retry_at="2026-05-01T12:00:00"),
        changed(retry_at="0001-01-01T00:00:00+14:00"),
        changed(retry_at=1777636800),
        changed(leaf="AB" * 32),
        changed(leaf="ab" * 31),
        changed(window={"start": NOW.isoformat()}),
        changed(window=[NOW.isoformat(), NOW.isoformat()]),
        changed(draw=1.0),
        changed(draw=math.nan),
        changed(draw=-0.5),
        changed(draw="0"),
        changed(postponements=None),
    ],
)
def test_what_is_no_record_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(is not|\w+ is missing)"):
        Record.from_json(content)


@given(
    st.binary()
    | st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists).map(
        lambda value: changed(failed_at=value, window=value, retry_at=value)
    )
)
def test_any_content_is_a_record_or_a_value_error(content: bytes) -> None:
    with suppress(ValueError):
        assert isinstance(Record.from_json(content), Record)
