"""A Debian 12 that runs under systemd, in namespaces of its own and without a network but loopback.

Each container sees one shared tree from debootstrap, and writes to memory: whatever happens in it
is gone with it. Its mounts are in its own namespace, and it dies with the process that started it.
"""

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.system.debian import debian_root
from tests.system.network import entered

PACKAGES = ("dbus", "iproute2", "python3", "systemd", "systemd-sysv")
BOOT_TIMEOUT = 60.0  # seconds
COMMAND_TIMEOUT = 60.0
END_TIMEOUT = 15.0
LOOK_INTERVAL = 0.05
CGROUPS = Path("/sys/fs/cgroup")

# Cgroups to join, up to `--`; then the command.
_JOIN = """
while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done
shift
exec setpriv --pdeathsig KILL "$@"
"""


@dataclass
class Container:
    """A running system; `pid` is that of its systemd, seen from outside (for nsenter)."""

    name: str
    pid: int
    console: Path

    def run(
        self, *command: str, stdin: bytes | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root in it; fails with what the command said unless it returns 0."""
        entering = ["nsenter", "-t", str(self.pid), "--all", "--root", "--wd"]
        ran = subprocess.run(
            [*entering, *command],
            input=stdin or b"",
            capture_output=True,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
            check=False,
            timeout=COMMAND_TIMEOUT,
        )
        out, err = ran.stdout.decode(), ran.stderr.decode()
        if check:
            assert ran.returncode == 0, f"{command} ended with {ran.returncode}:\n{out}{err}"
        return subprocess.CompletedProcess(command, ran.returncode, out, err)

    def put(self, path: str, content: str | bytes | Path, mode: int = 0o644) -> None:
        """Write a file, its folders made where they are missing; a Path is copied."""
        match content:
            case Path():
                content = content.read_bytes()
            case str():
                content = content.encode()
        script = (
            'mkdir -p "$(dirname "$1")" && cat >"$1.new" && chmod "$2" "$1.new" && mv "$1.new" "$1"'
        )
        self.run("sh", "-c", script, "sh", path, f"{mode:o}", stdin=content)

    def read(self, path: str) -> str:
        """Return what a file holds."""
        return self.run("cat", path).stdout

    def systemctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run systemctl."""
        return self.run("systemctl", *arguments, check=check)

    def shown(self, unit: str, what: str) -> str:
        """Return one property of a unit as systemd has it now."""
        return self.systemctl("show", "--value", "-p", what, unit).stdout.strip()

    def wait_until(self, unit: str, what: str, wanted: str, timeout: float = 20.0) -> None:
        """Wait until a property of a unit contains a text."""
        deadline = time.monotonic() + timeout
        while wanted not in (last := self.shown(unit, what)):
            if time.monotonic() > deadline:
                fault = f"{unit}: {what} is {last!r}, not {wanted!r}:\n{self.journal(unit)}"
                raise AssertionError(fault)
            time.sleep(LOOK_INTERVAL)

    def journal(self, unit: str, *arguments: str) -> str:
        """Return what the journal has of a unit."""
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit, *arguments).stdout

    @contextmanager
    def network(self) -> Iterator[None]:
        """Have the calling thread, and what it starts, in the container's network for a while."""
        with entered(Path(f"/proc/{self.pid}/ns/net")):
            yield


@contextmanager
def container(folder: Path) -> Iterator[Container]:
    """Return a system that has come up; its console is written to a file in `folder`."""
    name = f"tunnel-{secrets.token_hex(4)}"
    root = debian_root("bookworm", *PACKAGES)
    console = folder / f"{name}.console"
    command = ["systemd-nspawn", "--quiet", "-D", str(root), "--volatile=overlay", "--boot"]
    command += ["--register=no", "--keep-unit", "--private-network", "--console=pipe"]
    command += [f"--machine={name}", "--link-journal=no", "--settings=no"]
    with cgroups(name) as groups, console.open("wb") as output:
        joining = ["sh", "-euc", _JOIN, "sh", *map(str, groups), "--"]
        nspawn = subprocess.Popen(
            [*joining, *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            system = Container(name, _first_process(nspawn, console), console)
            _wait_until_up(system)
            yield system
        finally:
            _end(nspawn)


def _first_process(nspawn: subprocess.Popen[bytes], console: Path) -> int:
    """Return the pid of the container's systemd, which is nspawn's only child."""
    deadline = time.monotonic() + BOOT_TIMEOUT
    while time.monotonic() < deadline and nspawn.poll() is None:
        for child in _children(nspawn.pid):
            with suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    return child
        time.sleep(LOOK_INTERVAL)
    raise AssertionError(f"the container did not start:\n{console.read_text()}")


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    return []


def _wait_until_up(system: Container) -> None:
    deadline = time.monotonic() + BOOT_TIMEOUT
    while time.monotonic() < deadline:
        if "running" in system.systemctl("is-system-running", check=False).stdout:
            return
        time.sleep(LOOK_INTERVAL)
    failed = system.systemctl("--failed", check=False)
    raise AssertionError(f"the container is not up:\n{failed.stdout}{failed.stderr}")


def _end(nspawn: subprocess.Popen[bytes]) -> None:
    """Kill the first process, with which all others go; nspawn then ends by itself."""
    for child in _children(nspawn.pid):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    try:
        nspawn.wait(END_TIMEOUT)
    except subprocess.TimeoutExpired:
        nspawn.kill()
        nspawn.wait()


@contextmanager
def cgroups(name: str) -> Iterator[list[Path]]:
    """Return new groups below those of this process, in which systemd may make its own.

    Two systems in one group would each end the other's services.
    """
    groups = [place / name for place in _own_cgroups()]
    try:
        for group in groups:
            group.mkdir()
        yield groups
    finally:
        for group in groups:
            _remove(group)


def _own_cgroups() -> list[Path]:
    """Return this process's groups in the hierarchies that systemd uses: version 2, or both."""
    places: list[Path] = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "name=systemd":
            places.append(CGROUPS / "systemd" / path.lstrip("/"))
        elif not controllers:
            hybrid = CGROUPS / "unified"
            places.append((hybrid if hybrid.exists() else CGROUPS) / path.lstrip("/"))
    return [place for place in places if place.exists()]


def _remove(group: Path) -> None:
    """Remove a group and those below it, as soon as the last of its processes is gone."""
    deadline = time.monotonic() + END_TIMEOUT
    while group.exists():
        for directory, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):  # a process is still on its way out
                os.rmdir(directory)
        assert time.monotonic() < deadline, f"{group} is still in use"
        time.sleep(LOOK_INTERVAL)
