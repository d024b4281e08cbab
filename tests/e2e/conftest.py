"""What every end-to-end test may ask for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.targets import pages
from tests.e2e.tunnels import Tunnel, new_tunnel
from tests.e2e.world import TRANSPORTS, World, new_world
from tests.variants import ASKED


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Return an empty world; on failure its logs are shown. A variant may be its parameter."""
    with new_world(tmp_path, variant=getattr(request, "param", ASKED)) as made:
        yield made
        made.report()


@pytest.fixture
def target() -> Iterator[str]:
    """Return the address of a web service."""
    with pages() as address:
        yield address


@pytest.fixture(scope="module", params=TRANSPORTS)
def tunnel(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tunnel]:
    """Return a tunnel to a web service, which a module's tests share."""
    folder = tmp_path_factory.mktemp("tunnel")
    with pages() as address, new_tunnel(folder, request.param, address) as made:
        yield made
