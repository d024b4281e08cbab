"""A relay and a client that serve one target over one transport."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.e2e.world import Client, Relay, new_world


class Tunnel(NamedTuple):
    """Both programs, and what carries their visitors."""

    relay: Relay
    client: Client
    transport: str


@contextmanager
def new_tunnel(folder: Path, transport: str, target: str, endpoint: str = "") -> Iterator[Tunnel]:
    """Start a relay and a client of it; `endpoint` is more TOML of that table."""
    with new_world(folder) as world:
        relay = world.relay()
        options = f'transport = "{transport}"'
        client = world.client(relay, target=target, options=options, endpoint=endpoint)
        yield Tunnel(relay, client, transport)
        world.report()
