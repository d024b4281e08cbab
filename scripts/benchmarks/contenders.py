"""The tunnels that are compared: ours in its ways, and whatever of the others is on PATH."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.e2e.world import ROOT, SUFFIX, WAYS, Process, Relay, World
from tests.ports import free_port

START_TIMEOUT = 20.0  # seconds
ANY_HOST = f"bench.{SUFFIX}"  # for tunnels that do not route by name


@dataclass
class Contender:
    """A running tunnel. Visitors come to `port` of loopback and ask for `host`.

    `ends_tls` says that the visitors' TLS ends at its client and not at the target. `went` returns
    how many visitors there were and how many of them came by the way that the contender is named
    after; without it there is only one way.
    """

    name: str
    port: int
    host: str
    relay: Process
    client: Process | None = None
    ends_tls: bool = False
    went: Callable[[], tuple[int, int]] | None = None

    @property
    def way(self) -> str:
        """How bulk data is sent through it."""
        return "tls" if self.ends_tls else "raw"


Place = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Site:
    """Where things run: `near()` is the relay's end, `far()` the client's.

    Clients reach relays at `relay_host`.
    """

    relay_host: str = "127.0.0.1"
    near: Place = nullcontext
    far: Place = nullcontext


@dataclass(frozen=True)
class Bench:
    """What contenders have: a place, and the port of the target at the client's end."""

    world: World
    target: int
    site: Site

    def run(self, place: Place, name: str, *command: str) -> Process:
        """Start one of the others' programs."""
        with place():
            process = Process(command, self.world.folder, name)
        self.world.processes.append(process)
        return process

    def wait_for_port(self, port: int, host: str = "127.0.0.1") -> None:
        """Wait until somebody listens on a port at the relay's end."""
        with self.site.near():
            _wait_for_port(host, port)

    def write(self, name: str, text: str) -> str:
        """Write a settings file and return its path."""
        path = self.world.folder / name
        path.write_text(text)
        return str(path)


Starter = Callable[[Bench], Contender]


def ours(way: str, *, ends_tls: bool, engine: str = "", limits: str = "") -> Starter:
    """Return what starts a relay and a client of ours, for visitors who come by `way`."""

    def start(bench: Bench) -> Contender:
        name = "-".join(filter(None, ("ours", way, engine, "tls" if ends_tls else "")))
        extra = f'[quic]\nengine = "{engine}"\n' if engine else ""
        with bench.site.near():
            relay = bench.world.relay(f"relay-{name}", extra=extra + limits)
        with bench.site.far():
            client = bench.world.client(
                relay,
                target=f"127.0.0.1:{bench.target}",
                name=name,
                options=WAYS[way],
                endpoint="" if ends_tls else 'certificate = "passthrough"',
                extra=extra,
            )
        host, port = client.host, relay.public_port
        went = partial(_went_direct, relay) if way == "direct" else None
        if went is not None:
            _wait_for_spares(relay)
        return Contender(name, port, host, relay.process, client.process, ends_tls, went)

    return start


def _wait_for_spares(relay: Relay) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not any(each["direct_spares"] for each in _status(relay)["clients"]):
        if time.monotonic() > deadline:
            raise SystemExit("bench: no direct connection waits for visitors")


def _went_direct(relay: Relay) -> tuple[int, int]:
    visitors = _status(relay)["visitors"]
    return visitors["total"], visitors["direct"]["total"] - visitors["direct"]["unanswered"]


def _status(relay: Relay) -> Any:
    return relay.world.ask("relay", "status", "-c", str(relay.settings))


def haproxy(bench: Bench) -> Contender:
    """Route by SNI, straight to the target: one hop, no tunnel, what a relay costs at least."""
    port = free_port()
    settings = bench.write(
        "haproxy.cfg",
        "global\n nbthread 1\n maxconn 4000\n"
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 1m\n timeout server 1m\n"
        " option splice-auto\n"
        f"frontend visitors\n bind 127.0.0.1:{port}\n tcp-request inspect-delay 5s\n"
        " tcp-request content accept if { req.ssl_hello_type 1 }\n"
        f" use_backend target if {{ req.ssl_sni -i {ANY_HOST} }}\n"
        f"backend target\n server one 127.0.0.1:{bench.target}\n",
    )
    process = bench.run(bench.site.near, "haproxy", "haproxy", "-db", "-f", settings)
    return Contender("haproxy", port, ANY_HOST, process)


def rathole(bench: Bench) -> Contender:
    """Rathole over TCP, without encryption of its own."""
    control, port = free_port(), free_port()
    server = bench.write(
        "rathole-server.toml",
        f'[server]\nbind_addr = "{bench.site.relay_host}:{control}"\ndefault_token = "bench"\n'
        f'[server.services.web]\nbind_addr = "127.0.0.1:{port}"\n',
    )
    client = bench.write(
        "rathole-client.toml",
        f'[client]\nremote_addr = "{bench.site.relay_host}:{control}"\ndefault_token = "bench"\n'
        f'[client.services.web]\nlocal_addr = "127.0.0.1:{bench.target}"\n',
    )
    relay = bench.run(bench.site.near, "rathole-server", "rathole", "--server", server)
    far = bench.run(bench.site.far, "rathole-client", "rathole", "--client", client)
    return Contender("rathole", port, ANY_HOST, relay, far)


