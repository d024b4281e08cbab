"""Who serves which name (docs/protocol.md §3, §4)."""

import asyncio

import pytest

from tests.unit.relay.scenes import (
    CHALLENGE,
    NAME,
    OTHER_KEY,
    VISITORS,
    Clock,
    Scene,
    in_loop,
)
from tunnel.errors import Code, Refused
from tunnel.relay.expected import RECENT_SECONDS
from tunnel.relay.registry import NOTHING, PREDECESSORS_KEPT, ServeOutcome
from tunnel.relay.sessions import Kinds, retire
from tunnel.settings.values import GrantLimits

OLD, NEW = b"1" * 16, b"2" * 16


@in_loop
async def test_nobody_is_routed_to_before_serving() -> None:
    scene = Scene()
    scene.join()
    assert scene.registry.route(NAME) is None


@in_loop
async def test_a_served_name_is_routed() -> None:
    scene = Scene()
    link = scene.join()
    scene.serve(link)
    assert scene.registry.route(NAME) is link


@in_loop
async def test_a_name_that_was_not_granted_is_refused() -> None:
    scene = Scene()
    assert scene.serve(scene.join(), name="b.t.test") is Code.NAME_REFUSED


@in_loop
async def test_the_link_with_the_fewest_streams_is_picked() -> None:
    scene = Scene()
    busy, idle = scene.join(), scene.join()
    for link in (busy, idle):
        scene.serve(link)
    busy.streams = 1
    assert scene.registry.route(NAME) is idle


@in_loop
async def test_a_suspect_link_is_out_of_rotation_until_it_answers() -> None:
    scene = Scene()
    link = scene.join()
    scene.serve(link)
    assert scene.registry.suspect(link)
    assert scene.registry.route(NAME) is None
    scene.registry.resume(link)
    assert scene.registry.route(NAME) is link


@in_loop
async def test_a_link_that_drains_stays_out_of_rotation_when_it_answers_again() -> None:
    scene = Scene()
    link = scene.join()
    scene.serve(link)
    scene.registry.suspect(link)
    assert retire(scene.registry.links) == [link]
    assert not scene.registry.resume(link)
    assert scene.registry.route(NAME) is None


@in_loop
async def test_a_superseded_link_serves_no_more_while_the_relay_drains() -> None:
    scene = Scene()
    old, new = scene.join(OLD), scene.join(NEW)
    scene.serve(old)
    scene.serve(new)
    assert retire(scene.registry.links) == [new]
    assert scene.serve(old) is Code.SUPERSEDED


@in_loop
async def test_a_link_shows_whose_it_is_and_how_it_stands() -> None:
    scene = Scene()
    link = scene.join()
    scene.registry.suspect(link)
    assert repr(link) == f"<Link {link.connection.peer} memory SUSPECT 0 streams>"


@in_loop
async def test_a_link_tried_already_is_left_out() -> None:
    scene = Scene()
    link = scene.join()
    scene.serve(link)
    assert scene.registry.route(NAME, without={link}) is None


@in_loop
async def test_a_new_instance_takes_over_when_it_serves_not_before() -> None:
    scene = Scene()
    old, new = scene.join(OLD), scene.join(NEW)
    scene.serve(old)
    assert scene.registry.route(NAME) is old
    scene.serve(new)
    assert scene.registry.route(NAME) is new


@in_loop
async def test_a_superseded_session_serves_nothing_any_more() -> None:
    scene = Scene()
    old, new = scene.join(OLD), scene.join(NEW)
    scene.serve(old)
    outcome = scene.registry.serve(new, NAME, VISITORS)
    assert outcome.superseded == (old.session,)
    assert scene.serve(old) is Code.SUPERSEDED


@pytest.mark.parametrize("kinds", [VISITORS, CHALLENGE, NOTHING])
@in_loop
async def test_a_link_that_has_left_serves_nothing_any_more(kinds: Kinds) -> None:
    scene = Scene()
    gone = scene.join(OLD)
    scene.serve(gone)
    scene.registry.leave(gone)
    successor = scene.join(NEW)
    scene.serve(successor)
    outcome = scene.registry.serve(gone, NAME, kinds)
    assert outcome == ServeOutcome(NOTHING, Code.NOT_SERVING)
    assert scene.registry.holders(NAME) == (successor.session,)
    assert (gone.serving, scene.budget.counted) == ({}, [])
    assert scene.serve(successor) is None


@in_loop
async def test_a_superseded_instance_may_not_return_while_its_successor_lives() -> None:
    scene = Scene()
    old, new = scene.join(OLD), scene.join(NEW)
    scene.serve(old)
    scene.serve(new)
    scene.registry.leave(old)
    with pytest.raises(Refused) as caught:
        scene.join(OLD)
    assert (caught.value.code, caught.value.retry_after) == (Code.NAME_TAKEN, 60)


