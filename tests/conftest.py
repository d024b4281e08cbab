"""What every test has."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def asyncio_debug(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have asyncio and uvloop check what tests do, except where speed is part of what is tested."""
    if request.path.relative_to(TESTS).parts[0] in {"unit", "contract"}:
        monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
