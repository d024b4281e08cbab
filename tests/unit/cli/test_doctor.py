"""The verb `doctor` as it is asked and as it answers; what it finds is made up here."""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.settings.documents import CLIENT, write
from tunnel.cli.command import run_client_command, run_relay_command
from tunnel.cli.doctor import doctor_report
from tunnel.runtime.findings import Check, Finding
from tunnel.settings.values import ClientSettings, RelaySettings

UDP, CLOCK = Check("udp", "eu"), Check("clock", "eu")
WELL = [UDP.ok("it answers"), CLOCK.warning("a little late", "set it")]
ILL = [UDP.failed("no answer", "let it through"), CLOCK.skipped("no relay has answered")]


@pytest.fixture(autouse=True)
def _root() -> Iterator[None]:
    """Leave the root logger as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def unused(_settings: object, **_options: object) -> int:
    raise AssertionError("a verb served")


def run_client(*argv: str, found: list[Finding]) -> tuple[int, list[ClientSettings]]:
    """Return the status, and the settings that were examined."""
    examined = []

    async def examine(settings: ClientSettings, status: Mapping[str, Any] | None) -> list[Finding]:
        assert status is None
        examined.append(settings)
        return found

    return run_client_command(["doctor", *argv], unused, examine), examined


def test_warnings_are_no_failure() -> None:
    assert run_client("--server", "r", found=WELL)[0] == 0


def test_one_failure_is_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_client("--server", "r", found=ILL)[0] == 1
    assert capsys.readouterr().out == (
        "no running client could be asked\n"
        "OUTCOME  CHECK  OF  SEEN\n"
        "failed   udp    eu  no answer\n"
        "                    to do: let it through\n"
        "skipped  clock  eu  no relay has answered\n"
        "failed: 1, skipped: 1\n"
    )


def test_json_has_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    run_client("--server", "r", "--json", found=ILL)
    answer = json.loads(capsys.readouterr().out)
    assert (answer["program"], answer["running"], answer["healthy"]) == ("client", None, False)
    assert answer["checks"] == [
        {
            "check": "udp",
            "of": "eu",
            "outcome": "failed",
            "seen": "no answer",
            "advice": "let it through",
        },
        {
            "check": "clock",
            "of": "eu",
            "outcome": "skipped",
            "seen": "no relay has answered",
            "advice": "",
        },
    ]


def test_what_is_examined_is_what_the_program_would_run_on(folder: Path) -> None:
    _, (quick,) = run_client("--server", "r:1", "--local", "3001", found=WELL)
    assert str(quick.servers["r:1"].address) == "r:1"
    assert str(quick.endpoints["primary"].target) == "127.0.0.1:3001"
    write(folder, "client.toml", CLIENT)
    _, (written,) = run_client("-c", "client.toml", "--force-h2", found=WELL)
    assert {server.transport for server in written.servers.values()} == {"h2"}


def test_faults_in_settings_are_status_78_and_nothing_is_examined(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, "client.toml", f"{CLIENT}\n[log]\nlevel = 7\n")
    assert run_client("-c", "client.toml", found=WELL) == (78, [])
    assert "log.level" in capsys.readouterr().err


def test_a_file_that_is_missing_is_status_74() -> None:
    assert run_client("-c", "nowhere.toml", found=WELL) == (74, [])


def test_an_examination_that_is_interrupted_ends_quietly(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def examine(_settings: RelaySettings, _status: object) -> list[Finding]:
        raise KeyboardInterrupt

    assert run_relay_command(["doctor"], unused, examine) == 130
    assert capsys.readouterr() == ("", "")


def test_the_report_says_whom_else_it_has_asked() -> None:
    first, *_ = doctor_report("relay", {"pid": 7}, WELL, coloured=False).splitlines()
    assert first == "the running relay was asked, too: process 7"
