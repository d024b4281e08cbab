"""The verbs that need no daemon: init, keygen, id."""

import json
import stat
from pathlib import Path

import pytest

from tests.unit.cli.examined import unexamined
from tests.unit.settings.documents import CLIENT, write
from tunnel.cli.command import run_client_command, run_relay_command


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return tmp_path


def unused(_settings: object, **_options: object) -> int:
    raise AssertionError("a verb served")


def run_relay(*argv: str) -> int:
    return run_relay_command(argv, unused, unexamined)


def run_client(*argv: str) -> int:
    return run_client_command(argv, unused, unexamined)


def test_init_writes_settings_that_load_and_never_overwrites(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_client("init", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"path": "client.toml"}
    assert run_client("--check", "-c", "client.toml") == 0
    assert run_client("init") == 73
    assert "client.toml: cannot be written: File exists" in capsys.readouterr().err


def test_keygen_makes_a_private_key_and_never_overwrites(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_relay("keygen", "new/shop.key", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert stat.S_IMODE((folder / "new" / "shop.key").stat().st_mode) == 0o600
    assert run_relay("keygen", "new/shop.key") == 73
    assert run_client("id", "--primary-key", "new/shop.key", "--json") == 0
    (endpoint,) = json.loads(capsys.readouterr().out)["endpoints"]
    assert endpoint["fingerprint"] == made["fingerprint"]


def test_id_shows_every_endpoint_of_a_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, "client.toml", CLIENT.replace('"client.key"', '"client.key"\nid_bits = 64'))
    assert run_client("id", "-c", "client.toml", "--json") == 0
    (endpoint,) = json.loads(capsys.readouterr().out)["endpoints"]
    assert endpoint["fingerprint"].startswith(f"sha256:{endpoint['id']}")
    assert endpoint["url"] == f"https://{endpoint['id']}.t.example.org"
    assert len(endpoint["id"]) == 16


def test_id_is_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_client("id", "--domain-suffix", "t.example.org") == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split() == ["ENDPOINT", "ID", "URL", "FINGERPRINT"]
    assert row.index("https://") == heading.index("URL")


def test_a_corrupt_key_is_told_and_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, "client.key", "rubbish").chmod(0o600)
    assert run_client("id") == 78
    assert "client.key: is not a readable key" in capsys.readouterr().err
    assert (folder / "client.key").read_text() == "rubbish"
