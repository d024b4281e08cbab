"""Settings read again by a running program, whatever has become of their files."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.settings.documents import RELAY, write
from tunnel.cli.again import relay_settings
from tunnel.runtime.reloading import Reloader
from tunnel.settings.reload import ReloadOutcome, ReloadPlan, plan_reload
from tunnel.settings.values import RelaySettings

DROP_IN = Path("relay.toml.d", "50-x.toml")


class Daemon:
    """Takes all settings."""

    def __init__(self, settings: RelaySettings) -> None:
        self.settings = settings

    async def reload(self, settings: RelaySettings) -> ReloadPlan:
        plan, self.settings = plan_reload(self.settings, settings), settings
        return plan


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the settings file of a relay that runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    DROP_IN.parent.mkdir()
    return write(tmp_path, "relay.toml", RELAY)


def be_a_folder(main: Path) -> None:
    main.unlink()
    main.mkdir()


def be_a_pipe(main: Path) -> None:
    main.unlink()
    os.mkfifo(main)


def be_huge(main: Path) -> None:
    with main.open("r+b") as file:
        file.truncate(100 << 20)


def have_a_file_for_a_folder(_main: Path) -> None:
    DROP_IN.parent.rmdir()
    DROP_IN.parent.touch()


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (lambda main: main.unlink(), "relay.toml: cannot be read: No such file or directory"),
    "a folder": (be_a_folder, "relay.toml: is not a regular file: it cannot be read again"),
    "a pipe": (be_a_pipe, "relay.toml: is not a regular file: it cannot be read again"),
    "huge": (be_huge, "relay.toml: is larger than 4 MiB"),
    "drop-ins": (have_a_file_for_a_folder, "relay.toml.d: cannot be read: Not a directory"),
    "dangling": (
        lambda _: DROP_IN.symlink_to("nowhere"),
        f"{DROP_IN}: cannot be read: No such file or directory",
    ),
    "drop-in a folder": (
        lambda _: DROP_IN.mkdir(),
        f"{DROP_IN}: is not a regular file (nor is it ignored, by its name)",
    ),
    "binary": (lambda _: DROP_IN.write_bytes(b"\0\xff"), f"{DROP_IN}:1: is not UTF-8"),
}


@pytest.mark.parametrize(("harm", "told"), HARM.values(), ids=HARM)
def test_files_that_came_to_harm_are_named_and_the_settings_stay(
    main: Path, harm: Callable[[Path], object], told: str
) -> None:
    def read() -> RelaySettings:
        return relay_settings(["-c", "relay.toml"]).settings

    async def reload(daemon: Daemon) -> ReloadOutcome:
        found = Reloader("relay", daemon, lambda: relay_settings(["-c", "relay.toml"]))
        return await found.reload()

    daemon = Daemon(read())
    before = daemon.settings
    harm(main)
    assert asyncio.run(reload(daemon)) == ReloadOutcome(None, (told,))
    assert daemon.settings is before


def test_a_drop_in_that_was_removed_has_no_say_any_more(main: Path) -> None:
    write(main.parent, str(DROP_IN), '[relay]\nname = "other"\n')
    before = relay_settings(["-c", "relay.toml"]).settings
    DROP_IN.unlink()
    after = relay_settings(["-c", "relay.toml"]).settings
    assert str(plan_reload(before, after)) == "relay.name"