def frp(protocol: str) -> Starter:
    """Return what starts frp over TCP or QUIC, with its defaults."""

    def start(bench: Bench) -> Contender:
        control, port = free_port(), free_port()
        quic = f"quicBindPort = {control}\n" if protocol == "quic" else ""
        server = bench.write(
            f"frps-{protocol}.toml",
            f'bindAddr = "{bench.site.relay_host}"\nproxyBindAddr = "127.0.0.1"\n'
            f"bindPort = {control}\n{quic}",
        )
        client = bench.write(
            f"frpc-{protocol}.toml",
            f'serverAddr = "{bench.site.relay_host}"\nserverPort = {control}\n'
            f'transport.protocol = "{protocol}"\n'
            '[[proxies]]\nname = "web"\ntype = "tcp"\nlocalIP = "127.0.0.1"\n'
            f"localPort = {bench.target}\nremotePort = {port}\n",
        )
        relay = bench.run(bench.site.near, f"frps-{protocol}", "frps", "-c", server)
        bench.wait_for_port(control, bench.site.relay_host)
        far = bench.run(bench.site.far, f"frpc-{protocol}", "frpc", "-c", client)
        return Contender(f"frp-{protocol}", port, ANY_HOST, relay, far)

    return start


def chisel(bench: Bench) -> Contender:
    """Chisel: SSH over a WebSocket."""
    control, port = free_port(), free_port()
    listen = ("--host", bench.site.relay_host, "--port", str(control))
    relay = bench.run(bench.site.near, "chisel-server", "chisel", "server", "--reverse", *listen)
    bench.wait_for_port(control, bench.site.relay_host)
    route = f"R:127.0.0.1:{port}:127.0.0.1:{bench.target}"
    far = bench.run(
        bench.site.far,
        "chisel-client",
        "chisel",
        "client",
        f"http://{bench.site.relay_host}:{control}",
        route,
    )
    return Contender("chisel", port, ANY_HOST, relay, far)


def bore(bench: Bench) -> Contender:
    """Bore: TCP without encryption; its control port is always 7835."""
    port = free_port()
    listen = ("--bind-addr", bench.site.relay_host, "--bind-tunnels", "127.0.0.1")
    relay = bench.run(bench.site.near, "bore-server", "bore", "server", *listen)
    bench.wait_for_port(7835, bench.site.relay_host)
    where = ("--to", bench.site.relay_host, "--port", str(port))
    far = bench.run(bench.site.far, "bore-client", "bore", "local", str(bench.target), *where)
    return Contender("bore", port, ANY_HOST, relay, far)


OURS: dict[str, Starter] = {
    "ours-quic": ours("quic", ends_tls=False),
    "ours-quic-tls": ours("quic", ends_tls=True),
    "ours-quic-stock-tls": ours("quic", ends_tls=True, engine="stock"),
    "ours-direct": ours("direct", ends_tls=False),
    "ours-direct-tls": ours("direct", ends_tls=True),
    "ours-h2": ours("h2", ends_tls=False),
    "ours-h2-tls": ours("h2", ends_tls=True),
}
OTHERS: dict[str, tuple[str, Starter]] = {  # and the program that has to be on PATH
    "haproxy": ("haproxy", haproxy),
    "rathole": ("rathole", rathole),
    "bore": ("bore", bore),
    "frp-tcp": ("frps", frp("tcp")),
    "frp-quic": ("frps", frp("quic")),
    "chisel": ("chisel", chisel),
}


def missing() -> list[str]:
    """Return the others that are not on PATH."""
    return [name for name, (needed, _) in OTHERS.items() if shutil.which(needed) is None]


def starters(wanted: Sequence[str]) -> dict[str, Starter]:
    """Return what starts each contender that is there; raises KeyError for an unknown name."""
    there = OURS | {name: start for name, (needed, start) in OTHERS.items() if shutil.which(needed)}
    return {name: there[name] for name in wanted} if wanted else there


def start(bench: Bench, starter: Starter) -> Contender:
    """Start a contender and wait until a visitor gets through."""
    contender = starter(bench)
    bench.wait_for_port(contender.port)
    return contender


def _wait_for_port(host: str, port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            socket.create_connection((host, port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise SystemExit(f"nobody listens on port {port}") from None
            time.sleep(0.05)
        else:
            return


@contextmanager
def target(certificate: Path, place: Place) -> Iterator[int]:
    """Run the target; yields its port."""
    command = [sys.executable, "-m", "scripts.benchmarks.target", str(certificate)]
    with place():
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with process:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()
