"""Real relays and clients as processes, from TOML files, over loopback.

A test asks for a `World`, starts what it needs, and everything is gone when it ends. Processes run
the zipapps of dist/; with TUNNEL_FROM_SOURCE=1 they run the package of this tree instead, which
saves the build while writing tests. Which engines they run, whether clients keep direct
connections, and how many processes a relay is, is said by tests/variants.py unless a test says so
itself.
"""

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.ports import free_port
from tests.variants import ASKED, WORKERS, Variant, table

ROOT = Path(__file__).parents[2]
SUFFIX = "t.test"
TRANSPORTS = ("quic", "h2")
WAYS = {  # by which visitors come: keys of [client]
    "quic": 'transport = "quic"\ndirect = "off"',
    "h2": 'transport = "h2"\ndirect = "off"',
    "direct": 'transport = "quic"\ndirect = "on"',
}
OPEN = "Client: client.pyz"  # what a relay prints once it listens
START_TIMEOUT = 20.0  # seconds; a first start also unpacks the zipapp


def program(name: str) -> list[str]:
    """Return the command that runs `relay` or `client`."""
    if os.environ.get("TUNNEL_FROM_SOURCE"):
        return [sys.executable, "-m", f"tunnel.{name}"]
    return [sys.executable, str(ROOT / "dist" / f"{name}.pyz")]


