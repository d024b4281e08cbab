"""What an examination (the verb `doctor`) has found, as values: one finding is one line."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Status = Mapping[str, Any]
"""What a running program says of itself, as JSON has it: evidence, beside what is looked at."""


class Outcome(StrEnum):
    """How one thing stands."""

    OK = "ok"
    WARNING = "warning"  # it works, but not as well as it might, or it cannot be told
    FAILED = "failed"
    SKIPPED = "skipped"  # not looked at: something else has to be mended first, or nobody needs it


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what was seen of it, and what to do about that."""

    check: str  # what kind of thing, in one word
    of: str  # which one of that kind
    outcome: Outcome
    seen: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to be looked at; the methods are the findings that may come of it."""

    name: str
    of: str

    def ok(self, seen: str) -> Finding:
        """All is well."""
        return Finding(self.name, self.of, Outcome.OK, seen)

    def warning(self, seen: str, advice: str) -> Finding:
        """It works, or may work; the advice is what would make it better, or certain."""
        return Finding(self.name, self.of, Outcome.WARNING, seen, advice)

    def failed(self, seen: str, advice: str) -> Finding:
        """It does not work; the advice is what to do."""
        return Finding(self.name, self.of, Outcome.FAILED, seen, advice)

    def skipped(self, why: str) -> Finding:
        """It was not looked at."""
        return Finding(self.name, self.of, Outcome.SKIPPED, why)


def is_healthy(findings: Iterable[Finding]) -> bool:
    """Say whether nothing has failed."""
    return all(finding.outcome is not Outcome.FAILED for finding in findings)
