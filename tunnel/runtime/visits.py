"""Counting those who are here: how many now, and how many there have been."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Visits:
    """Visitors; relay and client each count more of theirs."""

    open: int = 0
    total: int = 0

    @contextmanager
    def visit(self) -> Iterator[None]:
        """Count a visitor who is here for as long as this is entered."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """Count a visitor who is here until `leave`."""
        self.open += 1
        self.total += 1

    def leave(self) -> None:
        """A visitor who was counted has gone."""
        self.open -= 1
