"""Validations of a name, asked for at every relay that serves it."""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.client.fleet import (
    BOTH,
    NOTHING,
    VISITORS,
    Fleet,
    Relays,
    asks,
    entered,
    play,
    postponed,
    slow_to_answer,
    unreachable,
)
from tests.unit.client.scenes import FakeRelay, now
from tunnel.acme.challenge import PendingAnswer
from tunnel.client.events import Refused as RefusedEvent
from tunnel.errors import Code, LocalProtocolError, Refused


def silent(*names: str) -> Callable[[Relays], None]:
    """Return what lets these relays leave it open whether they take validations."""

    def set_up(relays: Relays) -> None:
        for name in names:
            relays[name].leaves_unanswered = asks

    return set_up


async def drops(relay: FakeRelay) -> None:
    """Let a relay go after 3 seconds and not come back."""
    await asyncio.sleep(3.0)
    unreachable(relay)
    relay.ends[-1].connection.close()


def test_every_relay_is_asked_and_told_when_it_is_over(tmp_path: Path) -> None:
    async def script(fleet: Fleet) -> tuple[dict[str, list[tuple[bool, bool]]], ...]:
        await fleet.all_serve()
        async with fleet.opened():
            during = fleet.wishes()
        await asyncio.sleep(1.0)
        return during, fleet.wishes()

    during, after = play(tmp_path, script)
    assert during == {"eu": [VISITORS, BOTH], "us": [VISITORS, BOTH]}
    assert after == {"eu": [VISITORS, BOTH, VISITORS], "us": [VISITORS, BOTH, VISITORS]}


@pytest.mark.parametrize("renewal", [False, True])
def test_the_relay_hears_whether_it_is_a_renewal(tmp_path: Path, renewal: bool) -> None:
    async def script(fleet: Fleet) -> list[bool]:
        await fleet.all_serve()
        async with fleet.opened(renewal=renewal):
            return [end.wishes[-1].renewal for end in fleet.eu.ends]

    assert play(tmp_path, script, relays=("eu",)) == [renewal]


def test_a_relay_that_does_not_confirm_postpones_the_order(tmp_path: Path) -> None:
    async def script(fleet: Fleet) -> tuple[str, str, float, dict[str, list[tuple[bool, bool]]]]:
        await fleet.all_serve()
        error, took = await postponed(fleet)
        await asyncio.sleep(1.0)
        return fleet.name, str(error), took, fleet.wishes()

    name, text, took, wishes = play(tmp_path, script, set_up=silent("eu"))
    assert text == f"relay eu did not confirm the validation of {name} within 10 s"
    assert took == pytest.approx(10.0)
    assert wishes == {"eu": [VISITORS, BOTH, VISITORS], "us": [VISITORS, BOTH, VISITORS]}


def test_all_relays_that_do_not_confirm_are_named_after_the_same_time(tmp_path: Path) -> None:
    async def script(fleet: Fleet) -> tuple[str, float]:
        await fleet.all_serve()
        error, took = await postponed(fleet)
        return str(error).partition(" did")[0], took

    words, took = play(tmp_path, script, set_up=silent("eu", "us"))
    assert (words, round(took, 3)) == ("relays eu, us", 10.0)


def test_a_relay_is_named_even_if_the_loop_is_early(tmp_path: Path) -> None:
    async def script(fleet: Fleet) -> tuple[str, float]:
        await fleet.all_serve()
        loop = asyncio.get_running_loop()
        loop._clock_resolution = 0.5  # type: ignore[attr-defined]  # as of a clock that ticks so

        def tick() -> None:
            loop.call_later(0.05, tick)  # whatever else is due, the loop looks again before 10 s

        tick()
        error, took = await postponed(fleet)
        return str(error).partition(" did")[0], took

    words, took = play(tmp_path, script, relays=("eu",), set_up=silent("eu"))
    assert words == "relay eu"
    assert 9.5 <= took < 10