class Process:
    """A running relay or client: its output goes to files, which `wait_for` watches."""

    def __init__(self, command: Sequence[str], folder: Path, name: str) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.results = folder / f"{name}.out"
        with self.log.open("ab") as log, self.results.open("ab") as results:
            self._log_start, self._results_start = log.tell(), results.tell()
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=results,
                stderr=log,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            )

    def logged(self) -> str:
        """Return what this process has written to stderr."""
        return self.log.read_bytes()[self._log_start :].decode()

    def printed(self) -> str:
        """Return what this process has written to stdout."""
        return self.results.read_bytes()[self._results_start :].decode()

    def wait_for(self, pattern: str, timeout: float = START_TIMEOUT) -> re.Match[str]:
        """Return the first match in log or results; fails if it ends or takes too long."""
        deadline = time.monotonic() + timeout
        while True:
            found = re.search(pattern, self.printed() + self.logged())
            if found:
                return found
            ended = self.popen.poll() is not None
            if ended or time.monotonic() > deadline:
                why = f"ended with {self.popen.returncode}" if ended else f"{timeout} s passed"
                raise AssertionError(f"{self.name}: no {pattern!r}, {why}:\n{self.logged()}")
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.popen.send_signal(number)

    def wait(self, timeout: float = 40.0) -> int:
        """Return the exit status; fails if it takes too long."""
        return self.popen.wait(timeout)

    def stop(self, timeout: float = 40.0) -> int:
        """Ask it to stop and return the exit status."""
        self.popen.terminate()
        return self.wait(timeout)

    def kill(self) -> None:
        """End it as a crash would."""
        self.popen.kill()
        self.popen.wait()

    def rss_bytes(self) -> int:
        """Return the resident memory."""
        pages = Path(f"/proc/{self.popen.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """Return user and system time used so far."""
        row = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(row[11]) + int(row[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        """Return how many files it has open."""
        return len(os.listdir(f"/proc/{self.popen.pid}/fd"))


@dataclass
class Relay:
    """A relay's ports and its process, which may be restarted on the same settings."""

    world: "World"
    name: str
    settings: Path
    agents_port: int
    public_port: int
    process: Process

    @property
    def pin(self) -> str:
        """The pin that clients trust it by."""
        return self.process.wait_for(r"--pin (sha256:[0-9a-f]{64})")[1]

    def restart(self) -> None:
        """Start it again, with the same settings and state, after it has ended."""
        self.process = self.world.run("relay", self.settings, self.name)
        self.process.wait_for(OPEN)


@dataclass
class Client:
    """A client's process and what it printed of its endpoints."""

    world: "World"
    name: str
    settings: Path
    state: Path
    process: Process

    @property
    def urls(self) -> list[str]:
        """The URLs printed so far, in order."""
        return re.findall(r"URL: (https://\S+)", self.process.printed())

    @property
    def host(self) -> str:
        """The host name of its first URL; waits until it serves."""
        return self.process.wait_for(r"URL: https://([^:/\s]+)")[1]

    def restart(self) -> None:
        """Start it again, with the same settings and state, after it has ended."""
        self.process = self.world.run("client", self.settings, self.name)

    def trust(self) -> ssl.SSLContext:
        """Return a context that trusts this client's self-signed certificates and nothing else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata="\n".join(self.certificates()))
        return context

    def certificates(self) -> list[str]:
        """Return the PEM certificates that it keeps in its state directory."""
        pattern = r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----"
        files = (path.read_text() for path in sorted(self.state.rglob("*.pem")))
        return [found for text in files for found in re.findall(pattern, text, re.DOTALL)]


@dataclass
class World:
    """Everything one test has started; `agents_host` is the address where clients meet relays."""

    folder: Path
    agents_host: str = "127.0.0.1"
    variant: Variant = ASKED
    processes: list[Process] = field(default_factory=list)

    def run(self, what: str, settings: Path, name: str, *arguments: str) -> Process:
        """Start `relay` or `client` on a settings file."""
        return self.start(what, name, "-c", str(settings), *arguments)

    def start(self, what: str, name: str, *arguments: str) -> Process:
        """Start `relay` or `client` with these arguments and nothing else."""
        process = Process([*program(what), *arguments], self.folder, name)
        self.processes.append(process)
        return process

    def ask(self, what: str, *arguments: str) -> Any:
        """Run a verb of `relay` or `client` and return the object that it prints as JSON."""
        command = [*program(what), *arguments, "--json"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        asked = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, check=True
        )
        return json.loads(asked.stdout)

    def relay(
        self,
        name: str = "relay",
        *,
        extra: str = "",
        suffix: str = 'access = "open"',
        workers: int | None = None,
    ) -> Relay:
        """Start a relay: agents on one port, visitors on another; `extra` is more TOML."""
        workers = workers or WORKERS
        agents, public = free_port(), free_port()
        settings = self.folder / f"{name}.toml"
        settings.write_text(
            f'[relay]\nname = "{name}"\nstate_dir = "{name}-state"\nworkers = {workers}\n'
            f'[listeners.agents]\nkind = "agents"\nlisten = ["{self.agents_host}:{agents}"]\n'
            f'transports = ["quic", "h2", "direct"]\n'
            f'[listeners.public]\nkind = "public"\nlisten = ["127.0.0.1:{public}"]\n'
            f'[suffixes."{SUFFIX}"]\npublic_port = {public}\n{suffix}\n{extra}\n'
            + table(self.variant.engines.relay)
        )
        process = self.run("relay", settings, name)
        relay = Relay(self, name, settings, agents, public, process)
        process.wait_for(OPEN)
        return relay

    def client(
        self,
        *relays: Relay,
        target: str,
        name: str = "client",
        options: str = "",
        server: str = "",
        endpoint: str = "",
        extra: str = "",
    ) -> Client:
        """Start a client of the relays with one endpoint; the texts are more TOML of each table.

        Returns at once; `host` waits until it serves.
        """
        servers = "".join(
            f'[servers.{relay.name}]\naddress = "{self.agents_host}:{relay.agents_port}"\n'
            f'pin = "{relay.pin}"\n{server}\n'
            for relay in relays
        )
        settings = self.folder / f"{name}.toml"
        if "direct" not in options:
            options += f'\ndirect = "{"on" if self.variant.direct else "off"}"'
        settings.write_text(
            f'[client]\nstate_dir = "{name}-state"\n{options}\n{servers}'
            f'[keypairs.primary]\nfile = "{name}.key"\n'
            f'[endpoints.web]\nkeypair = "primary"\nsuffix = "{SUFFIX}"\ntarget = "{target}"\n'
            + ("" if "certificate" in endpoint else 'certificate = "self-signed"\n')
            + f"{endpoint}\n{extra}\n"
            + table(self.variant.engines.client)
        )
        process = self.run("client", settings, name)
        return Client(self, name, settings, self.folder / f"{name}-state", process)

    def report(self) -> None:
        """Print what every process has said, for a test that fails."""
        for process in self.processes:
            text = f"== {process.name}\n{process.printed()}{process.logged()[-20_000:]}\n"
            sys.stdout.write(text)

    def end(self) -> None:
        """End every process that is still running."""
        for process in self.processes:
            if process.popen.poll() is None:
                process.kill()


@contextmanager
def new_world(
    folder: Path, agents_host: str = "127.0.0.1", variant: Variant = ASKED
) -> Iterator[World]:
    """Return an empty world that ends with the block."""
    world = World(folder, agents_host, variant)
    try:
        yield world
    finally:
        world.end()
