"""Debian as it is installed: root directories made by debootstrap, and what runs in them.

A root is made once, below .cache, which takes about a minute; nothing a test runs there changes it
but for what it does below its own folder.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "debian"
PYTHONS = {"bookworm": 11, "trixie": 13}  # the minor of each release's own Python
MIRROR = "http://deb.debian.org/debian"
BOOTSTRAP_TIMEOUT = 600.0  # seconds

# $1: the root, $2: what is seen there under its own path; then the command. Runs in a mount
# namespace of its own, so that nothing has to be unmounted.
_ENTER = """
root=$1 folder=$2
shift 2
mkdir -p "$root$folder" && mount --bind "$folder" "$root$folder" &&
mount -t proc proc "$root/proc" && exec chroot "$root" "$@"
"""


def debian_root(suite: str, *packages: str) -> Path:
    """Return the root of a small Debian with these packages, made if it is not there yet."""
    made = CACHE / "-".join((suite, *sorted(packages)))
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{made.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            scratch = Path(tempfile.mkdtemp(dir=CACHE))
            try:
                bootstrap(suite, packages, scratch)
                scratch.chmod(0o755)
                scratch.rename(made)
            except BaseException:
                shutil.rmtree(scratch)
                raise
    return made


def bootstrap(suite: str, packages: Sequence[str], target: Path) -> None:
    """Make a root from the mirror, and through the proxy, that apt uses on this machine."""
    # A mount namespace of its own: what it has mounted when it fails is gone with it.
    command = [
        "unshare",
        "--mount",
        "debootstrap",
        "--variant=minbase",
        f"--include={','.join(packages)}",
    ]
    made = subprocess.run(
        [*command, suite, target, mirror()],
        env={**os.environ, **proxies()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=BOOTSTRAP_TIMEOUT,
    )
    assert made.returncode == 0, made.stdout[-4000:]


def mirror() -> str:
    """Return where apt gets Debian's main packages from."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)"]
    command += ["Created-By: Packages", "Origin: Debian", "Label: Debian", "Component: main"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return (asked.stdout.split() or [MIRROR])[0].rstrip("/")


def proxies() -> dict[str, str]:
    """Return apt's proxies under the names that debootstrap's wget knows."""
    found = {}
    for scheme in ("http", "https"):
        words = ["apt-config", "shell", "proxy", f"Acquire::{scheme}::Proxy"]
        asked = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        if asked:  # proxy='http://…'
            found[f"{scheme}_proxy"] = asked.strip().partition("=")[2].strip("'")
    return found


def entering(root: Path, folder: Path) -> list[str]:
    """Return what, put before a command, runs it in `root`, where `folder` is seen, too."""
    return ["unshare", "--mount", "sh", "-euc", _ENTER, "sh", str(root), str(folder)]
