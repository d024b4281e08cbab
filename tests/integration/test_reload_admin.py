"""Doors that a reload opens, closes and moves, while callers are being answered behind them."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.conftest import Run
from tests.integration.desks import ScriptedDesk, ask, connect, exchange, read
from tests.integration.stage import until
from tests.ports import free_port
from tunnel.admin import NOTE, SOCKET
from tunnel.admin.answers import Answer, Request, json_answer
from tunnel.admin.doors import LAST_CALL
from tunnel.admin.reception import Reception
from tunnel.admin.reloads import Attended
from tunnel.admin.unix import listen_unix
from tunnel.errors import ListenFailed, SettingsError
from tunnel.settings.reload import ReloadPlan, plan_reload
from tunnel.settings.values import AdminSettings, ClientSettings
from tunnel.stream import Address


class Daemon:
    """Takes all settings, or says `fault`."""

    def __init__(self, folder: Path, admin: AdminSettings) -> None:
        self.settings = ClientSettings(folder, {}, {}, {}, admin=admin)
        self.fault: Exception | None = None

    async def reload(self, settings: ClientSettings) -> ReloadPlan:
        await asyncio.sleep(0)
        if self.fault is not None:
            raise self.fault
        plan, self.settings = plan_reload(self.settings, settings), settings
        return plan


class Scene:
    """A daemon with its doors, which `change` reloads with another [admin]."""

    def __init__(self, folder: Path, admin: AdminSettings) -> None:
        self.daemon = Daemon(folder, admin)
        self.reception = Reception(ScriptedDesk(), folder)
        self.attended = Attended(self.daemon, self.reception)
        self.go_on = asyncio.Event()
        self.asked = asyncio.Event()
        self.next = admin

    async def change(self, admin: AdminSettings) -> ReloadPlan:
        return await self.attended.reload(replace(self.daemon.settings, admin=admin))

    async def reload(self, _request: Request) -> Answer:
        """Answer once the doors are those of `next`, and `go_on` is set."""
        self.asked.set()
        plan = await self.change(self.next)
        await self.go_on.wait()
        return json_answer({"changed": str(plan)})


@asynccontextmanager
async def open_scene(folder: Path, admin: AdminSettings) -> AsyncIterator[Scene]:
    scene, ending = Scene(folder, admin), asyncio.Event()

    async def wait() -> None:
        await ending.wait()

    scene.reception.open(admin, {"/reload": {"POST": scene.reload}})
    async with asyncio.TaskGroup() as group:
        group.create_task(scene.reception.run(wait))
        try:
            assert await answers(admin.socket or folder / SOCKET)
            yield scene
        finally:
            ending.set()


Script = Callable[[Scene], Awaitable[None]]


@pytest.fixture
def play(run: Run, tmp_path: Path) -> Callable[[AdminSettings, Script], None]:
    """Run a script behind the doors of the settings; nothing but its sockets may be left over."""

    def start(admin: AdminSettings, script: Script) -> None:
        async def main() -> None:
            async with open_scene(tmp_path, admin) as scene:
                await script(scene)

        run(main())
        left_over = [path for path in tmp_path.rglob("*") if path.is_socket()]
        assert left_over == []

    return start


Play = Callable[[AdminSettings, Script], None]


def loopback() -> Address:
    return Address("127.0.0.1", free_port())


async def answers(where: Path | Address) -> bool:
    """Say whether somebody answers there."""
    try:
        return b" 200 OK\r\n" in await exchange(where, ask("GET", "/livez"))
    except OSError:
        return False


# -- the control socket


def test_the_reload_that_moves_the_socket_is_answered_over_the_old_one(
    play: Play, tmp_path: Path
) -> None:
    old, new = tmp_path / "old.sock", tmp_path / "new.sock"

    async def script(scene: Scene) -> None:
        scene.next = AdminSettings(socket=new)
        reader, writer = await connect(old)
        writer.write(ask("POST", "/reload"))
        await until(new.exists)
        assert await answers(new)
        assert not old.exists()
        scene.go_on.set()
        assert read(await reader.read()) == (200, {"changed": "admin.socket"})
        writer.close()

    play(AdminSettings(socket=old), script)


def test_who_had_come_to_the_old_socket_gets_one_more_answer_there(
    play: Play, tmp_path: Path
) -> None:
    old, new = tmp_path / "old.sock", tmp_path / "new.sock"

    async def script(scene: Scene) -> None:
        reader, writer = await connect(old)
        await scene.change(AdminSettings(socket=new))
        again = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
        writer.write(again * 2)
        answer = await reader.read()
        assert answer.count(b"live\n") == 1
        assert b"\r\nConnection: close\r\n" in answer
        writer.close()

    play(AdminSettings(socket=old), script)


def test_a_socket_may_come_and_go(play: Play, tmp_path: Path) -> None:
    default, named = tmp_path / "admin.sock", tmp_path / "named.sock"

    async def script(scene: Scene) -> None:
        for admin, here, gone in [
            (AdminSettings(socket=named), named, default),
            (AdminSettings(), default, named),
        ]:
            await scene.change(admin)
            assert await answers(here)
            assert not gone.exists()

    play(AdminSettings(), script)


def test_a_path_in_use_is_refused_and_all_stays_as_it_was(play: Play, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.sock", tmp_path / "theirs.sock"

    async def script(scene: Scene) -> None:
        metrics = loopback()
        before = scene.daemon.settings
        with closing(listen_unix(theirs)):
            for admin in [AdminSettings(theirs), AdminSettings(theirs, metrics)]:
                with pytest.raises(ListenFailed, match=r"^admin\.socket: .*another process"):
                    await scene.change(admin)
        assert scene.daemon.settings is before
        assert await answers(ours)
        assert not await answers(metrics)

    play(AdminSettings(socket=ours), script)


def test_a_default_that_is_asked_for_by_a_reload_is_not_done_without(
    play: Play, tmp_path: Path
) -> None:
    ours, taken = tmp_path / "ours.sock", tmp_path / "admin.sock"

    async def script(scene: Scene) -> None:
        taken.write_text("precious")
        with pytest.raises(ListenFailed, match=r"^admin\.socket: .*is not a socket"):
            await scene.change(AdminSettings())
        assert await answers(ours)

    play(AdminSettings(socket=ours), script)


def test_settings_that_the_daemon_refuses_open_nothing_for_good(play: Play, tmp_path: Path) -> None:
    ours, new = tmp_path / "ours.sock", tmp_path / "new.sock"

    async def script(scene: Scene) -> None:
        metrics = loopback()
        scene.daemon.fault = SettingsError(["no"])
        with pytest.raises(SettingsError):
            await scene.change(AdminSettings(new, metrics))
        assert await answers(ours)
        assert not new.exists()
        assert not await answers(metrics)

    play(AdminSettings(socket=ours), script)


def test_a_socket_that_was_removed_is_made_again(play: Play, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ours = folder / "ours.sock"
    folder.mkdir()

    async def script(scene: Scene) -> None:
        shutil.rmtree(folder)
        await scene.change(scene.daemon.settings.admin)  # it cannot be: no reason to refuse
        folder.mkdir()
        await scene.change(scene.daemon.settings.admin)
        assert await answers(ours)

    play(AdminSettings(socket=ours), script)


def test_what_has_not_changed_is_not_touched(play: Play, tmp_path: Path) -> None:
    ours = tmp_path / "ours.sock"

    async def script(scene: Scene) -> None:
        before = ours.stat().st_ino
        reader, writer = await connect(ours)
        await scene.change(AdminSettings(ours, loopback()))
        await scene.change(AdminSettings(ours))
        assert ours.stat().st_ino == before
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + ask("GET", "/livez"))
        assert (await reader.read()).count(b"live\n") == 2
        writer.close()

    play(AdminSettings(socket=ours), script)


def test_where_the_socket_is_stands_in_the_state_directory_while_it_is_elsewhere(
    play: Play, tmp_path: Path
) -> None:
    async def script(scene: Scene) -> None:
        note, noted = tmp_path / NOTE, []
        for path in (tmp_path / "a.sock", tmp_path / "b.sock", None):
            await scene.change(AdminSettings(socket=path))
            noted.append(note.read_text() if note.exists() else None)
        assert noted == [f"{tmp_path}/a.sock", f"{tmp_path}/b.sock", None]

    play(AdminSettings(), script)


# -- the metrics address


def test_a_metrics_address_may_come_move_and_go(play: Play) -> None:
    async def script(scene: Scene) -> None:
        first, second = loopback(), loopback()
        for metrics in (first, second, None):
            await scene.change(AdminSettings(metrics=metrics))
            await asyncio.sleep(2 * LAST_CALL)  # until then, what is closing lets people in
            assert (await answers(first), await answers(second)) == (
                metrics == first,
                metrics == second,
            )

    play(AdminSettings(), script)


def test_a_metrics_address_in_use_is_refused_and_the_old_one_stays(play: Play) -> None:
    ours, taken = loopback(), loopback()

    async def script(scene: Scene) -> None:
        server = await asyncio.start_server(lambda _r, _w: None, taken.host, taken.port)
        async with server:
            with pytest.raises(ListenFailed, match=r"^admin\.metrics: .*already in use"):
                await scene.change(AdminSettings(metrics=taken))
        assert await answers(ours)

    play(AdminSettings(metrics=ours), script)


def test_doors_that_come_and_go_leave_no_descriptor(play: Play, tmp_path: Path) -> None:
    sockets = [tmp_path / "a.sock", tmp_path / "b.sock"]

    async def script(scene: Scene) -> None:
        few = len(os.listdir("/proc/self/fd"))
        for number in range(20):
            await scene.change(AdminSettings(sockets[number % 2], loopback()))
            assert await answers(sockets[number % 2])
        await scene.change(AdminSettings(sockets[0]))
        await until(lambda: len(os.listdir("/proc/self/fd")) <= few)

    play(AdminSettings(sockets[0]), script)
