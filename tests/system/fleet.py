"""A fleet for Ansible: two containers, a wire between them, a relay and a client host on each.

Ansible and its linter are installed as locked, into an environment of their own below .cache.
Ansible reaches a container through tests/system/ansible/enter, which stands in ssh's place.
"""

import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.system.container import Container, container

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = ROOT / "config" / "ansible"
ENTER = ROOT / "tests" / "system" / "ansible" / "enter"
LOCK = ENTER.with_name("requirements.lock")
CACHE = ROOT / ".cache"
INSTALLED = Path("collections", "ansible_collections", "quic_tunnel", "tunnel")
INSTALL = "ansible-galaxy collection install ./config/ansible"
SUFFIX = "t.test"
PAGE = "served behind the tunnel"
PLAY_TIMEOUT = 400.0  # seconds
ADDRESSES = {"eu": "10.78.0.1", "us": "10.78.0.2"}

RELAY_SETTINGS = {
    "relay": {"drain_timeout": "10s"},
    "listeners": {
        "agents": {"kind": "agents", "listen": ["0.0.0.0:4433"]},
        "public": {"kind": "public", "listen": ["0.0.0.0:443"]},
    },
    "suffixes": {SUFFIX: {"access": "listed"}},
}


def tools() -> Path:
    """Return the directory of Ansible's programs, installed if they are not yet as locked."""
    made = CACHE / f"ansible-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "ansible.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made / "complete").exists():
            for stale in CACHE.glob("ansible-*"):
                shutil.rmtree(stale)
            subprocess.run([sys.executable, "-m", "venv", str(made)], check=True)
            pip = [str(made / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
            locked = ["--quiet", "--require-hashes", "--requirement", str(LOCK)]
            subprocess.run([*pip, "install", *locked], check=True)
            (made / "complete").touch()
    return made / "bin"


def instance(name: str, **more: object) -> dict[str, object]:
    """Return a client that serves the page of its host."""
    endpoint = {
        "keypair": "primary",
        "suffix": SUFFIX,
        "target": "127.0.0.1:3000",
        "certificate": "self-signed",
    }
    settings = {"endpoints": {"page": endpoint}}
    return {"name": name, "settings": settings, "grant": {"suffixes": [SUFFIX]}, **more}


@dataclass
class Fleet:
    """Two containers, the inventory over them, and the folder that commands are run in.

    `relay` and `client` are the variables of all relays and of all clients; `instances` are those
    of each client host. What a test changes there is in the inventory from the next command on.
    """

    folder: Path
    eu: Container
    us: Container
    relay: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)
    instances: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)

    def run(self, command: str, status: int = 0) -> str:
        """Run a command of Ansible's as it is written, and return what it printed."""
        self.write_inventory()
        program, *arguments = shlex.split(command)
        done = subprocess.run(
            [tools() / program, *arguments],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PLAY_TIMEOUT,
            check=False,
        )
        assert done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}"
        self.ran.append(command)
        return done.stdout

    def play(self, name: str, *options: str, status: int = 0) -> str:
        """Run a playbook of the collection."""
        words = ["ansible-playbook", "-i", "inventory", f"quic_tunnel.tunnel.{name}", *options]
        return self.run(shlex.join(words), status)

    def environment(self) -> dict[str, str]:
        """Return what Ansible is told by variables; it writes below the folder only."""
        return {
            "PATH": f"{tools()}:{os.environ['PATH']}",
            "LC_ALL": "C.UTF-8",
            "HOME": str(self.folder),
            "ANSIBLE_HOME": str(self.folder / "home"),
            "ANSIBLE_COLLECTIONS_PATH": str(self.folder / "collections"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CHECK_MODE_MARKERS": "1",
        }

    def write_inventory(self) -> None:
        """Write the inventory: JSON, which is YAML."""
        reached = {
            "ansible_ssh_executable": str(ENTER),
            "ansible_ssh_transfer_method": "piped",
            "ansible_pipelining": True,
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        boxes = {"eu": self.eu, "us": self.us}
        relays = {
            name: {"ansible_host": str(box.pid), "relay_address": ADDRESSES[name]}
            for name, box in boxes.items()
        }
        clients = {
            f"{name}-shop": {
                "ansible_host": str(box.pid),
                "client_instances": self.instances[f"{name}-shop"],
            }
            for name, box in boxes.items()
        }
        groups = {
            "all": {"vars": reached},
            "tunnel_relays": {"hosts": relays, "vars": self.relay},
            "tunnel_clients": {"hosts": clients, "vars": self.client},
        }
        (self.folder / "inventory").mkdir(exist_ok=True)
        (self.folder / "inventory" / "hosts.yml").write_text(json.dumps(groups))

    def fingerprint(self, box: Container, name: str) -> str:
        """Return the fingerprint of an instance's key, as its machine tells it."""
        key = f"/etc/tunnel/keys/{name}/client.key"
        told = box.run("client.pyz", "id", "--json", "--primary-key", key).stdout
        [endpoint] = json.loads(told)["endpoints"]
        return str(endpoint["fingerprint"])

    def host(self, box: Container, name: str) -> str:
        """Return the name that an instance serves."""
        return f"{self.fingerprint(box, name).removeprefix('sha256:')[:32]}.{SUFFIX}"

    def sessions(self, box: Container) -> dict[str, str]:
        """Return the session of each client that a relay serves, by fingerprint."""
        asking = ["env", "RUNTIME_DIRECTORY=/run/tunnel-relay", "relay.pyz", "status", "--json"]
        status = json.loads(box.run(*asking, "-c", "/etc/tunnel/relay.toml").stdout)
        return {each["fingerprint"]: each["session"] for each in status["clients"] if each["names"]}

    @contextmanager
    def visiting(self, relay: str, host: str, timeout: float = 10.0) -> Iterator[ssl.SSLSocket]:
        """Have a visitor of a name connected through a relay."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # tested elsewhere
        with self.eu.network():
            sock = socket.create_connection((ADDRESSES[relay], 443), timeout)
        with sock, context.wrap_socket(sock, server_hostname=host) as visitor:
            yield visitor

    def page(self, relay: str, host: str) -> str:
        """Return the page that a visitor gets; raises OSError."""
        with self.visiting(relay, host) as visitor:
            return fetch(visitor, host)


def fetch(visitor: ssl.SSLSocket, host: str) -> str:
    """Ask for the page over a connection, and return it."""
    visitor.sendall(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
    answer = b"".join(iter(lambda: visitor.recv(65536), b""))
    return answer.decode().partition("\r\n\r\n")[2]


@contextmanager
def new_fleet(folder: Path) -> Iterator[Fleet]:
    """Return a fleet of bare machines, and the collection installed for whoever is to set it up."""
    with ExitStack() as stack:
        eu, us = boxes = [stack.enter_context(container(folder)) for _ in ADDRESSES]
        join(boxes)
        for box in boxes:
            box.put("/srv/index.html", PAGE)
            serve = ["python3", "-m", "http.server", "3000", "--bind", "127.0.0.1", "-d", "/srv"]
            box.run("systemd-run", "--unit=page", *serve)
        for name in ("config", "dist"):
            (folder / name).symlink_to(ROOT / name)
        fleet = Fleet(folder, eu, us)
        fleet.relay |= {"relay_program": str(ROOT / "dist/relay.pyz")}
        fleet.relay |= {"relay_settings": RELAY_SETTINGS}
        fleet.client |= {"client_program": str(ROOT / "dist/client.pyz")}
        fleet.instances |= {"eu-shop": [instance("web"), instance("other")]}
        fleet.instances |= {"us-shop": [instance("web")]}
        fleet.run(INSTALL)
        yield fleet


def join(boxes: Sequence[Container]) -> None:
    """Put a wire between two containers; it goes with them."""
    one, other = (str(box.pid) for box in boxes)
    wire = ["ip", "link", "add", "wire", "netns", one, "type", "veth"]
    subprocess.run([*wire, "peer", "name", "wire", "netns", other], check=True)
    for box, address in zip(boxes, ADDRESSES.values(), strict=True):
        box.run("ip", "address", "add", f"{address}/24", "dev", "wire")
        box.run("ip", "link", "set", "wire", "up")


def changed(played: str) -> dict[str, int]:
    """Return how many tasks have changed something, or would, on each host of a run."""
    found = re.findall(r"(?m)^(\S+) +: ok=\d+ +changed=(\d+) ", played)
    return {host: int(count) for host, count in found}
