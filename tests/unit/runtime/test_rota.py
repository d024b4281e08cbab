"""Works that are begun, left alone and ended by one arrangement after another."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tunnel.errors import ListenFailed
from tunnel.runtime.rota import Rota
from tunnel.runtime.supervision import Work, first_of


class Stage:
    """What has begun and ended on a rota."""

    def __init__(self) -> None:
        self.rota = Rota()
        self.told: list[str] = []

    def work(self, name: str) -> Work:
        """Return a work that lasts until it is ended."""

        async def last() -> None:
            self.told.append(f"+{name}")
            try:
                await asyncio.Event().wait()
            finally:
                self.told.append(f"-{name}")

        return last

    def arrange(self, *names: str) -> None:
        self.rota.arrange({name: self.work(name) for name in names})


def play(script: Callable[[Stage], Coroutine[Any, Any, None]]) -> list[str]:
    """Return what has begun and ended while `script` ran beside the rota, and after it."""
    stage = Stage()
    asyncio.run(first_of(stage.rota.run, lambda: script(stage)))
    return stage.told


async def settled() -> None:
    """Let every task have its turn."""
    for _ in range(3):
        await asyncio.sleep(0)


def test_what_was_arranged_before_runs() -> None:
    stage = Stage()
    stage.arrange("a")
    asyncio.run(first_of(stage.rota.run, settled))
    assert stage.told == ["+a", "-a"]


def test_what_stays_is_not_touched() -> None:
    async def script(stage: Stage) -> None:
        stage.arrange("a", "b")
        await settled()
        stage.arrange("b", "c")
        await settled()
        stage.told.append("end")

    told = play(script)
    assert told[: told.index("end")] in (["+a", "+b", "-a", "+c"], ["+b", "+a", "-a", "+c"])
    assert sorted(told[told.index("end") + 1 :]) == ["-b", "-c"]


def test_a_key_may_come_back() -> None:
    async def script(stage: Stage) -> None:
        for names in (("a",), (), ("a",)):
            stage.arrange(*names)
            await settled()

    assert play(script) == ["+a", "-a", "+a", "-a"]


def test_what_ends_before_it_began_never_begins() -> None:
    async def script(stage: Stage) -> None:
        await settled()
        stage.arrange("a")
        stage.arrange()
        await settled()

    assert play(script) == []


def test_a_fault_of_one_ends_all_and_comes_bare() -> None:
    stage = Stage()

    async def fail() -> None:
        raise ListenFailed("no")

    stage.rota.arrange({"a": stage.work("a"), "b": fail})
    with pytest.raises(ListenFailed, match="no"):
        asyncio.run(stage.rota.run())
    assert stage.told in (["+a", "-a"], [])


def test_the_first_fault_is_raised_and_others_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    rota = Rota()

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ListenFailed("first")

    async def fail_at_the_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ListenFailed("second")

    rota.arrange({"a": fail_at_the_end, "b": fail})
    with pytest.raises(ListenFailed, match="first"):
        asyncio.run(rota.run())
    assert [str(each.exc_info[1]) for each in caplog.records if each.exc_info] == ["second"]


def test_a_fault_of_one_that_is_ended_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail_at_the_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ListenFailed("late")

    async def script(stage: Stage) -> None:
        stage.rota.arrange({"a": fail_at_the_end})
        await settled()

    play(script)
    assert [str(each.exc_info[1]) for each in caplog.records if each.exc_info] == ["late"]


def test_what_returns_leaves_the_others() -> None:
    async def script(stage: Stage) -> None:
        stage.rota.arrange({"a": stage.work("a"), "b": settled})
        await settled()
        await settled()
        assert stage.told == ["+a"]

    play(script)
