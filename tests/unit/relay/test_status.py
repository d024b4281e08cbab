"""What a relay says of itself, where that is more than it can say at once."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tunnel.relay import status
from tunnel.relay.budget import Budget, RegisteredDomains
from tunnel.relay.budget_file import BudgetFile
from tunnel.relay.status import budgets_of
from tunnel.settings.values import SuffixSettings

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_the_fullest_budgets_are_shown_and_the_others_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "BUDGETS_SHOWN", 2)
    domains = RegisteredDomains([SuffixSettings("small.test", certificates_per_week=2)])

    async def scene() -> None:
        budget = BudgetFile(tmp_path / "budget.json", Budget(domains), lambda: NOW)
        for name in ("a.test", "b.test", "x.b.test", "y.b.test", "x.small.test", "c.test"):
            budget.order(name, renewal=False)
        assert budgets_of(budget) == {
            "budget": [
                {"domain": "small.test", "orders": 1, "limit": 2},
                {"domain": "b.test", "orders": 3, "limit": 45},
            ],
            "budgets_left_out": 2,
        }
        budget.close()

    asyncio.run(scene())
