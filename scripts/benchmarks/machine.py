"""What figures depend on besides the code: kept with every run."""

import os
import platform
import ssl
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tests.e2e.world import ROOT

STAT = Path("/proc/stat")
STEAL = 7  # its place among the numbers of the first line, from 0 on: proc_stat(5)


def describe() -> dict[str, object]:
    """Return what the figures depend on."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "openssl": ssl.OPENSSL_VERSION,
        "cores": os.cpu_count(),
        "commit": _commit(),
        "scheduling": _scheduling(),
        "command": "scripts/bench " + " ".join(sys.argv[1:]),
    }


def _commit() -> str:
    """Return what is measured, as far as git knows."""
    command = ["git", "describe", "--always", "--dirty"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return ran.stdout.strip() or "not in git"


def _scheduling() -> str:
    """Return the words before a command that has others wait as they wait now; often none."""
    if os.sched_getscheduler(0) == os.SCHED_RR:
        return f"chrt -r {os.sched_getparam(0).sched_priority}"
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    return f"nice -n {niceness}" if niceness else ""


def watch_steal() -> Callable[[], float]:
    """Return a function that says which share of all cores' time the host gave to others since.

    In percent. Above a few the figures are the host's more than ours: its others come and go.
    """
    before = _ticks()

    def share() -> float:
        passed = [after - then for after, then in zip(_ticks(), before, strict=True)]
        return 100 * passed[STEAL] / max(1, sum(passed))

    return share


def _ticks() -> list[int]:
    """Return how long all cores together did each thing, in ticks.

    What follows steal there, time of guests, is in the others already.
    """
    _, *numbers = STAT.read_text().partition("\n")[0].split()
    return [int(each) for each in numbers[: STEAL + 1]]
