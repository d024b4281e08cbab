"""Every address of a relay is tried, both families in turn."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.unit.client.scenes import now, run_in_no_time
from tunnel.client.addresses import dial_any, interleaved, resolve
from tunnel.errors import DialFailed, SettingsError
from tunnel.stream import Address, Connection
from tunnel.transport.memory import MemoryConnection, memory_pair

SIX = [Address(f"2001:db8::{n}", 4433) for n in range(3)]
FOUR = [Address(f"192.0.2.{n}", 4433) for n in range(3)]


def test_families_take_turns_and_keep_their_order() -> None:
    assert interleaved([*SIX, *FOUR[:1]]) == [SIX[0], FOUR[0], SIX[1], SIX[2]]


def test_the_family_that_the_resolver_puts_first_begins() -> None:
    assert interleaved([*FOUR[:2], SIX[0]]) == [FOUR[0], SIX[0], FOUR[1]]


def test_an_address_that_comes_twice_is_tried_once() -> None:
    assert interleaved([FOUR[0], FOUR[0]]) == [FOUR[0]]


def test_an_ip_address_is_not_asked_for_in_the_dns() -> None:
    assert run_in_no_time(resolve(SIX[0])) == [SIX[0]]


def test_a_name_resolves_to_addresses_with_the_port() -> None:
    assert Address("127.0.0.1", 4433) in asyncio.run(resolve(Address("localhost", 4433)))


def test_a_name_that_does_not_exist_is_a_failed_dial() -> None:
    with pytest.raises(DialFailed, match=r"cannot resolve nowhere\.invalid"):
        asyncio.run(resolve(Address("nowhere.invalid", 4433)))


def test_a_name_that_cannot_be_encoded_is_a_failed_dial() -> None:
    with pytest.raises(DialFailed, match="cannot resolve"):
        asyncio.run(resolve(Address("x" * 64 + ".test", 4433)))


class Doors:
    """Dials as scripted: seconds to a connection, or an error to raise at once."""

    def __init__(self, answers: dict[Address, float | Exception]) -> None:
        self.answers = answers
        self.begun: list[tuple[Address, float]] = []
        self.made: dict[Address, MemoryConnection] = {}

    async def dial(self, address: Address) -> Connection:
        self.begun.append((address, now()))
        answer = self.answers[address]
        if isinstance(answer, Exception):
            raise answer
        await asyncio.sleep(answer)
        _, self.made[address] = memory_pair()
        return self.made[address]


def dialling(
    answers: dict[Address, float | Exception],
    check: Callable[[Doors], Coroutine[Any, Any, Any]],
) -> Any:
    return run_in_no_time(check(Doors(answers)))


def test_the_next_address_is_tried_a_quarter_of_a_second_later() -> None:
    async def check(doors: Doors) -> list[tuple[Address, float]]:
        begin = now()
        winner = await dial_any([SIX[0], FOUR[0]], doors.dial)
        assert winner is doors.made[FOUR[0]]
        return [(address, at - begin) for address, at in doors.begun]

    assert dialling({SIX[0]: 60.0, FOUR[0]: 0.1}, check) == [(SIX[0], 0.0), (FOUR[0], 0.25)]


def test_a_refused_address_brings_the_next_one_forward() -> None:
    async def check(doors: Doors) -> float:
        begin = now()
        await dial_any([SIX[0], FOUR[0]], doors.dial)
        return doors.begun[1][1] - begin

    assert dialling({SIX[0]: DialFailed("refused"), FOUR[0]: 0.1}, check) == 0.0


def test_an_earlier_address_may_still_win() -> None:
    async def check(doors: Doors) -> bool:
        return await dial_any([SIX[0], FOUR[0]], doors.dial) is doors.made[SIX[0]]

    assert dialling({SIX[0]: 0.4, FOUR[0]: 60.0}, check)


def test_the_second_of_two_that_succeed_together_is_closed() -> None:
    async def check() -> list[bool]:
        gate, made = asyncio.Event(), []

        async def dial(_: Address) -> Connection:
            await gate.wait()
            made.append(memory_pair()[1])
            return made[-1]

        asyncio.get_running_loop().call_later(1.0, gate.set)
        winner = await dial_any([SIX[0], FOUR[0]], dial)
        assert winner is made[0]
        return [connection.is_closed for connection in made]

    assert run_in_no_time(check()) == [False, True]


def test_when_all_fail_every_cause_is_told() -> None:
    async def check(doors: Doors) -> None:
        await dial_any([SIX[0], FOUR[0]], doors.dial)

    with pytest.raises(DialFailed, match="no route; refused"):
        dialling({SIX[0]: DialFailed("no route"), FOUR[0]: DialFailed("refused")}, check)


def test_trust_that_cannot_be_loaded_is_a_failed_dial_too() -> None:
    async def check(doors: Doors) -> None:
        await dial_any([SIX[0], FOUR[0]], doors.dial)

    fault = SettingsError(["ca.pem: cannot be read"])
    with pytest.raises(DialFailed, match=r"ca\.pem"):
        dialling({SIX[0]: fault, FOUR[0]: fault}, check)


def test_a_name_without_addresses_fails() -> None:
    async def check(doors: Doors) -> None:
        await dial_any([], doors.dial)

    with pytest.raises(DialFailed, match="no address"):
        dialling({}, check)


def test_a_deadline_ends_every_attempt() -> None:
    async def check(doors: Doors) -> None:
        async with asyncio.timeout(5.0):
            await dial_any([SIX[0], FOUR[0]], doors.dial)

    with pytest.raises(TimeoutError):
        dialling({SIX[0]: 60.0, FOUR[0]: 60.0}, check)