def test_a_refusal_postpones_the_order_at_once_until_the_relay_said(tmp_path: Path) -> None:
    def set_up(relays: Relays) -> None:
        relays["eu"].leaves_unanswered = asks
        relays["us"].busy = Refused(Code.BUSY, retry_after=120.0)

    async def script(fleet: Fleet) -> tuple[str, str, float | None, float]:
        await fleet.all_serve()
        error, took = await postponed(fleet)
        return fleet.name, str(error), error.retry_after, took

    name, text, retry_after, took = play(tmp_path, script, set_up=set_up)
    assert text == f"relay us refuses validations of {name}: busy"
    assert (retry_after, took) == (120.0, 0.0)


USED_UP = "45 new certificates under example.org in 7 days already"


@pytest.mark.parametrize(("said", "shown"), [(USED_UP, USED_UP), ("x" * 256, "x" * 128)])
def test_a_refusal_says_why_and_may_hold_for_a_week(tmp_path: Path, said: str, shown: str) -> None:
    def set_up(relays: Relays) -> None:
        relays["us"].busy = Refused(Code.BUSY, said, 604_800.0)

    async def script(fleet: Fleet) -> tuple[str, str, float | None]:
        await fleet.all_serve()
        error, _ = await postponed(fleet)
        return fleet.name, str(error), error.retry_after

    name, text, retry_after = play(tmp_path, script, set_up=set_up)
    assert text == f"relay us refuses validations of {name}: busy: {shown}"
    assert retry_after == 604_800


def test_a_refused_validation_does_not_concern_visitors(tmp_path: Path) -> None:
    def set_up(relays: Relays) -> None:
        relays["eu"].busy = Refused(Code.BUSY, retry_after=120.0)

    async def script(fleet: Fleet) -> tuple[int, list[RefusedEvent], list[tuple[bool, bool]]]:
        await fleet.all_serve()
        await postponed(fleet)
        await asyncio.sleep(60.0)
        told = [event for event in fleet.events if isinstance(event, RefusedEvent)]
        return len(fleet.eu.live()), told, fleet.wishes()["eu"]

    live, told, wishes = play(tmp_path, script, relays=("eu",), set_up=set_up)
    assert (live, told, wishes) == (1, [], [VISITORS, BOTH, VISITORS])


def test_a_relay_that_refuses_visitors_with_the_validation_is_asked_for_them_alone(
    tmp_path: Path,
) -> None:
    def set_up(relays: Relays) -> None:
        slow_to_answer(relays["eu"], 5.0)
        relays["us"].delay = 1.0
        relays["us"].refuses_wholly = True
        relays["us"].busy = Refused(Code.BUSY, retry_after=120.0)

    async def script(fleet: Fleet) -> tuple[float, list[tuple[bool, bool]], int]:
        begun = now()
        await fleet.until(fleet.eu.live)
        await postponed(fleet)
        await fleet.until(fleet.us.live)
        return now() - begun, fleet.wishes()["us"], len(fleet.us.live())

    took, wishes, live = play(tmp_path, script, set_up=set_up)
    assert (took, wishes, live) == (1.0, [BOTH, VISITORS], 1)


def test_a_relay_that_drops_while_it_is_waited_for_does_not_count(tmp_path: Path) -> None:
    async def script(fleet: Fleet) -> float:
        await fleet.all_serve()
        async with asyncio.TaskGroup() as group:
            group.create_task(drops(fleet.us))
            return await entered(fleet)

    assert play(tmp_path, script, set_up=silent("us")) == pytest.approx(3.0)


def test_without_any_relay_the_order_is_postponed(tmp_path: Path) -> None:
    def set_up(relays: Relays) -> None:
        for relay in relays.values():
            unreachable(relay)

    async def script(fleet: Fleet) -> tuple[str, float]:
        await fleet.until(lambda: fleet.eu.dials and fleet.us.dials)
        error, took = await postponed(fleet)
        return str(error).partition(" that")[0], took

    assert play(tmp_path, script, set_up=set_up) == ("no relay is connected", 0.0)


