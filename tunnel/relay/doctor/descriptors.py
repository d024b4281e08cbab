"""Whether the relay may open as many files as its limits let connections in."""

import re
import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tunnel.relay.doctor.ports import Own
from tunnel.runtime.findings import Check, Finding
from tunnel.settings.values import RelayLimits
from tunnel.transport.accepting import DESCRIPTOR_SHARE

_LIMIT = re.compile(r"^Max open files\s+(\d+)\s", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many files a process may have open, and which one."""

    files: int
    whose: str


def allowance(own: Own | None) -> Allowance:
    """Return the limit of the running relay, else the one that a start from here would have."""
    if own is not None:
        with suppress(OSError):
            found = _LIMIT.search(Path(f"/proc/{own.pid}/limits").read_text())
            if found is not None:
                return Allowance(int(found[1]), f"process {own.pid}")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # a start raises the soft one to it
    return Allowance(hard, "a start from here")


def judge_descriptors(limits: RelayLimits, allowed: Allowance) -> Finding:
    """Judge the limit: a connection over TCP takes one file, and so does each visitor."""
    check = Check("descriptors", "process")
    usable = int(allowed.files * DESCRIPTOR_SHARE)
    seen = f"{allowed.whose} may open {allowed.files} files, {usable} of them for connections"
    if usable >= limits.connections:
        return check.ok(f"{seen}; [limits] connections is {limits.connections}")
    return check.warning(
        f"{seen}, fewer than [limits] connections = {limits.connections}",
        "raise LimitNOFILE (ulimit -n): clients over TCP and every visitor take one each",
    )
