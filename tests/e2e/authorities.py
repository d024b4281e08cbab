"""Relays and clients whose certificates come from a real authority on this machine."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.world import Client, Relay, World, free_port
from tests.pebble import Pebble, pebble

ISSUED = r"certificate issued .*"


@dataclass
class Realm:
    """A world with an authority, which validates names on `port` of every address they have."""

    world: World
    authority: Pebble
    port: int

    @property
    def acme(self) -> str:
        """The TOML by which either program orders from the authority."""
        authority = self.authority
        return f'[acme]\ndirectory = "{authority.directory_url}"\nca = "{authority.root_file}"\n'

    def relay(self, name: str = "relay", *, host: str = "127.0.0.1", extra: str = "") -> Relay:
        """Start a relay that also has its visitors' port where the authority validates."""
        challenge = f'[listeners.challenge]\nkind = "public"\nlisten = ["{host}:{self.port}"]\n'
        return self.world.relay(name, extra=challenge + extra)

    def client(self, *relays: Relay, target: str, endpoint: str = "", **others: str) -> Client:
        """Start a client whose endpoint orders its certificates."""
        wanted = f'certificate = "acme"\n{endpoint}'
        others["extra"] = self.acme + others.get("extra", "")
        return self.world.client(*relays, target=target, endpoint=wanted, **others)

    def trust(self) -> ssl.SSLContext:
        """Return a visitor's context that trusts what the authority issues and nothing else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.authority.issuing_roots())
        return context


@contextmanager
def new_realm(world: World, folder: Path, **options: object) -> Iterator[Realm]:
    """Start an authority for the world; `options` are those of `pebble`."""
    port = free_port()
    with pebble(folder, tls_port=port, **options) as authority:  # type: ignore[arg-type]
        yield Realm(world, authority, port)
