"""The verb `doctor`: what an examination has found, as a table or as JSON."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from tunnel.cli.running import Declined, Unreachable, running
from tunnel.cli.tables import format_table, is_coloured
from tunnel.runtime.exits import Exit
from tunnel.runtime.findings import Finding, Outcome, Status, is_healthy
from tunnel.runtime.logs import set_up_logs
from tunnel.runtime.loop import run
from tunnel.settings.values import LogSettings

STATUS_TIMEOUT = 2.0  # seconds that a running program has to answer

Findings = Coroutine[Any, Any, list[Finding]]


def run_doctor(
    program: str, arguments: Namespace, examine: Callable[[Status | None], Findings]
) -> int:
    """Print what an examination finds, and return 0 if nothing has failed, else 1.

    `examine` is told what a program that runs on these settings says of itself, None where none
    can be asked. Raises SettingsError, OSError as `running` does.
    """
    set_up_logs(LogSettings(level=arguments.log_level or "error", format="text"))
    status = _status(program, arguments)
    findings = run(examine(status))
    health = is_healthy(findings)
    if arguments.json:
        pid = None if status is None else status.get("pid")
        rows = [asdict(each) for each in findings]
        members = {"program": program, "running": pid, "healthy": health, "checks": rows}
        sys.stdout.write(f"{json.dumps(members)}\n")
    else:
        coloured = is_coloured(sys.stdout, os.environ)
        sys.stdout.write(doctor_report(program, status, findings, coloured=coloured))
    sys.stdout.flush()
    return Exit.DONE if health else Exit.RUNTIME


def _status(program: str, arguments: Namespace) -> Status | None:
    """Return what the program that runs on these settings says of itself, None if none does."""
    try:
        status = running(program, arguments).get("/status", timeout=STATUS_TIMEOUT)
    except (Unreachable, Declined):
        return None
    return status if status.get("program") == program else None


def doctor_report(
    program: str, status: Status | None, findings: Sequence[Finding], *, coloured: bool
) -> str:
    """Return the findings as a table, below each what to do about it, and a summary."""
    rows = [row for finding in findings for row in _rows(finding)]
    table = format_table(("OUTCOME", "CHECK", "OF", "SEEN"), rows, coloured=coloured)
    return f"{_who(program, status)}\n{table}{_summary(findings)}\n"


def _who(program: str, status: Status | None) -> str:
    if status is None:
        return f"no running {program} could be asked"
    return f"the running {program} was asked, too: process {status.get('pid')}"


def _rows(finding: Finding) -> Iterator[tuple[str, ...]]:
    yield finding.outcome.value, finding.check, finding.of, finding.seen
    if finding.advice:
        yield "", "", "", f"to do: {finding.advice}"


def _summary(findings: Sequence[Finding]) -> str:
    counts = {
        outcome: sum(finding.outcome is outcome for finding in findings) for outcome in Outcome
    }
    return ", ".join(f"{outcome.value}: {count}" for outcome, count in counts.items() if count)