def test_when_the_last_relay_drops_the_order_is_postponed(tmp_path: Path) -> None:
    async def script(fleet: Fleet) -> tuple[str, float]:
        await fleet.all_serve()
        async with asyncio.TaskGroup() as group:
            group.create_task(drops(fleet.eu))
            error, took = await postponed(fleet)
        return str(error).partition(" that")[0], round(took, 3)

    told = play(tmp_path, script, relays=("eu",), set_up=silent("eu"))
    assert told == ("no relay is connected", 3.0)


def test_a_relay_that_joins_in_between_is_asked_with_its_first_offer(tmp_path: Path) -> None:
    def set_up(relays: Relays) -> None:
        slow_to_answer(relays["eu"], 4.0)
        relays["us"].delay = 2.0

    async def script(fleet: Fleet) -> tuple[float, list[tuple[bool, bool]]]:
        await fleet.until(fleet.eu.live)
        took = await entered(fleet)
        return round(took, 3), fleet.wishes()["us"]

    assert play(tmp_path, script, set_up=set_up) == (4.0, [BOTH])


def test_a_relay_that_joins_in_between_has_to_confirm_too(tmp_path: Path) -> None:
    def set_up(relays: Relays) -> None:
        slow_to_answer(relays["eu"], 4.0)
        relays["us"].delay = 2.0
        relays["us"].leaves_unanswered = asks

    async def script(fleet: Fleet) -> tuple[str, float]:
        await fleet.until(fleet.eu.live)
        error, took = await postponed(fleet)
        return str(error).partition(" did")[0], round(took, 3)

    assert play(tmp_path, script, set_up=set_up) == ("relay us", 12.0)


def test_a_relay_that_comes_once_it_is_open_is_asked_with_its_first_offer(tmp_path: Path) -> None:
    def set_up(relays: Relays) -> None:
        relays["us"].delay = 3.0

    async def script(fleet: Fleet) -> list[tuple[bool, bool]]:
        await fleet.until(fleet.eu.live)
        async with fleet.opened():
            await fleet.until(fleet.us.live)
            return fleet.wishes()["us"]

    assert play(tmp_path, script, set_up=set_up) == [BOTH]


def grants_nothing(relay: FakeRelay, name: str) -> None:
    relay.refused_names[name] = Code.NAME_REFUSED


def serves_somebody_else(relay: FakeRelay, name: str) -> None:
    relay.objections[name] = Code.NAME_TAKEN


@pytest.mark.parametrize("refuse", [grants_nothing, serves_somebody_else])
def test_a_relay_that_refuses_the_name_is_not_waited_for(
    tmp_path: Path, refuse: Callable[[FakeRelay, str], None]
) -> None:
    async def own_name(fleet: Fleet) -> str:
        return fleet.name

    name = play(tmp_path, own_name)

    async def script(fleet: Fleet) -> float:
        await fleet.until(fleet.eu.live)
        await fleet.until(lambda: any(isinstance(each, RefusedEvent) for each in fleet.events))
        return await entered(fleet)

    assert play(tmp_path, script, set_up=lambda relays: refuse(relays["us"], name)) == 0.0


def test_only_those_that_had_their_time_are_named(tmp_path: Path) -> None:
    def set_up(relays: Relays) -> None:
        for relay in relays.values():
            relay.leaves_unanswered = asks
        relays["us"].delay = 2.0

    async def script(fleet: Fleet) -> tuple[str, float]:
        await fleet.until(fleet.eu.live)
        error, took = await postponed(fleet)
        return str(error).partition(" did")[0], round(took, 3)

    assert play(tmp_path, script, set_up=set_up) == ("relay eu", 10.0)


def test_it_is_taken_back_when_the_order_is_cancelled(tmp_path: Path) -> None:
    async def script(fleet: Fleet) -> list[tuple[bool, bool]]:
        await fleet.all_serve()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5.0), fleet.opened():
                await asyncio.Event().wait()
        await asyncio.sleep(1.0)
        return fleet.wishes()["eu"]

    assert play(tmp_path, script, relays=("eu",)) == [VISITORS, BOTH, VISITORS]


