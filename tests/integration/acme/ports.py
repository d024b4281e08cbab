"""Listeners at the port on which an authority validates."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.acme_front import Front, fronted
from tests.integration.stage import LOOPBACK
from tests.pebble import pebble
from tests.ports import free_port
from tunnel.settings.values import ListenerSettings
from tunnel.stream import Address


class Ports:
    """An authority behind a front, and where it looks: one port of every address."""

    def __init__(self, front: Front, port: int, folder: Path) -> None:
        self.front = front
        self.ca = front.ca
        self.port = port
        self.root_file = folder / "issuing-root.pem"  # trust for what it issues
        self.root_file.write_text(front.ca.issuing_roots())

    def listeners(self, host: str = LOOPBACK) -> list[ListenerSettings]:
        """Return a relay's listeners, visitors' and validations' among them."""
        return [
            ListenerSettings("agents", "agents", (Address(host, free_port()),)),
            ListenerSettings("public", "public", (Address(host, self.port),)),
        ]


@contextmanager
def validating(folder: Path) -> Iterator[Ports]:
    """Run an authority that validates at a port on which nobody listens yet."""
    port = free_port()
    with pebble(folder / "pebble", tls_port=port) as ca, fronted(ca, folder / "front") as front:
        yield Ports(front, port, folder)
