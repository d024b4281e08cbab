"""What every end-to-end test may ask for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.targets import pages
from tests.e2e.world import World, new_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Return an empty world; on failure its logs are shown."""
    with new_world(tmp_path) as made:
        yield made
        made.report()


@pytest.fixture
def target() -> Iterator[str]:
    """Return the address of a web service."""
    with pages() as address:
        yield address