def test_it_is_taken_back_when_it_is_cancelled_before_all_have_confirmed(tmp_path: Path) -> None:
    async def script(fleet: Fleet) -> list[tuple[bool, bool]]:
        await fleet.all_serve()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5.0):
                await entered(fleet)
        await asyncio.sleep(1.0)
        return fleet.wishes()["eu"]

    assert play(tmp_path, script, relays=("eu",), set_up=silent("eu")) == [VISITORS, BOTH, VISITORS]


def test_a_second_one_of_the_same_name_is_a_bug_of_ours_and_leaves_the_first(
    tmp_path: Path,
) -> None:
    async def script(fleet: Fleet) -> tuple[bool, list[tuple[bool, bool]]]:
        await fleet.all_serve()
        async with fleet.opened():
            with pytest.raises(LocalProtocolError, match="is expected already"):
                await entered(fleet)
            await asyncio.sleep(1.0)
            is_expected = fleet.validations.context(fleet.name) is not None
            return is_expected, fleet.wishes()["eu"]

    assert play(tmp_path, script, relays=("eu",)) == (True, [VISITORS, BOTH])


def test_another_one_after_it_is_confirmed_anew(tmp_path: Path) -> None:
    async def script(fleet: Fleet) -> list[tuple[bool, bool]]:
        await fleet.all_serve()
        await entered(fleet)
        fleet.eu.leaves_unanswered = asks
        await postponed(fleet)
        return fleet.wishes()["eu"]

    # Both come in one go, so that the relay is never told that the first is over.
    assert play(tmp_path, script, relays=("eu",)) == [VISITORS, BOTH, BOTH]


def test_a_client_that_stops_asks_nobody_any_more(tmp_path: Path) -> None:
    def set_up(relays: Relays) -> None:
        relays["eu"].leaves_unanswered = lambda _, serve: serve.challenge or not serve.visitors

    async def script(fleet: Fleet) -> tuple[float, list[tuple[bool, bool]]]:
        await fleet.all_serve()
        loop = asyncio.get_running_loop()
        loop.call_later(2.0, fleet.client.stop)
        _, took = await postponed(fleet)
        await fleet.until(lambda: fleet.eu.ends[0].bye is not None)
        return took, fleet.wishes()["eu"]

    took, wishes = play(tmp_path, script, relays=("eu",), set_up=set_up)
    assert (round(took, 3), wishes) == (2.0, [VISITORS, BOTH, NOTHING])


def test_it_is_ready_once_a_relay_serves_the_name(tmp_path: Path) -> None:
    def set_up(relays: Relays) -> None:
        relays["eu"].delay = 3.0
        unreachable(relays["us"])

    async def script(fleet: Fleet) -> float:
        begun = now()
        await fleet.validations.ready(fleet.name)
        return now() - begun

    assert play(tmp_path, script, set_up=set_up) == pytest.approx(3.0)


def test_its_context_is_there_as_long_as_it_is_open(tmp_path: Path) -> None:
    async def script(fleet: Fleet) -> list[bool]:
        await fleet.all_serve()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        seen = [fleet.validations.context(fleet.name)]
        async with fleet.validations.opened(fleet.name, PendingAnswer(context), renewal=False):
            seen.append(fleet.validations.context(fleet.name))
        seen.append(fleet.validations.context(fleet.name))
        return [each is context for each in seen]

    assert play(tmp_path, script, relays=("eu",)) == [False, True, False]


def test_names_should_lead_to_the_relays_that_serve_them(tmp_path: Path) -> None:
    async def script(fleet: Fleet) -> list[frozenset[str]]:
        await fleet.all_serve()
        return [fleet.validations.addresses(name) for name in (fleet.name, "else.test")]

    assert play(tmp_path, script) == [{"memory"}, frozenset()]
