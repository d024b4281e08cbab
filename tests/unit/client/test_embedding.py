"""What a program that embeds the client or the relay imports, and what `--version` does not."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import tunnel.client
import tunnel.relay
from tests.unit.cli.test_startup import HEAVY
from tests.unit.client.scenes import client_settings
from tunnel.client import client
from tunnel.relay import server
from tunnel.tls.identity import generate

ANSWER = """
import sys
import tunnel.{half}
from tunnel.{half}.__main__ import main
sys.argv[1:] = ["--version"]
status = main()
print(*sorted(sys.modules))
sys.exit(status)
"""


def test_both_halves_are_found_where_they_are_looked_for() -> None:
    assert tunnel.client.Client is client.Client
    assert tunnel.relay.Relay is server.Relay


def test_a_client_is_made_with_a_signer_and_a_sink(tmp_path: Path) -> None:
    made = tunnel.client.Client(
        client_settings(tmp_path), signer=generate(), on_event=lambda _: None
    )
    assert not (tmp_path / "client.key").exists()
    assert [each.endpoint for each in made.info()] == ["web"]


@pytest.mark.parametrize("half", ["client", "relay"])
def test_nothing_else_is_found(half: str) -> None:
    module = import_module(f"tunnel.{half}")
    with pytest.raises(AttributeError, match=f"module 'tunnel.{half}' has no attribute 'Server'"):
        module.Server  # noqa: B018 - the look is what is tested


@pytest.mark.parametrize("half", ["client", "relay"])
def test_the_version_is_told_without_it(half: str) -> None:
    program = [sys.executable, "-c", ANSWER.format(half=half)]
    told = subprocess.run(program, capture_output=True, text=True, check=True, timeout=15).stdout
    version, modules = told.splitlines()
    assert version.startswith(f"{half}.pyz ")
    assert set(modules.split()) & {*HEAVY, f"tunnel.{half}.{half}", "tunnel.relay.server"} == set()
