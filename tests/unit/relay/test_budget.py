"""How many certificates may be ordered in a week, and by whom."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.errors import Code, Refused
from tunnel.relay.budget import (
    CUSTOM_PER_WEEK,
    REPEATS_PER_WEEK,
    SAME_ORDER,
    Budget,
    RegisteredDomains,
    Use,
)
from tunnel.settings.values import SuffixSettings

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE, HOUR, DAY, WEEK = (
    timedelta(minutes=1),
    timedelta(hours=1),
    timedelta(days=1),
    timedelta(days=7),
)


def suffix(name: str, per_week: int) -> SuffixSettings:
    return SuffixSettings(name, certificates_per_week=per_week)


def budget(*suffixes: SuffixSettings, **changes: int) -> Budget:
    return Budget(RegisteredDomains(suffixes), **changes)


def three() -> Budget:
    """Return a budget of three new certificates a week."""
    return budget(suffix("t.example.org", 3))


def order(chosen: Budget, name: str, now: datetime, *, renewal: bool = False) -> float | None:
    """Order, and return the seconds to wait where that is refused."""
    try:
        chosen.order(name, renewal=renewal, now=now)
    except Refused as error:
        refusal = error.with_traceback(None)
    else:
        return None
    assert refusal.code is Code.BUSY
    assert refusal.retry_after is not None
    return refusal.retry_after


def use_up(chosen: Budget, names: Iterable[str], now: datetime) -> None:
    for name in names:
        assert order(chosen, name, now) is None


ABC = ("a.t.example.org", "b.t.example.org", "c.t.example.org")


# A week


def test_what_a_week_allows_is_allowed_and_no_more() -> None:
    chosen = three()
    use_up(chosen, ABC, START)
    assert order(chosen, "d.t.example.org", START) == WEEK.total_seconds()


def test_a_place_is_free_again_after_seven_days_not_before() -> None:
    chosen = three()
    for number, name in enumerate(ABC):
        use_up(chosen, [name], START + number * DAY)
    nearly = START + WEEK - timedelta(seconds=90)
    assert order(chosen, "d.t.example.org", nearly) == 90
    assert order(chosen, "d.t.example.org", START + WEEK) is None
    assert order(chosen, "e.t.example.org", START + WEEK) is not None


def test_what_is_refused_costs_nothing() -> None:
    chosen = three()
    use_up(chosen, ABC, START)
    for number in range(100):
        assert order(chosen, "d.t.example.org", START + number * HOUR) is not None
    assert order(chosen, "d.t.example.org", START + WEEK) is None


def test_an_order_that_is_asked_for_again_within_minutes_counts_once() -> None:
    chosen = three()
    for second in (0, 1, SAME_ORDER - 1):
        assert order(chosen, ABC[0], START + timedelta(seconds=second)) is None
    use_up(chosen, ABC[1:], START)
    assert order(chosen, "d.t.example.org", START) is not None


def test_it_is_asked_for_again_even_where_the_week_is_used_up() -> None:
    chosen = three()
    use_up(chosen, ABC, START)
    assert order(chosen, ABC[0], START + 9 * MINUTE) is None


FAILED = (0 * MINUTE, MINUTE, 11 * MINUTE, 111 * MINUTE, *(2 * HOUR + n * DAY for n in range(1, 7)))


def test_orders_that_fail_all_week_take_one_place_for_each_name() -> None:
    chosen = budget(suffix("t.example.org", 20))
    names = [f"n{number}.t.example.org" for number in range(20)]
    for since in FAILED:
        use_up(chosen, names, START + since)
    now = START + FAILED[-1]
    assert chosen.uses(now) == [Use("example.org", 20, 20)]
    assert order(chosen, "late.t.example.org", now) is not None


def ask_all_week(chosen: Budget, every: timedelta) -> int:
    """Ask for one name as often as that; return how many times it was granted."""
    moments = (START + number * every for number in range(WEEK // every))
    return sum(order(chosen, ABC[0], moment) is None for moment in moments)


def test_who_asks_every_ten_minutes_takes_one_place_and_is_stopped() -> None:
    chosen = three()
    granted = ask_all_week(chosen, timedelta(seconds=SAME_ORDER + 1))
    assert granted == 1 + REPEATS_PER_WEEK
    assert chosen.uses(START + WEEK - MINUTE) == [Use("example.org", 1, 3)]
    assert order(chosen, ABC[0], START + WEEK) is None
    assert chosen.uses(START + WEEK) == [Use("example.org", 1, 3)]


def test_asking_all_the_time_does_not_put_the_next_count_off() -> None:
    chosen = three()
    assert ask_all_week(chosen, MINUTE) == 10 * (1 + REPEATS_PER_WEEK)


def test_what_is_ordered_again_has_its_place_where_the_week_is_used_up() -> None:
    chosen = three()
    use_up(chosen, ABC, START)
    assert order(chosen, ABC[0], START + HOUR) is None
    assert order(chosen, "d.t.example.org", START + HOUR) is not None


def test_a_renewal_does_not_make_a_repeated_order_of_the_next_new_one() -> None:
    chosen = budget(suffix("t.example.org", 1))
    use_up(chosen, ABC[:1], START)
    assert order(chosen, ABC[0], START + 8 * DAY, renewal=True) is None
    use_up(chosen, ABC[1:2], START + 8 * DAY)
    assert order(chosen, ABC[0], START + 9 * DAY) is not None


# Renewals


def test_a_renewal_does_not_draw_on_the_week() -> None:
    chosen = three()
    use_up(chosen, ABC, START)
    assert order(chosen, ABC[0], START + HOUR, renewal=True) is None
    assert chosen.uses(START + HOUR) == [Use("example.org", 3, 3)]


def test_renewals_of_one_name_have_as_many_places_again() -> None:
    chosen = three()
    use_up(chosen, ABC[:2], START)
    for number in (1, 2, 3):
        assert order(chosen, ABC[0], START + number * HOUR, renewal=True) is None
    assert order(chosen, ABC[0], START + 4 * HOUR, renewal=True) is not None
    assert order(chosen, ABC[1], START + 4 * HOUR, renewal=True) is None
    assert order(chosen, ABC[0], START + HOUR + WEEK, renewal=True) is None


def test_a_renewal_minutes_after_the_last_is_never_refused() -> None:
    """Certificates of a minute are renewed in that minute."""
    chosen = budget(suffix("t.example.org", 1))
    use_up(chosen, ABC[:1], START)
    for second in range(0, 600, 20):
        assert order(chosen, ABC[0], START + timedelta(seconds=second), renewal=True) is None


def test_a_renewal_of_a_name_not_known_here_is_a_new_order() -> None:
    chosen = three()
    for name in ABC:
        assert order(chosen, name, START, renewal=True) is None
    assert order(chosen, "d.t.example.org", START, renewal=True) is not None


def test_a_name_is_known_for_400_days() -> None:
    chosen = budget(suffix("t.example.org", 1))
    assert order(chosen, ABC[0], START) is None
    later = START + timedelta(days=399)
    assert order(chosen, ABC[1], later) is None
    assert order(chosen, ABC[0], later, renewal=True) is None
    much_later = later + timedelta(days=400)
    assert order(chosen, ABC[2], much_later) is None
    assert order(chosen, ABC[0], much_later, renewal=True) is not None


# Domains


@pytest.mark.parametrize(("of_t", "of_u"), [(5, 2), (2, 5)])
def test_all_suffixes_of_a_registered_domain_share_the_smallest_number(
    of_t: int, of_u: int
) -> None:
    chosen = budget(suffix("t.example.org", of_t), suffix("u.example.org", of_u))
    use_up(chosen, ["a.t.example.org", "a.u.example.org"], START)
    for name in ("b.t.example.org", "b.u.example.org", "shop.example.org", "example.org"):
        assert order(chosen, name, START) is not None


def test_registered_domains_do_not_touch_each_other() -> None:
    chosen = budget(suffix("t.example.co.uk", 1), suffix("t.example.org", 1))
    use_up(chosen, ["a.t.example.co.uk", "a.t.example.org", "a.other.co.uk"], START)


def test_ids_under_a_public_suffix_count_each_for_itself() -> None:
    chosen = budget(suffix("duckdns.org", 1))
    use_up(chosen, [f"{number:032x}.duckdns.org" for number in range(100)], START)
    assert order(chosen, f"www.{0:032x}.duckdns.org", START + HOUR) is not None


def test_custom_names_have_a_number_of_their_own() -> None:
    chosen = budget(suffix("t.example.org", 1))
    names = [f"n{number}.example.com" for number in range(CUSTOM_PER_WEEK)]
    use_up(chosen, names, START)
    assert order(chosen, "shop.example.com", START) is not None


@pytest.mark.parametrize("name", ["localhost", "co.uk"])
def test_a_public_suffix_itself_counts_for_itself(name: str) -> None:
    chosen = budget(suffix("t.example.org", 1))
    assert order(chosen, name, START) is None


# Memory


def test_full_it_forgets_what_was_ordered_the_longest_ago() -> None:
    chosen = budget(suffix("org", 1), names_kept=2, domains_kept=2)
    use_up(chosen, ["a.org", "b.org", "c.org"], START)
    assert order(chosen, "a.org", START + HOUR) is None
    assert order(chosen, "www.c.org", START + HOUR) is not None
    kept = json.loads(json.dumps(chosen.snapshot(START + HOUR)))
    assert (set(kept["new"]), set(kept["names"])) == ({"a.org", "c.org"}, {"a.org", "c.org"})


def test_what_no_longer_counts_is_forgotten() -> None:
    chosen = three()
    use_up(chosen, ABC, START)
    assert order(chosen, ABC[0], START + HOUR, renewal=True) is None
    kept = chosen.snapshot(START + timedelta(days=8))
    assert kept["new"] == {}
    names = kept["names"]
    assert isinstance(names, dict)
    assert names[ABC[0]]["renewals"] == []
    assert chosen.snapshot(START + timedelta(days=401)) == {"new": {}, "names": {}}


def test_a_snapshot_restores_all_of_it() -> None:
    chosen, again = three(), three()
    use_up(chosen, ABC, START)
    for number in (1, 2, 3):
        order(chosen, ABC[0], START + number * HOUR, renewal=True)
    now = START + 4 * HOUR
    use_up(chosen, ABC[1:2], now)
    again.restore(json.loads(json.dumps(chosen.snapshot(now))), now)
    assert again.snapshot(now) == chosen.snapshot(now)
    assert order(again, "d.t.example.org", now) is not None
    assert order(again, ABC[0], now, renewal=True) is not None


def test_orders_of_times_to_come_were_placed_just_now() -> None:
    """The clock was years ahead, and was set right."""
    chosen, again = three(), three()
    use_up(chosen, ABC, START + 1000 * DAY)
    again.restore(chosen.snapshot(START + 1000 * DAY), START)
    assert order(again, "d.t.example.org", START + HOUR) is not None
    assert order(again, "d.t.example.org", START + WEEK) is None


def test_a_clock_set_back_while_it_runs_frees_nobody_for_ever() -> None:
    chosen = three()
    use_up(chosen, ABC, START + 1000 * DAY)
    use_up(chosen, ABC, START)
    assert order(chosen, "d.t.example.org", START) is not None


def test_a_file_that_says_nothing_of_repeated_orders_is_read() -> None:
    chosen = budget(suffix("t.example.org", 2))
    moment = int(START.timestamp())
    known = {"ordered_at": moment, "renewals": [moment]}
    chosen.restore({"new": {"example.org": [moment]}, "names": {ABC[0]: known}}, START)
    assert order(chosen, ABC[0], START + HOUR) is None
    assert chosen.uses(START + HOUR) == [Use("example.org", 2, 2)]
    assert order(chosen, ABC[0], START + 2 * HOUR) is None


MEMBERS = {"new": {"example.org": [1]}, "names": {"a.example.org": {"ordered_at": 1}}}
WRONG: list[object] = [
    None,
    [],
    {},
    {"new": {}},
    {"new": {}, "names": []},
    {"new": {"example.org": 1}, "names": {}},
    {"new": {"example.org": ["1"]}, "names": {}},
    {"new": {"example.org": [1.5]}, "names": {}},
    {"new": {"example.org": [True]}, "names": {}},
    {"new": {}, "names": {"a.test": {"ordered_at": 1, "renewals": [], "counted_at": "1"}}},
    {"new": {}, "names": {"a.test": {"ordered_at": 1, "renewals": [], "repeats": 1}}},
    MEMBERS,
]


@pytest.mark.parametrize("members", WRONG)
def test_what_is_no_snapshot_changes_nothing(members: object) -> None:
    chosen = three()
    use_up(chosen, ABC, START)
    before = json.dumps(chosen.snapshot(START))
    with pytest.raises(ValueError, match="not a"):
        chosen.restore(members, START)
    assert json.dumps(chosen.snapshot(START)) == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda each: st.lists(each) | st.dictionaries(st.text(), each),
)
NAMED = st.fixed_dictionaries(
    {
        "new": st.dictionaries(st.text(), st.lists(st.integers()) | JSON),
        "names": st.dictionaries(
            st.text(),
            st.fixed_dictionaries(
                {"ordered_at": st.integers(), "renewals": JSON},
                optional={"counted_at": st.integers(), "repeats": JSON},
            )
            | JSON,
        ),
    }
)


@given(members=JSON | NAMED)
def test_any_json_is_a_snapshot_or_a_value_error(members: object) -> None:
    chosen = three()
    try:
        chosen.restore(members, START)
    except ValueError:
        return
    order(chosen, ABC[0], START, renewal=True)
    json.dumps(chosen.snapshot(START))
