"""Which engine is at which end of a wire."""

from itertools import product

import pytest

from tests.unit.transport.quic import wire
from tunnel.transport.quic.configuration import ENGINES


@pytest.fixture(params=list(product(ENGINES, repeat=2)), ids="-".join)
def engines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Every pair of engines: the relay's and the client's."""
    relay, client = request.param
    monkeypatch.setitem(wire.KINDS, "relay", relay)
    monkeypatch.setitem(wire.KINDS, "client", client)
    return relay, client
