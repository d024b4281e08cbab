"""Whose validations a name's are, and what that leaves of the name's visitors."""

import pytest

from tests.unit.relay.scenes import CHALLENGE, NAME, VISITORS, Clock, Scene, in_loop
from tunnel.errors import Code
from tunnel.relay.challenges import (
    PENDING_LIMIT,
    PENDING_RETRY_INTERVAL,
    TAKEOVER_LIMIT,
    TAKEOVER_RETRY_INTERVAL,
)
from tunnel.relay.registry import NOTHING
from tunnel.relay.sessions import Kinds, retire

OLD, NEW = b"1" * 16, b"2" * 16
OTHER_NAME = "b.t.test"
BOTH = Kinds(visitors=True, challenge=True)


@in_loop
async def test_an_order_counts_once_for_all_links_of_a_session() -> None:
    scene = Scene()
    for link in (scene.join(), scene.join(), scene.join()):
        assert scene.serve(link, BOTH) is None
        assert scene.serve(link, BOTH) is None
    assert scene.budget.counted == [NAME]


@in_loop
async def test_the_next_order_of_a_session_is_asked_for_anew() -> None:
    scene = Scene()
    link = scene.join()
    for kinds in (BOTH, VISITORS, BOTH):
        scene.serve(link, kinds)
    assert scene.budget.counted == [NAME, NAME]


@in_loop
async def test_a_renewal_is_counted_as_one() -> None:
    scene = Scene()
    scene.registry.serve(scene.join(), NAME, BOTH, renewal=True)
    assert scene.budget.counted == [f"renewal of {NAME}"]


@in_loop
async def test_visitors_cost_nothing() -> None:
    scene = Scene()
    scene.serve(scene.join())
    assert scene.budget.counted == []


@in_loop
async def test_over_budget_visitors_are_served_all_the_same() -> None:
    scene = Scene()
    scene.budget.is_used_up = True
    link = scene.join()
    outcome = scene.registry.serve(link, NAME, BOTH)
    assert (outcome.kinds, outcome.code, outcome.retry_after) == (VISITORS, Code.BUSY, 77)
    assert outcome.message == "used up"
    assert scene.registry.route(NAME) is link
    assert scene.registry.route(NAME, challenge=True) is None


@in_loop
async def test_over_budget_a_validation_alone_leaves_nothing_behind() -> None:
    scene = Scene()
    scene.budget.is_used_up = True
    link = scene.join()
    assert scene.registry.serve(link, NAME, CHALLENGE).kinds == NOTHING
    assert link.serving == {}


@in_loop
async def test_the_second_to_ask_gets_visitors_only_and_spends_nothing() -> None:
    scene = Scene()
    first, second = scene.join(OLD, is_replica=True), scene.join(NEW, is_replica=True)
    scene.serve(first, BOTH)
    outcome = scene.registry.serve(second, NAME, BOTH)
    assert (outcome.kinds, outcome.code) == (VISITORS, Code.BUSY)
    assert outcome.retry_after == PENDING_RETRY_INTERVAL
    assert scene.registry.route(NAME, challenge=True) is first
    assert scene.budget.counted == [NAME]


@in_loop
async def test_a_takeover_takes_the_validation_with_it() -> None:
    scene = Scene()
    old, new = scene.join(OLD), scene.join(NEW)
    scene.serve(old, BOTH)
    scene.clock.now += TAKEOVER_LIMIT
    outcome = scene.registry.serve(new, NAME, BOTH)
    assert (outcome.kinds, outcome.superseded) == (BOTH, (old.session,))
    assert scene.registry.route(NAME, challenge=True) is new


@in_loop
async def test_a_takeover_of_the_visitors_ends_the_old_validation() -> None:
    scene = Scene()
    old, new = scene.join(OLD), scene.join(NEW)
    scene.serve(old, BOTH)
    scene.clock.now += TAKEOVER_LIMIT
    assert scene.serve(new) is None
    assert scene.registry.route(NAME, challenge=True) is None


@pytest.mark.parametrize("kinds", [VISITORS, BOTH])
@in_loop
async def test_a_takeover_waits_for_a_validation_that_is_under_way(kinds: Kinds) -> None:
    scene = Scene()
    old, new = scene.join(OLD), scene.join(NEW)
    scene.serve(old, BOTH)
    scene.clock.now += TAKEOVER_LIMIT - 1
    outcome = scene.registry.serve(new, NAME, kinds)
    assert (outcome.kinds, outcome.code, outcome.superseded) == (NOTHING, Code.BUSY, ())
    assert outcome.retry_after == TAKEOVER_RETRY_INTERVAL
    assert scene.registry.route(NAME) is old
    assert scene.registry.route(NAME, challenge=True) is old


