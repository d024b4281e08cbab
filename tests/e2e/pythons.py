"""The Pythons of this machine, those that nobody has on PATH included."""

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

SUPPORTED_MINORS = range(11, 15)
# Whatever is unpacked has all of these, on every Python.
ENGINES = "aioquic.quic.connection, h2.connection, uvloop, tomli, OpenSSL.SSL, segno"
ACME = "acme.client, acme.messages, josepy, requests, dns.resolver, publicsuffixlist"


@cache
def pythons() -> Mapping[int, str]:
    """Return each Python 3 found on PATH, by minor; of those with one minor the first."""
    names = ["python3", *(f"python3.{minor}" for minor in range(6, 20))]
    places = [*os.get_exec_path(), *elsewhere()]
    found = {sys.version_info.minor: sys.executable}
    for path in (os.path.join(place, name) for place in places for name in names):
        if os.access(path, os.X_OK):
            minor = minor_of(path)
            if minor is not None:
                found.setdefault(minor, path)
    return found


def elsewhere() -> list[str]:
    """Return the directories beside PATH where Pythons are put."""
    found = [*Path.home().glob(".pyenv/versions/*/bin"), *Path("/opt").glob("*/bin")]
    return [str(path) for path in sorted(found)]


def minor_of(python: str) -> int | None:
    """Return the minor of a Python 3; None if this one does not start."""
    command = [python, "-I", "-c", "import sys; print(*sys.version_info[:2])"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    major, _, minor = asked.stdout.strip().partition(" ")
    return int(minor) if asked.returncode == 0 and major == "3" else None


def supported() -> list[int]:
    """Return the minors that a zipapp has to run on; at least that of the tests is among them."""
    return sorted(minor for minor in pythons() if minor in SUPPORTED_MINORS)
