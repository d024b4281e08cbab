"""Both programs as services of a Debian under systemd: their settings, their names, a visitor."""

import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.container import Container, container

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "config" / "systemd").iterdir())
RELAY, SOCKET, CLIENT = "tunnel-relay.service", "tunnel-relay.socket", "tunnel-client.service"
SHOP = "tunnel-client@shop.service"
PAGE = "served behind the tunnel"
LISTENERS = """
[listeners.agents]
kind = "agents"
listen = ["127.0.0.1:4433"]
[listeners.public]
kind = "public"
listen = ["0.0.0.0:443"]
"""
INHERITED = re.sub(r"[0-9.]+(?=:)", "fd:[::]", LISTENERS)
SUFFIX = '[suffixes."t.test"]\naccess = "open"\n'
ENDPOINT = """
[endpoints.web]
keypair = "primary"
suffix = "t.test"
target = "127.0.0.1:3000"
certificate = "self-signed"
"""


@contextmanager
def installed(folder: Path) -> Iterator[Container]:
    """Return a system with both programs, their units and a service to reach."""
    with container(folder) as system:
        for program in ("relay", "client"):
            system.put(f"/usr/local/bin/{program}.pyz", ROOT / "dist" / f"{program}.pyz", 0o755)
        for unit in UNITS:
            system.put(f"/etc/systemd/system/{unit.name}", unit)
        system.put("/srv/index.html", PAGE)
        serve = ["python3", "-m", "http.server", "3000", "--bind", "127.0.0.1", "-d", "/srv"]
        system.run("systemd-run", "--unit=web", *serve)
        yield system


def clear(machine: Container) -> None:
    """Leave nothing of ours running, no settings, no drop-in and no line of the journal."""
    units = [SOCKET, RELAY, CLIENT, SHOP]
    machine.systemctl("kill", "--signal=KILL", *units[1:], check=False)
    machine.systemctl("stop", *units)
    machine.systemctl("reset-failed")
    machine.run("sh", "-c", "rm -rf /etc/systemd/system/*.d /etc/tunnel")
    machine.systemctl("daemon-reload")
    machine.run("journalctl", "--rotate", "--vacuum-time=1s")


def configure_relay(machine: Container, listeners: str = LISTENERS, drain: str = "1s") -> None:
    """Write the settings of a relay that is open to everybody."""
    settings = f'[relay]\ndrain_timeout = "{drain}"\n{listeners}{SUFFIX}'
    machine.put("/etc/tunnel/relay.toml", settings)


def start_client(
    machine: Container,
    unit: str = CLIENT,
    settings: str = "client",
    key: str = "${STATE_DIRECTORY}/client.key",
) -> str:
    """Start a client of the relay that runs and return its host name, once it is served."""
    pin = re.findall(r"--pin (sha256:[0-9a-f]{64})", machine.journal(RELAY))[-1]
    server = f'[servers.local]\naddress = "127.0.0.1:4433"\npin = "{pin}"\n'
    keypair = f'[keypairs.primary]\nfile = "{key}"\n'
    machine.put(f"/etc/tunnel/{settings}.toml", server + keypair + ENDPOINT)
    machine.systemctl("start", unit)
    machine.wait_until(unit, "StatusText", "names served: 1 of 1")
    hosts: list[str] = re.findall(r"URL: https://([0-9a-z.]+)", machine.journal(unit))
    return hosts[-1]


def add_to(machine: Container, unit: str, service: str) -> None:
    """Give a unit a drop-in."""
    machine.put(f"/etc/systemd/system/{unit}.d/test.conf", f"[Service]\n{service}\n")
    machine.systemctl("daemon-reload")


@contextmanager
def visiting(machine: Container, host: str) -> Iterator[ssl.SSLSocket]:
    """Be connected to a host by TLS for a while."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # trust is tested elsewhere
    with machine.network():
        sock = socket.create_connection(("127.0.0.1", 443), 10)
    with sock, context.wrap_socket(sock, server_hostname=host) as visitor:
        yield visitor


def page(machine: Container, host: str) -> str:
    """Return what a host has to show."""
    with visiting(machine, host) as visitor:
        visitor.sendall(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        answer = b"".join(iter(lambda: visitor.recv(65536), b""))
    return answer.decode().partition("\r\n\r\n")[2]


def served(machine: Container, host: str, within: float = 20.0) -> str:
    """Return the page as soon as there is one."""
    deadline = time.monotonic() + within
    while True:
        try:
            return page(machine, host)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
