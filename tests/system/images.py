"""Images of config/docker, built and run without a daemon by buildah, on a Debian of our own."""

import json
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import Any

from tests.e2e.world import ROOT, Process
from tests.system.debian import debian_root

BASE = "localhost/tunnel-base"
PACKAGES = ("ca-certificates", "python3", "python3-venv")
TRUSTED = "/etc/ssl/certs/ca-certificates.crt"  # here and in the base
BUILD_TIMEOUT = 400.0  # seconds
COMMAND_TIMEOUT = 60.0
USER = 65532

# $1: the root, $2: the folder for /data, $3: the user; then the command. What `docker run
# --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges` sets up.
_CONFINED = """
root=$1 data=$2 user=$3
shift 3
mount --bind "$root" "$root" && mount --rbind /dev "$root/dev" && mount -t proc proc "$root/proc"
mount --bind "$data" "$root/data" && mount -o remount,bind,ro "$root"
mount -t tmpfs -o noexec,nosuid,nodev,size=64m,mode=1777 tmpfs "$root/tmp"
exec chroot "$root" setpriv --reuid="$user" --regid=0 --clear-groups --no-new-privs \
    --inh-caps=-all --bounding-set=-all "$@"
"""


class Store:
    """Images and containers below one folder, and what runs in them."""

    def __init__(self, folder: Path) -> None:
        places = ["--root", str(folder / "root"), "--runroot", str(folder / "run")]
        self.command = ["env", "BUILDAH_ISOLATION=chroot", "buildah", *places]
        self.command += ["--storage-driver", _driver(self.command)]
        self.running: list[Contained] = []
        self._containers: dict[str, str] = {}

    def buildah(self, *words: str, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run a command of buildah and return what it printed; fails with all that it said."""
        ran = subprocess.run(
            [*self.command, *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert ran.returncode == 0, f"buildah {words}:\n{ran.stdout[-4000:]}{ran.stderr[-4000:]}"
        return ran.stdout.strip()

    def make_base(self) -> None:
        """Make an image of a small Debian, which trusts whom this machine trusts."""
        name = self.buildah("from", "scratch")
        root = debian_root("bookworm", *PACKAGES)
        self.buildah("add", "--quiet", name, str(root), "/", timeout=BUILD_TIMEOUT)
        self.buildah("add", "--quiet", name, TRUSTED, TRUSTED)
        self.buildah("commit", "--quiet", "--rm", name, BASE, timeout=BUILD_TIMEOUT)

    def build(self, target: str, *options: str) -> None:
        """Build a target of config/docker/Dockerfile on the base; health checks need the format."""
        index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple")
        given = {"BASE": BASE, "PIP_CERT": TRUSTED, "PIP_INDEX_URL": index}
        words = [
            word for name, value in given.items() for word in ("--build-arg", f"{name}={value}")
        ]
        command = [
            "build",
            "--format",
            "docker",
            "-f",
            "config/docker/Dockerfile",
            *words,
            *options,
        ]
        tag = f"tunnel-{target}"
        self.buildah(*command, "--target", target, "-t", tag, ".", timeout=BUILD_TIMEOUT)

    def new(self, target: str, data: Path) -> "Container":
        """Return a new container of an image, with a folder as its /data."""
        name = self._containers[target] = self.buildah("from", f"tunnel-{target}")
        self.buildah("config", "--volume", "/data-", name)  # else it would hide the folder
        return self.container(target, data)

    def container(self, target: str, data: Path) -> "Container":
        """Return the last container of an image, with a folder as its /data."""
        if target not in self._containers:
            return self.new(target, data)
        about = json.loads(self.buildah("inspect", "--type", "image", f"tunnel-{target}"))
        return Container(self, self._containers[target], data, about["Docker"]["config"])

    def end(self) -> None:
        """Kill whatever still runs."""
        for process in self.running:
            process.kill()
        self.running.clear()


def _driver(command: list[str]) -> str:
    """Return overlay, which copies nothing, or vfs where the kernel or the file system of the
    folder have none of it.
    """
    if wanted := os.environ.get("STORAGE_DRIVER"):
        return wanted
    asked = [*command, "--storage-driver", "overlay", "info"]
    has_overlay = subprocess.run(asked, capture_output=True, check=False).returncode == 0
    return "overlay" if has_overlay else "vfs"


@dataclass
class Container:
    """The files of one container, in which commands may be run; `config` is that of the image."""

    store: Store
    name: str
    data: Path
    config: Mapping[str, Any]

    def command(self, words: Iterable[str], environment: Mapping[str, str]) -> list[str]:
        """Return what runs a command in it as buildah does."""
        variables = [word for item in environment.items() for word in ("-e", "=".join(item))]
        place = ["run", "-v", f"{self.data}:/data", *variables, self.name, "--"]
        return [*self.store.command, *place, *words]

    def run(
        self, *words: str, environment: Mapping[str, str] = {}
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it to its end."""
        return subprocess.run(
            self.command(words, environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT,
        )

    def ask(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the image's entrypoint with arguments to its end."""
        return self.run(*self.config["Entrypoint"], *arguments, environment=environment)

    def health(self) -> int:
        """Return the status of the image's health check."""
        kind, *words = self.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        return self.run(*words).returncode

    def start(self, *arguments: str, **environment: str) -> "Contained":
        """Start the image's entrypoint."""
        command = self.command([*self.config["Entrypoint"], *arguments], environment)
        process = Contained(command, self.data.parent, self.name)
        self.store.running.append(process)
        return process

    @contextmanager
    def confined(self, user: int, environment: Mapping[str, str]) -> Iterator["Contained"]:
        """Start the entrypoint as process 1 of a namespace, for a user, on a read-only root."""
        root = self.store.buildah("mount", self.name)
        known = [*self.config["Env"], *("=".join(item) for item in environment.items())]
        words = ["env", "-i", "-C", self.config["WorkingDir"], *known, *self.config["Entrypoint"]]
        script = ["sh", "-euc", _CONFINED, "sh", root, str(self.data), str(user), *words]
        unshared = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        process = Contained([*unshared, *script], self.data.parent, f"{self.name}-confined")
        try:
            yield process
        finally:
            process.kill()
            self.store.buildah("umount", self.name)


class Contained(Process):
    """A program in a container; signals go to itself, and not to what has started it."""

    def signal(self, number: signal.Signals) -> None:
        os.kill(_innermost(self.popen.pid), number)

    def stop(self, timeout: float = 40.0) -> int:
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def mounted(self, place: str) -> list[str]:
        """Return the options of the file system that it sees at a place."""
        table = Path(f"/proc/{_innermost(self.popen.pid)}/mounts").read_text().splitlines()
        rows = [line.split() for line in table]
        return [option for row in rows if row[1] == place for option in row[3].split(",")]

    def status(self, what: str) -> str:
        """Return what the kernel says of it (proc(5), status)."""
        text = Path(f"/proc/{_innermost(self.popen.pid)}/status").read_text()
        return dict(line.split(":\t", 1) for line in text.splitlines())[what].strip()


def _innermost(pid: int) -> int:
    """Return the last of a line of processes, each the only child of the one before."""
    while True:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
        if not children:
            return pid
        [pid] = children


@contextmanager
def new_store() -> Iterator[Store]:
    """Return a store without images, which is gone after the block."""
    folder = ROOT / ".cache" / "containers"
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as made:
        store = Store(Path(made))
        try:
            yield store
        finally:
            store.end()
            store.buildah("rm", "--all")
            store.buildah("rmi", "--all", "--force")


def compose(*words: str, **environment: str) -> str:
    """Return what compose, of whichever generation is here, says of config/docker/compose.yaml."""
    has_plugin = (
        which("docker")
        and not subprocess.run(
            ["docker", "compose", "version"], capture_output=True, check=False
        ).returncode
    )
    program = ["docker", "compose"] if has_plugin else ["docker-compose"]
    file = str(ROOT / "config" / "docker" / "compose.yaml")
    return subprocess.run(
        [*program, "-f", file, *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def read_yaml(text: str) -> Any:
    """Return a document's value, as Debian's python3-yaml reads it."""
    code = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)"
    command = ["/usr/bin/python3", "-Ic", code]
    read = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return json.loads(read.stdout)
