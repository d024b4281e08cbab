"""Two network namespaces and the path between them, which may delay, lose or swallow packets.

What a thread starts or connects `inside` a namespace stays there. Needs root.
"""

import ctypes
import os
import secrets
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path as File

TUNEM = File(__file__).parents[1] / "tunem.py"
RELAY_HOST, CLIENT_HOST = "10.77.0.1", "10.77.0.2"  # what tunem gives to the two namespaces
CLONE_NEWNET = 0x40000000  # linux/sched.h
START_TIMEOUT = 10.0  # seconds

libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Have the calling thread, and the processes it starts, in a namespace for a while."""
    with entered(File("/run/netns", namespace)):
        yield


@contextmanager
def entered(namespace: File) -> Iterator[None]:
    """Do the same for a namespace that is a file, such as that of a process."""
    with File("/proc/thread-self/ns/net").open("rb") as home:
        with namespace.open("rb") as there:
            _enter(there.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(descriptor: int) -> None:
    if libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def datagrams_received(namespace: str) -> int:
    """Return how many UDP datagrams have come into a namespace so far."""
    with inside(namespace):
        lines = File("/proc/thread-self/net/snmp").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Udp:"))
    return int(values[names.index("InDatagrams")])


@dataclass(frozen=True)
class Path:
    """A path between two namespaces, by name, and the process that carries its packets."""

    relay: str
    client: str
    carrier: subprocess.Popen[str]

    def command(self, line: str) -> None:
        """Change the path: one of tunem's commands."""
        assert self.carrier.stdin is not None
        assert self.carrier.poll() is None, "the path has broken down"
        self.carrier.stdin.write(f"{line}\n")
        self.carrier.stdin.flush()


@contextmanager
def new_path(delay_ms: float, rate_mbit: float, loss_percent: float = 0.0) -> Iterator[Path]:
    """Return a path between two new namespaces; everything is gone after the block."""
    stem = secrets.token_hex(5)  # an interface is named after its namespace: 15 characters
    relay, client = f"{stem}-r", f"{stem}-c"
    numbers = (str(number) for number in (delay_ms, loss_percent, rate_mbit))
    command = [sys.executable, str(TUNEM), relay, client, *numbers]
    try:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as carrier:
            try:
                _wait_until_ready(carrier)
                yield Path(relay, client, carrier)
            finally:
                carrier.kill()
    finally:
        for namespace in (relay, client):
            subprocess.run(
                ["ip", "netns", "delete", namespace], stderr=subprocess.DEVNULL, check=False
            )


def _wait_until_ready(carrier: subprocess.Popen[str]) -> None:
    assert carrier.stdout is not None
    readable, _, _ = select.select([carrier.stdout], [], [], START_TIMEOUT)
    assert readable, "the path did not come up in time"
    assert carrier.stdout.readline() == "ready\n", "the path did not come up"
