"""Relays and clients whose certificates come from a real authority on this machine."""

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.acme_front import NEW_ORDER_PATH, Front, fronted
from tests.e2e.targets import sockets
from tests.e2e.world import SUFFIX, Client, Relay, World
from tests.pebble import Pebble, pebble
from tests.ports import free_port

ISSUED = r"certificate issued .*"
RELAY_NAME = "relay.test"
CHALLENGE_PATH = "/chalZ/"  # by which an authority is told that a name may be validated
LOOK_INTERVAL = 0.02
GATE_TIMEOUT = 20.0  # seconds that a validation is held at most


@dataclass
class Realm:
    """A world with an authority, which validates names on `port` of every address they have.

    With a `front` all orders go through it.
    """

    world: World
    authority: Pebble
    port: int
    front: Front | None = None

    @property
    def acme(self) -> str:
        """The TOML by which either program orders from the authority."""
        asked = self.front or self.authority
        return f'[acme]\ndirectory = "{asked.directory_url}"\nca = "{asked.root_file}"\n'

    def relay(
        self,
        name: str = "relay",
        *,
        host: str = "127.0.0.1",
        kind: str = "public",
        suffix: str = 'access = "open"',
        extra: str = "",
    ) -> Relay:
        """Start a relay that also has a listener where the authority validates."""
        challenge = f'[listeners.challenge]\nkind = "{kind}"\nlisten = ["{host}:{self.port}"]\n'
        return self.world.relay(name, suffix=suffix, extra=challenge + extra)

    def relay_with_name(self, kind: str) -> Relay:
        """Start a relay that orders a certificate for its own name; wait until it has one."""
        wanted = f'[certificate]\nmode = "acme"\nnames = ["{RELAY_NAME}"]\n'
        relay = self.relay(kind=kind, extra=wanted + self.acme)
        relay.process.wait_for(ISSUED)
        return relay

    def client(self, *relays: Relay, target: str, endpoint: str = "", **others: str) -> Client:
        """Start a client whose endpoint orders its certificates."""
        wanted = f'certificate = "acme"\n{endpoint}'
        others["extra"] = self.acme + others.get("extra", "")
        return self.world.client(*relays, target=target, endpoint=wanted, **others)

    def client_by_name(self, port: int, *arguments: str, target: str) -> Client:
        """Start a client that knows a relay by its name, and trusts what the authority vouches for.

        Without a pin; `port` is the relay's for clients.
        """
        settings = self.world.folder / "client.toml"
        settings.write_text(
            '[client]\nstate_dir = "client-state"\n'
            f'[servers.relay]\naddress = "127.0.0.1:{port}"\nserver_name = "{RELAY_NAME}"\n'
            f'ca = "{self.issuing_root_file()}"\n[keypairs.primary]\nfile = "client.key"\n'
            f'[endpoints.web]\nkeypair = "primary"\nsuffix = "{SUFFIX}"\ntarget = "{target}"\n'
            f'certificate = "acme"\n{self.acme}'
        )
        process = self.world.run("client", settings, "client", *arguments)
        state = self.world.folder / "client-state"
        return Client(self.world, "client", settings, state, process)

    def issuing_root_file(self) -> Path:
        """Return a file with the root of what the authority issues."""
        file = self.world.folder / "issuing-root.pem"
        file.write_text(self.authority.issuing_roots())
        return file

    def trust(self) -> ssl.SSLContext:
        """Return a visitor's context that trusts what the authority issues and nothing else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.authority.issuing_roots())
        return context

    def orders(self) -> int:
        """Return how many orders the authority has been given since it was started first."""
        log = self.authority.root_file.with_name("pebble.log")
        return log.read_text().count(f"POST {NEW_ORDER_PATH} ")

    def asked(self, path: str) -> int:
        """Return how many requests for paths that begin so have come to the front."""
        assert self.front is not None
        return sum(each.startswith(path) for _, each in tuple(self.front.requests))

    def wait_for_asked(self, path: str, timeout: float = 10.0) -> None:
        """Return once there was such a request."""
        wait_until(lambda: self.asked(path) > 0, timeout, f"a request for {path}")


class Gate:
    """A port where validations come in and are held, until it is opened to a relay."""

    def __init__(self) -> None:
        self.arrived = threading.Event()  # the first validation is there
        self._opened = threading.Event()
        self._relay: Relay | None = None

    def open(self, relay: Relay) -> None:
        """Let those that are held and those to come go to the relay's visitors' port."""
        self._relay = relay
        self._opened.set()

    def serve(self, near: socket.socket) -> None:
        """Hold one connection, then pass it on; it is closed if the gate stays shut."""
        self.arrived.set()
        if self._opened.wait(GATE_TIMEOUT) and self._relay is not None:
            with socket.create_connection(("127.0.0.1", self._relay.public_port)) as far:
                _join(near, far)


def _join(near: socket.socket, far: socket.socket) -> None:
    """Copy both ways until one of the two has ended."""
    others = {near: far, far: near}
    while True:
        readable, _, _ = select.select([near, far], [], [], GATE_TIMEOUT)
        for each in readable:
            if not (data := each.recv(1 << 14)):
                return
            others[each].sendall(data)


def wait_until(is_true: Callable[[], bool], timeout: float, what: str) -> None:
    """Return once it is true; fails if that takes too long."""
    deadline = time.monotonic() + timeout
    while not is_true():
        assert time.monotonic() < deadline, f"no {what} within {timeout:g} s"
        time.sleep(LOOK_INTERVAL)


@contextmanager
def new_realm(
    world: World, folder: Path, *, port: int | None = None, **options: Any
) -> Iterator[Realm]:
    """Start an authority for the world; `options` are those of `pebble`."""
    port = port or free_port()
    with pebble(folder, tls_port=port, **options) as authority:
        yield Realm(world, authority, port)


@contextmanager
def new_fronted_realm(world: World, folder: Path, **options: Any) -> Iterator[Realm]:
    """Start an authority behind a front that sees all requests and may answer in its place."""
    with new_realm(world, folder, **options) as realm, fronted(realm.authority, folder) as front:
        realm.front = front
        yield realm


@contextmanager
def new_gated_realm(world: World, folder: Path) -> Iterator[tuple[Realm, Gate]]:
    """Start an authority whose validations come to a gate; relays need not listen for them."""
    gate = Gate()
    with ExitStack() as stack:
        address = stack.enter_context(sockets(gate.serve))
        port = int(address.rpartition(":")[2])
        yield stack.enter_context(new_realm(world, folder, port=port)), gate
