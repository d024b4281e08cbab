"""--show-config: what is in force and whence."""

import tomllib
from pathlib import Path

import pytest

from tests.unit.cli.examined import unexamined
from tests.unit.settings.documents import CLIENT, FINGERPRINT, RELAY, write
from tunnel.cli.command import run_client_command, run_relay_command
from tunnel.settings.load import load_relay


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def unused(_settings: object, **_options: object) -> int:
    raise AssertionError("--show-config served")


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert run_relay_command(["--show-config", *argv], unused, unexamined) == 0
    return capsys.readouterr().out


def test_each_value_has_its_origin(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, "relay.toml", f'{RELAY}[relay]\nname = "eu"\ndrain_timeout = 1\n')
    write(folder / "relay.toml.d", "a.toml", '\n[relay]\nname = "us"\n')
    lines = shown(capsys, "-c", "relay.toml", "-v").splitlines()
    assert 'name = "us"  # relay.toml.d/a.toml:3' in lines
    assert "drain_timeout = 1  # relay.toml:10" in lines
    assert "workers = 1  # default" in lines
    assert 'level = "debug"  # -v' in lines


def test_what_is_shown_can_be_read_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client = f'[clients.shop]\nfingerprint = "{FINGERPRINT}"\nlimits.rate = "1MiB/s"\n'
    path = write(folder, "relay.toml", f'{RELAY}{client}[relay]\nname = "${{N}}"\n')
    text = shown(capsys, "-c", "relay.toml") if path else ""
    again = write(folder, "again.toml", text)
    assert load_relay(again, {"N": "eu"}) == load_relay(path, {"N": "eu"})


@pytest.fixture(autouse=True)
def name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N", "a name from the environment")


def test_variables_stay_unfilled(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, "relay.toml", f'{RELAY}[relay]\nname = "${{N}}"\n')
    assert tomllib.loads(shown(capsys, "-c", "relay.toml"))["relay"]["name"] == "${N}"


def test_a_masked_table_shows_only_what_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, "relay.toml", f"{RELAY}[listeners.old]\nenabled = false\n")
    document = tomllib.loads(shown(capsys, "-c", "relay.toml"))
    assert document["listeners"]["old"] == {"enabled": False}


def test_flags_are_origins_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run_client_command(["--show-config", "--server", "r", "--local", "1"], unused, unexamined)
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert 'target = "1"  # --local' in lines
    assert 'keypair = "primary"  # quick start' in lines


def test_faulty_settings_are_shown_before_their_faults(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, "client.toml", f"{CLIENT}wrong = 1\n")
    assert run_client_command(["--show-config", "-c", "client.toml"], unused, unexamined) == 78
    output = capsys.readouterr()
    assert "endpoints.web.wrong = 1  # client.toml:9" in output.out.splitlines()
    assert output.err == "client.toml:9: endpoints.web.wrong: unknown key\n"
