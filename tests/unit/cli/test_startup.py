"""`--version` answers at once: nothing heavy is imported on its way."""

import subprocess
import sys

HEAVY = {"asyncio", "ssl", "cryptography", "aioquic", "h2", "uvloop", "tomli", "logging", "json"}

PROGRAM = """
import sys
from tunnel.cli.command import run_relay_command
status = run_relay_command(["--version"], lambda settings: 1)
print(*sorted(sys.modules))
sys.exit(status)
"""


def test_the_version_needs_no_heavy_import() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=15
    )
    version, modules = result.stdout.splitlines()
    assert version == "relay.pyz 0.1.0"
    assert set(modules.split()) & HEAVY == set()