@in_loop
async def test_a_takeover_by_another_name_waits_too() -> None:
    """A superseded session loses all of its names."""
    scene = Scene()
    old, new = scene.join(OLD), scene.join(NEW)
    for link in (old, new):
        link.session.granted = frozenset((NAME, OTHER_NAME))
    scene.serve(old)
    scene.serve(old, BOTH, OTHER_NAME)
    assert scene.serve(new) is Code.BUSY
    assert scene.registry.route(OTHER_NAME, challenge=True) is old


@in_loop
async def test_a_takeover_comes_as_soon_as_the_validation_is_over() -> None:
    scene = Scene()
    old, new = scene.join(OLD), scene.join(NEW)
    scene.serve(old, BOTH)
    put_off = scene.serve(new)
    scene.serve(old)
    assert (put_off, scene.serve(new)) == (Code.BUSY, None)
    assert scene.registry.route(NAME) is new


@in_loop
async def test_a_takeover_waits_for_nobody_who_does_not_answer() -> None:
    scene = Scene()
    old, idle, new = scene.join(OLD), scene.join(OLD), scene.join(NEW)
    scene.serve(old, BOTH)
    scene.serve(idle)
    scene.registry.suspect(old)
    assert scene.serve(new) is None
    assert scene.registry.route(NAME) is new


@pytest.mark.parametrize("kinds", [VISITORS, NOTHING])
@in_loop
async def test_it_ends_when_the_last_link_takes_it_back(kinds: Kinds) -> None:
    scene = Scene()
    one, two, other = scene.join(OLD), scene.join(OLD), scene.join(NEW)
    for link in (one, two):
        scene.serve(link, CHALLENGE)
    scene.serve(one, kinds)
    assert scene.registry.route(NAME, challenge=True) is two
    assert scene.serve(other, CHALLENGE) is Code.BUSY
    scene.serve(two, kinds)
    assert scene.registry.route(NAME, challenge=True) is None
    assert scene.serve(other, CHALLENGE) is None


@in_loop
async def test_it_ends_when_the_last_link_with_it_goes() -> None:
    scene = Scene()
    one, two, idle, other = (*(scene.join(OLD) for _ in range(3)), scene.join(NEW))
    scene.serve(idle)
    for link in (one, two):
        scene.serve(link, BOTH)
    scene.registry.leave(one)
    assert scene.registry.route(NAME, challenge=True) is two
    scene.registry.leave(two)
    assert scene.registry.route(NAME, challenge=True) is None
    assert scene.registry.route(NAME) is idle
    assert scene.serve(other, CHALLENGE) is None


@in_loop
async def test_after_an_hour_it_no_longer_keeps_others_from_theirs() -> None:
    clock = Clock()
    scene = Scene(clock=clock)
    stale = [scene.join(OLD, is_replica=True) for _ in range(3)]
    new = scene.join(NEW, is_replica=True)
    for link, kinds in zip(stale, (BOTH, CHALLENGE, VISITORS), strict=True):
        scene.serve(link, kinds)
    clock.now += PENDING_LIMIT - 1
    assert scene.serve(new, BOTH) is Code.BUSY
    clock.now += 1
    outcome = scene.registry.serve(new, NAME, BOTH)
    assert (outcome.kinds, outcome.given_up) == (BOTH, tuple(stale[:2]))
    assert scene.registry.route(NAME, challenge=True) is new
    assert [link.serving.get(NAME) for link in stale] == [VISITORS, None, VISITORS]


@in_loop
async def test_over_budget_nobody_gives_it_up() -> None:
    clock = Clock()
    scene = Scene(clock=clock)
    stale, new = scene.join(OLD), scene.join(NEW)
    scene.serve(stale, CHALLENGE)
    clock.now += PENDING_LIMIT
    scene.budget.is_used_up = True
    assert scene.serve(new, CHALLENGE) is Code.BUSY
    assert scene.registry.route(NAME, challenge=True) is stale


@in_loop
async def test_a_relay_that_goes_away_takes_on_no_validation() -> None:
    scene = Scene()
    link = scene.join()
    retire(scene.registry.links)
    assert scene.serve(link, CHALLENGE) is Code.DRAINING
    assert scene.budget.counted == []
