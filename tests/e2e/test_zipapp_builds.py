"""What scripts/build puts into the zipapps: enough for every Python, the same each time."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RELAY = ROOT / "dist" / "relay.pyz"
CLIENT = ROOT / "dist" / "client.pyz"
MINORS = {11, 12, 13, 14}
OLDEST_GLIBC = 28  # the minor of 2.28, as in Debian 10 and RHEL 8
LARGEST = 26 << 20  # bytes
INPUTS = ("tunnel", "scripts", "pyproject.toml", "requirements.lock", "README.md", "LICENSE")

pytestmark = pytest.mark.timeout(300)  # whichever comes first may have to build


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """Bring the zipapps up to date, which is quick when they are."""
    build(ROOT)


def build(tree: Path, umask: int = -1, **environment: str) -> None:
    """Build the zipapps of a tree, with these variables beside those that are set."""
    subprocess.run(
        [sys.executable, str(tree / "scripts" / "zipapps.py")],
        env={**os.environ, **environment},
        umask=umask,
        check=True,
        timeout=300,
    )


def extensions() -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each extension module in the archive."""
    with zipfile.ZipFile(RELAY) as archive:
        for name in archive.namelist():
            if name.endswith(".so"):
                yield name, archive.read(name)


def test_a_module_is_there_for_every_python_or_for_all_at_once() -> None:
    minors: dict[str, set[int]] = defaultdict(set)
    for name, _ in extensions():
        module, _, tag = name.partition(".")
        found = re.match(r"cpython-3(\d+)-", tag)
        minors[module] |= {int(found[1])} if found else MINORS
        assert found or tag == "abi3.so"
    assert {module: found for module, found in minors.items() if found != MINORS} == {}


def test_what_could_be_pure_is() -> None:
    modules = {name.partition(".")[0].split("/")[1] for name, _ in extensions()}
    assert modules == {"_cffi_backend", "aioquic", "cryptography", "pylsqpack", "uvloop"}


def test_no_module_asks_for_a_newer_glibc() -> None:
    newest = {
        name: max(map(int, re.findall(rb"GLIBC_2\.(\d+)", content)), default=0)
        for name, content in extensions()
    }
    assert {name: minor for name, minor in newest.items() if minor > OLDEST_GLIBC} == {}


@pytest.mark.parametrize("archive", [RELAY, CLIENT], ids=lambda path: path.stem)
def test_it_is_no_larger_than_it_has_to_be(archive: Path) -> None:
    assert archive.stat().st_size < LARGEST


@pytest.mark.slow
def test_where_when_and_as_whom_it_is_built_changes_no_byte(tmp_path: Path) -> None:
    odd = copy_of_the_tree(tmp_path / "one place", mtime=1_000_000_000)
    build(odd, 0o077, TZ="Asia/Kathmandu", LC_ALL="C", PYTHONUTF8="0", PYTHONHASHSEED="1")
    deep = copy_of_the_tree(tmp_path / "another" / "place" / "\u00fc", mtime=2_000_000_000)
    build(deep, 0o000, TZ="America/St_Johns", LC_ALL="C.UTF-8", SOURCE_DATE_EPOCH="1700000000")
    assert digests(odd) == digests(deep) == digests(ROOT)


def copy_of_the_tree(folder: Path, mtime: int) -> Path:
    """Copy what the zipapps are made from, for its owner only."""
    for name in INPUTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, folder / name)
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (mtime, mtime))
    return folder


def digests(tree: Path) -> list[str]:
    archives = (tree / "dist" / name for name in ("relay.pyz", "client.pyz"))
    return [hashlib.sha256(archive.read_bytes()).hexdigest() for archive in archives]
