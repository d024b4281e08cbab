"""`--version` and `--help` answer at once: nothing heavy is imported on their way."""

import subprocess
import sys

import pytest

HEAVY = {"asyncio", "ssl", "cryptography", "aioquic", "h2", "uvloop", "tomli", "logging", "json"}

PROGRAM = """
import sys
from tunnel.cli.command import run_relay_command
status = run_relay_command(sys.argv[1:], lambda settings: 1, lambda settings, status: 1)
print(*sorted(sys.modules))
sys.exit(status)
"""


@pytest.mark.parametrize(
    ("line", "begin"),
    [
        ("--version", "relay.pyz 0.1.0"),
        ("--help", "NAME"),
        ("status --help", "NAME"),
        ("keygen --help", "NAME"),
        ("doctor --help", "NAME"),
    ],
)
def test_what_only_tells_needs_no_heavy_import(line: str, begin: str) -> None:
    command = [sys.executable, "-c", PROGRAM, *line.split()]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=15)
    first, *_, modules = result.stdout.splitlines()
    assert first == begin
    assert set(modules.split()) & HEAVY == set()