@in_loop
async def test_a_superseded_instance_may_return_once_its_successor_is_gone() -> None:
    scene = Scene()
    old, new = scene.join(OLD), scene.join(NEW)
    scene.serve(old)
    scene.serve(new)
    scene.registry.leave(old)
    scene.registry.leave(new)
    assert scene.serve(scene.join(OLD)) is None


@in_loop
async def test_an_instance_that_returns_serves_anew_while_its_old_links_still_drain() -> None:
    scene = Scene()
    old, new = scene.join(OLD), scene.join(NEW)
    scene.serve(old)
    scene.serve(new)
    scene.registry.leave(new)
    again = scene.join(OLD)
    assert scene.serve(again) is None
    assert scene.serve(old) is Code.SUPERSEDED
    assert scene.registry.route(NAME) is again


@in_loop
async def test_no_superseded_instance_may_return_while_the_newest_lives() -> None:
    scene = Scene()
    links = [scene.join(bytes([number]) * 16) for number in range(3)]
    for link in links:
        scene.serve(link)
    for link in links[:2]:
        scene.registry.leave(link)
    for number in range(2):
        with pytest.raises(Refused) as caught:
            scene.join(bytes([number]) * 16)
        assert caught.value.code is Code.NAME_TAKEN
    scene.registry.leave(links[2])
    assert scene.serve(scene.join(bytes(16))) is None


@in_loop
async def test_a_key_that_supersedes_itself_for_ever_costs_no_more_memory() -> None:
    scene = Scene()
    for number in range(200):
        link = scene.join(number.to_bytes(16))
        scene.serve(link)
        for old in scene.registry.links:
            if old is not link:
                scene.registry.leave(old)
    assert len(scene.registry._successors) == PREDECESSORS_KEPT
    scene.registry.leave(link)
    assert scene.registry._successors == {}


@in_loop
async def test_replicas_serve_side_by_side() -> None:
    scene = Scene()
    first, second = scene.join(OLD, is_replica=True), scene.join(NEW, is_replica=True)
    scene.serve(first)
    scene.serve(second)
    first.streams = 1
    assert scene.registry.route(NAME) is second
    second.streams = 2
    assert scene.registry.route(NAME) is first


@in_loop
async def test_another_key_never_takes_a_name_over() -> None:
    scene = Scene()
    owner = scene.join()
    scene.serve(owner)
    assert scene.serve(scene.join(key=OTHER_KEY)) is Code.NAME_TAKEN
    assert scene.registry.route(NAME) is owner


@in_loop
async def test_only_the_session_that_asked_gets_the_validation() -> None:
    scene = Scene()
    first, second = scene.join(OLD), scene.join(NEW)
    scene.serve(first, CHALLENGE)
    assert scene.serve(second, CHALLENGE) is Code.BUSY
    assert scene.registry.route(NAME, challenge=True) is first


@in_loop
async def test_a_validation_claim_serves_no_visitor() -> None:
    scene = Scene()
    scene.serve(scene.join(), CHALLENGE)
    assert scene.registry.route(NAME) is None


@in_loop
async def test_serving_nothing_takes_the_name_back() -> None:
    scene = Scene()
    link = scene.join()
    scene.serve(link)
    scene.serve(link, NOTHING)
    assert scene.registry.route(NAME) is None


@in_loop
async def test_names_of_the_settings_are_worth_waiting_for() -> None:
    assert Scene(expected=(NAME,)).registry.is_expected(NAME)


@in_loop
async def test_a_name_is_expected_for_ten_minutes_after_it_was_served() -> None:
    clock = Clock()
    scene = Scene(clock=clock)
    link = scene.join()
    scene.serve(link)
    scene.registry.leave(link)
    assert scene.registry.is_expected(NAME)
    clock.now += RECENT_SECONDS
    assert not scene.registry.is_expected(NAME)


@in_loop
async def test_a_name_nobody_ever_served_is_not_expected() -> None:
    assert not Scene().registry.is_expected(NAME)


@in_loop
async def test_who_waits_for_a_name_is_woken_by_its_serving() -> None:
    scene = Scene()
    async with asyncio.TaskGroup() as group:
        group.create_task(scene.registry.served(NAME))
        await asyncio.sleep(0)
        scene.serve(scene.join())


@in_loop
async def test_a_key_has_only_so_many_connections() -> None:
    scene = Scene(limits=GrantLimits(connections=1))
    scene.join()
    with pytest.raises(Refused) as caught:
        scene.join()
    assert caught.value.code is Code.BUSY


@in_loop
async def test_a_relay_has_only_so_many_connections() -> None:
    scene = Scene(connections=1)
    scene.join()
    with pytest.raises(Refused) as caught:
        scene.join(key=OTHER_KEY)
    assert caught.value.code is Code.BUSY


@in_loop
async def test_a_link_that_left_makes_room_once() -> None:
    scene = Scene()
    link = scene.join()
    scene.registry.leave(link)
    scene.registry.leave(link)
    assert scene.registry.connections == 0
