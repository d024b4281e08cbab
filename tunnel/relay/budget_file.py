"""The budget of a relay on disk: a restart gives nobody a second week."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tunnel.errors import Refused, SettingsError
from tunnel.log import get_log
from tunnel.relay.budget import Budget, RegisteredDomains, Use
from tunnel.relay.once import Once
from tunnel.settings.values import RelaySettings
from tunnel.tls.files import write_private

WRITE_INTERVAL = 5.0  # seconds from one writing to the next, however many orders come

log = get_log(__name__)


class BudgetFile:
    """A budget that is read from `path` and written there, soon after each order.

    A corrupt file is set aside as `.bad`, and one that cannot be written costs a warning; the
    process still counts. Raises SettingsError for a file that cannot be read.
    """

    def __init__(
        self,
        path: Path,
        budget: Budget,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._path = path
        self._budget = budget
        self._now = now
        self._written_at: float | None = None  # loop time
        self._timer: asyncio.TimerHandle | None = None
        self._is_writable = True
        self._told = Once()
        self._load()

    def __repr__(self) -> str:
        return f"<BudgetFile {self._path} {self._budget!r}>"

    def order(self, name: str, *, renewal: bool) -> None:
        """Count an order as `Budget.order` does now; raises Refused(BUSY)."""
        now = self._now()
        try:
            is_counted = self._budget.order(name, renewal=renewal, now=now)
        except Refused as refusal:
            if self._told.is_new((refusal.message, now.date())):
                log.warning("certificate not allowed", name=name, cause=refusal.message)
            raise
        if is_counted:
            self._write_soon()

    def reconfigure(self, domains: RegisteredDomains) -> None:
        """As `Budget.reconfigure`."""
        self._budget.reconfigure(domains)

    def use_of(self, name: str) -> Use:
        """Return what is used up now of the budget that new names like this one share."""
        return self._budget.use_of(name, self._now())

    def uses(self) -> list[Use]:
        """Return every budget of which anything is used up now."""
        return self._budget.uses(self._now())

    def close(self) -> None:
        """Write what was not written yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._write()

    def _load(self) -> None:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise SettingsError([f"{self._path}: cannot be read: {error.strerror}"]) from error
        try:
            self._budget.restore(json.loads(content), self._now())
        except (ValueError, RecursionError) as error:
            self._set_aside(error)

    def _set_aside(self, error: Exception) -> None:
        aside = self._path.with_name(f"{self._path.name}.bad")
        try:
            self._path.replace(aside)
        except OSError as fault:
            log.warning("corrupt budget not set aside", file=self._path, cause=fault)
        else:
            log.warning("set a corrupt budget aside", file=self._path, kept=aside, cause=error)

    def _write_soon(self) -> None:
        """Write now, or once the last writing is long enough ago."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            return
        if self._written_at is None or loop.time() - self._written_at >= WRITE_INTERVAL:
            self._written_at = loop.time()
            self._write()
        else:
            self._timer = loop.call_at(self._written_at + WRITE_INTERVAL, self._write_late, loop)

    def _write_late(self, loop: asyncio.AbstractEventLoop) -> None:
        self._written_at = loop.time()
        self._write()

    def _write(self) -> None:
        self._timer = None
        content = json.dumps(self._budget.snapshot(self._now()), separators=(",", ":"))
        try:
            write_private(self._path, content.encode())
            self._is_writable = True
        except OSError as error:
            if self._is_writable:
                log.warning("budget not written", file=self._path, cause=error)
            self._is_writable = False


def budget_of(settings: RelaySettings) -> BudgetFile:
    """Return the budget that a relay keeps in its state directory; raises SettingsError."""
    domains = RegisteredDomains(settings.suffixes.values())
    return BudgetFile(settings.state_dir / "certificate-budget.json", Budget(domains))
