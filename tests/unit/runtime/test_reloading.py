"""Reloads one after another, however many ask for them."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tunnel.errors import ListenFailed, SettingsError
from tunnel.runtime.reloading import Reloader
from tunnel.settings.places import Found, found
from tunnel.settings.reload import ReloadOutcome, ReloadPlan, check_live, plan_reload
from tunnel.settings.tree import KeyPath, Leaf, Table, Where, merge
from tunnel.settings.values import ClientSettings, LogSettings

T = TypeVar("T")
OLD = ClientSettings(Path("/state"), {}, {}, {})
NEW = replace(OLD, drain_timeout=1.0)
TO_NEW = plan_reload(OLD, NEW)
HERE = Where("a.toml", Path("/etc"))
NOWHERE = Table(HERE)


def written(path: KeyPath, line: int, file: str = "a.toml") -> Table:
    """Return a tree in which one key is written."""
    table = Table(HERE, {path[-1]: Leaf("value", replace(HERE, source=file, line=line))})
    for name in reversed(path[:-1]):
        table = Table(HERE, {name: table})
    return table


STATE_DIR = ("client", "state_dir")
METRICS = ("admin", "metrics")


@dataclass
class Daemon:
    """Something that runs on settings; `gate` holds each reload up."""

    settings: ClientSettings = OLD
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    fault: Exception | None = None
    reloads: int = 0

    async def reload(self, settings: ClientSettings) -> ReloadPlan:
        self.reloads += 1
        plan = check_live(self.settings, settings)
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        self.settings = settings
        return plan


class Scene:
    """A daemon, its reloader, and what the next reading finds."""

    def __init__(self) -> None:
        self.daemon = Daemon()
        self.daemon.gate.set()
        self.found: ClientSettings | Exception = NEW
        self.tree = NOWHERE
        self.readings = 0
        self.reloader: Reloader[ClientSettings] = Reloader("client", self.daemon, self.read)

    def read(self) -> Found[ClientSettings]:
        self.readings += 1
        if isinstance(self.found, Exception):
            raise self.found
        return found(self.found, self.tree)

    async def until(self, is_true: Callable[[], bool]) -> None:
        while not is_true():  # noqa: ASYNC110 - each reading is a thread's, and tells nobody
            await asyncio.sleep(0)


def play(script: Callable[[Scene], Coroutine[Any, Any, T]]) -> T:
    async def main() -> T:
        async with asyncio.timeout(10):
            return await script(Scene())

    return asyncio.run(main())


def test_new_settings_come_into_force() -> None:
    async def script(scene: Scene) -> tuple[ReloadOutcome, ClientSettings]:
        return await scene.reloader.reload(), scene.daemon.settings

    assert play(script) == (ReloadOutcome(TO_NEW, is_applied=True), NEW)


def test_a_dry_run_only_tells() -> None:
    async def script(scene: Scene) -> tuple[ReloadOutcome, ClientSettings]:
        return await scene.reloader.reload(dry_run=True), scene.daemon.settings

    assert play(script) == (ReloadOutcome(TO_NEW), OLD)


RESTART = replace(OLD, state_dir=Path("/other"))
FAULTS: dict[str, tuple[Exception | ClientSettings, tuple[str, ...]]] = {
    "settings": (SettingsError(["a.toml:1: x: no", "a.toml:2: y: no"]), ("a.toml:1: x: no",)),
    "file": (FileNotFoundError(2, "No such file", "a.toml"), ("a.toml: cannot be read: No such",)),
    "file without a name": (OSError("stale"), ("the settings: cannot be read: OSError('stale')",)),
    "bug": (ZeroDivisionError("bug"), ("a fault of its own: ZeroDivisionError('bug')",)),
    "restart": (RESTART, ("client.state_dir: needs a restart",)),
}


@pytest.mark.parametrize(("found", "told"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("dry_run", [False, True])
def test_faults_are_told_and_nothing_changes(
    found: Exception | ClientSettings, told: tuple[str, ...], dry_run: bool
) -> None:
    async def script(scene: Scene) -> ReloadOutcome:
        scene.found = found
        outcome = await scene.reloader.reload(dry_run=dry_run)
        assert scene.daemon.settings is OLD
        return outcome

    outcome = play(script)
    assert not outcome.is_applied
    assert outcome.faults[0].startswith(told[0])


def test_each_fault_is_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def script(scene: Scene) -> None:
        scene.found = FAULTS["settings"][0]
        await scene.reloader.reload()

    play(script)
    assert [(each.levelno, each.getMessage()) for each in caplog.records] == [
        (logging.ERROR, "a.toml:1: x: no"),
        (logging.ERROR, "a.toml:2: y: no"),
        (logging.ERROR, "not reloaded: the settings from before stay in force"),
    ]


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_takes_a_restart_is_told_with_its_place(dry_run: bool) -> None:
    async def script(scene: Scene) -> tuple[str, ...]:
        scene.found, scene.tree = RESTART, written(STATE_DIR, 3)
        return (await scene.reloader.reload(dry_run=dry_run)).faults

    assert play(script) == ("a.toml:3: client.state_dir: needs a restart",)


@pytest.mark.parametrize("dry_run", [False, True])
def test_of_a_key_that_was_removed_the_file_is_told_that_had_it(dry_run: bool) -> None:
    async def script(scene: Scene) -> tuple[str, ...]:
        scene.tree = merge(written(STATE_DIR, 3), written(STATE_DIR, 7, "a.toml.d/50-x.toml"))
        await scene.reloader.reload()
        scene.found, scene.tree = RESTART, NOWHERE
        return (await scene.reloader.reload(dry_run=dry_run)).faults

    assert play(script) == (
        "a.toml.d/50-x.toml: client.state_dir: was removed, which needs a restart",
    )


def test_an_address_that_is_taken_is_told_with_its_place() -> None:
    async def script(scene: Scene) -> tuple[str, ...]:
        scene.tree = merge(written(METRICS, 9), written(STATE_DIR, 3))
        scene.daemon.fault = ListenFailed("admin.metrics: taken", "admin.metrics")
        return (await scene.reloader.reload()).faults

    assert play(script) == ("a.toml:9: admin.metrics: taken",)


@pytest.mark.parametrize(
    ("fault", "told"),
    [(ListenFailed("taken"), "taken"), (ZeroDivisionError("bug"), "a fault of its own")],
)
def test_a_daemon_that_cannot_is_no_reason_to_end(fault: Exception, told: str) -> None:
    async def script(scene: Scene) -> tuple[str, bool]:
        scene.daemon.fault = fault
        refused = await scene.reloader.reload()
        scene.daemon.fault = None
        return refused.faults[0], (await scene.reloader.reload()).is_applied

    message, is_applied = play(script)
    assert told in message
    assert is_applied


def test_all_who_ask_during_a_reload_share_the_next() -> None:
    async def script(scene: Scene) -> tuple[int, set[int]]:
        scene.daemon.gate.clear()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(scene.reloader.reload())
            await scene.until(lambda: scene.daemon.reloads == 1)
            others = [group.create_task(scene.reloader.reload()) for _ in range(50)]
            await asyncio.sleep(0)
            scene.daemon.gate.set()
        outcomes = {id(task.result()) for task in others}
        assert id(first.result()) not in outcomes
        return scene.daemon.reloads, outcomes

    reloads, outcomes = play(script)
    assert (reloads, len(outcomes)) == (2, 1)


def test_whoever_goes_in_the_middle_leaves_the_next_to_others() -> None:
    async def script(scene: Scene) -> bool:
        scene.daemon.gate.clear()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(scene.reloader.reload())
            await scene.until(lambda: scene.daemon.reloads == 1)
            second = group.create_task(scene.reloader.reload())
            third = group.create_task(scene.reloader.reload())
            await asyncio.sleep(0)
            first.cancel()
            await scene.until(lambda: scene.daemon.reloads == 2)
            second.cancel()
            scene.daemon.gate.set()
        return third.result().is_applied

    assert play(script)


def test_signals_are_followed_once_for_all_that_come_meanwhile() -> None:
    async def script(scene: Scene) -> int:
        asked, started = asyncio.Event(), asyncio.Event()
        scene.found = OLD
        async with asyncio.TaskGroup() as group:
            following = group.create_task(scene.reloader.follow(asked, started))
            started.set()
            scene.daemon.gate.clear()
            asked.set()
            await scene.until(lambda: scene.daemon.reloads == 1)
            for _ in range(50):
                asked.set()
                await asyncio.sleep(0)
            scene.daemon.gate.set()
            await scene.until(lambda: scene.daemon.reloads == 2)
            await asyncio.sleep(0)
            following.cancel()
        return scene.daemon.reloads

    assert play(script) == 2


def test_what_was_changed_during_the_start_is_not_lost() -> None:
    async def script(scene: Scene) -> None:
        asked, started = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            following = group.create_task(scene.reloader.follow(asked, started))
            await asyncio.sleep(0)
            assert scene.daemon.reloads == 0
            started.set()
            await scene.until(lambda: scene.daemon.settings is NEW)
            following.cancel()

    play(script)


def test_a_start_outlives_a_reader_that_fails() -> None:
    async def script(scene: Scene) -> None:
        asked, started = asyncio.Event(), asyncio.Event()
        scene.found = ZeroDivisionError("bug")
        started.set()
        async with asyncio.TaskGroup() as group:
            following = group.create_task(scene.reloader.follow(asked, started))
            await scene.until(lambda: scene.readings == 1)
            scene.found = NEW
            asked.set()
            await scene.until(lambda: scene.daemon.settings is NEW)
            following.cancel()

    play(script)


def test_a_log_that_cannot_be_set_up_is_told_beside_what_is_in_force() -> None:
    async def script(scene: Scene) -> tuple[ReloadOutcome, bool]:
        scene.found = replace(OLD, log=LogSettings(format="odd"))
        return await scene.reloader.reload(), scene.daemon.settings is scene.found

    outcome, is_in_force = play(script)
    assert (outcome.is_applied, is_in_force) == (True, True)
    assert outcome.faults == ("a fault of its own: KeyError('odd')",)


def test_another_level_of_the_log_is_in_force_at_once() -> None:
    async def script(scene: Scene) -> None:
        scene.found = replace(OLD, log=LogSettings("debug"))
        await scene.reloader.reload()

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        play(script)
        assert root.level == logging.DEBUG
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
