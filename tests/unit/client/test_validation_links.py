"""Validations where a relay has several connections, or one in place of another."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.unit.client.fleet import (
    BOTH,
    VISITORS,
    Fleet,
    Relays,
    asks,
    entered,
    play,
    postponed,
    slow_to_answer,
)
from tests.unit.client.scenes import RelayEnd
from tunnel.errors import Code
from tunnel.protocol.fields import Reason
from tunnel.protocol.messages import Drain, Serving


def test_a_connection_that_is_lost_after_all_have_confirmed_is_replaced_by_one_that_asks(
    tmp_path: Path,
) -> None:
    async def script(fleet: Fleet) -> list[list[tuple[bool, bool]]]:
        await fleet.all_serve()
        async with fleet.opened():
            fleet.eu.ends[0].connection.close()
            await fleet.until(lambda: len(fleet.eu.ends) == 2 and fleet.eu.ends[1].serving)
            return [[(w.visitors, w.challenge) for w in end.wishes] for end in fleet.eu.ends]

    assert play(tmp_path, script, relays=("eu",)) == [[VISITORS, BOTH], [BOTH]]


def test_all_connections_of_a_pool_ask_and_one_confirmation_is_enough(tmp_path: Path) -> None:
    def all_but_the_last(relays: Relays) -> None:
        relay = relays["eu"]
        relay.leaves_unanswered = lambda end, serve: serve.challenge and end is not relay.ends[-1]

    async def script(fleet: Fleet) -> tuple[float, list[bool]]:
        await fleet.until(lambda: len(fleet.eu.live()) == 4)
        took = await entered(fleet)
        return took, [any(wish.challenge for wish in end.wishes) for end in fleet.eu.ends]

    played = play(tmp_path, script, relays=("eu",), set_up=all_but_the_last, transport="h2")
    assert played == (0.0, [True] * 4)


def test_a_refusal_to_one_connection_does_not_undo_what_another_has_confirmed(
    tmp_path: Path,
) -> None:
    def set_up(relays: Relays) -> None:
        eu = relays["eu"]
        eu.leaves_unanswered = lambda end, serve: serve.challenge and end is eu.ends[0]
        slow_to_answer(relays["us"], 4.0)

    async def script(fleet: Fleet) -> float:
        await fleet.until(lambda: len(fleet.eu.live()) == 4 and fleet.us.live())

        async def refuse() -> None:
            await asyncio.sleep(1.0)
            busy = Serving(fleet.name, visitors=True, challenge=False, reason=Reason(Code.BUSY))
            await fleet.eu.ends[0].channel.send(busy)

        async with asyncio.TaskGroup() as group:
            group.create_task(refuse())
            return round(await entered(fleet), 3)

    assert play(tmp_path, script, set_up=set_up, transport="h2") == 4.0


async def drained(end: RelayEnd) -> None:
    await end.channel.send(Drain(deadline=30.0, retry_after=0.0))


async def lost(end: RelayEnd) -> None:
    end.connection.close()


OTHER = "shop.example.com"  # which the relay does not grant: it is asked for by new connections


def asking_anew(relays: Relays) -> None:
    """Let the client replace its connection after ten minutes; that takes two seconds."""
    relays["eu"].refused_names[OTHER] = Code.NAME_REFUSED
    relays["eu"].leaves_unanswered = asks


async def until_it_is_replaced(fleet: Fleet) -> None:
    await fleet.all_serve()
    fleet.eu.delay = 2.0
    await fleet.until(lambda: len(fleet.eu.dials) == 2)


def test_a_connection_that_serves_until_it_is_replaced_is_asked_too(tmp_path: Path) -> None:
    async def script(fleet: Fleet) -> list[list[tuple[bool, bool]]]:
        await until_it_is_replaced(fleet)
        await postponed(fleet)
        return [[(w.visitors, w.challenge) for w in end.wishes[:2]] for end in fleet.eu.ends]

    wishes = play(tmp_path, script, relays=("eu",), set_up=asking_anew, names=(OTHER,))
    assert wishes == [[VISITORS, BOTH], [BOTH]]


@pytest.mark.parametrize("end", [drained, lost])
def test_one_that_ends_before_it_is_replaced_does_not_count_any_more(
    tmp_path: Path, end: Callable[[RelayEnd], Awaitable[None]]
) -> None:
    async def script(fleet: Fleet) -> tuple[str, float]:
        await until_it_is_replaced(fleet)
        visitor = await fleet.eu.ends[0].open_visitor(fleet.name)  # what is drained waits for it

        async def end_it() -> None:
            await asyncio.sleep(1.0)
            await end(fleet.eu.ends[0])

        async with asyncio.TaskGroup() as group:
            group.create_task(end_it())
            error, took = await postponed(fleet)
        visitor.abort()
        return str(error).partition(" that")[0], round(took, 3)

    told = play(tmp_path, script, relays=("eu",), set_up=asking_anew, names=(OTHER,))
    assert told == ("no relay is connected", 1.0)
