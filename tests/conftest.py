"""What every test has."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).parent

# Zipapps that tests run unpack themselves here: neither do they remove the copies that other
# versions have on this machine, nor the other way round.
os.environ["SHIV_ROOT"] = str(TESTS.parent / ".cache" / "unpacked")

# Whoever runs the tests in the background may have interrupts ignored, and so would all programs
# that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no slow program.
settings.register_profile("without a deadline", settings(), deadline=None)
settings.load_profile("without a deadline")


@pytest.fixture(autouse=True)
def asyncio_debug(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have asyncio and uvloop check what tests do, except where speed is part of what is tested."""
    if request.path.relative_to(TESTS).parts[0] in {"unit", "contract"}:
        monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
