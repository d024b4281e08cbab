"""Make dist/relay.pyz and dist/client.pyz from requirements.lock and this tree (see scripts/build).

One archive serves several Python minors: the wheels for each are installed and merged. shiv packs
them; the result is packed again with our own start-up, tunnel/boot.py, and so that the same input
gives the same bytes.
"""

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "build"
DIST = ROOT / "dist"
LOCK = ROOT / "requirements.lock"
MINORS = (11, 12, 13, 14)
GLIBC = (2, 28)  # what the wheels below ask for at most
# Of these, wheels without compiled code exist beside those for one Python each.
PURE = frozenset({"charset-normalizer", "tomli"})
PROGRAMS = ("relay", "client")
# A reload may be asked for at any time, and SIGHUP would kill until Python has begun: the shell,
# which begins within a millisecond or two, has it ignored.
BEGINNING = b"""#!/bin/sh
trap '' HUP
exec python3 -I "$0" "$@"
"""
MACHINE = platform.machine()
PLATFORMS = tuple(
    f"{tag}_{MACHINE}" for tag in ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
)
# What pip and wheels note about one installation; it differs from minor to minor and run to run.
INSTALLATION_NOTES = frozenset({"RECORD", "INSTALLER", "REQUESTED", "WHEEL", "direct_url.json"})
EPOCH = "315532800"  # seconds; whatever the caller has set, shiv writes it down
EARLIEST = (1980, 1, 1, 0, 0, 0)  # the first date that a zip can hold


def main() -> None:
    """Build what is not up to date; builds at the same time wait for each other."""
    CACHE.mkdir(parents=True, exist_ok=True)
    targets = [DIST / f"{program}.pyz" for program in PROGRAMS]
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fingerprint = digest(sources())
        stamp = CACHE / "fingerprint"
        if all(map(Path.exists, targets)) and stamp.exists() and stamp.read_text() == fingerprint:
            return
        stamp.unlink(missing_ok=True)
        build(targets)
        stamp.write_text(fingerprint)


def build(targets: Iterable[Path]) -> None:
    """Write every target, each by being renamed: what runs now keeps its file."""
    DIST.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        site = Path(scratch, "site")
        shutil.copytree(third_party(), site)
        unpack_wheel(build_wheel(Path(scratch)), site)
        for target in targets:
            packed = Path(scratch, target.name)
            run_shiv(site, f"tunnel.{target.stem}.__main__:main", packed)
            finished = repack(packed, packed.with_suffix(".finished"))
            os.replace(finished, target)
            print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 2**20:.1f} MiB")


def sources() -> Iterator[Path]:
    """Yield every file that the archives are made from."""
    yield from (LOCK, ROOT / "pyproject.toml", ROOT / "README.md", ROOT / "LICENSE", Path(__file__))
    yield from (path for path in (ROOT / "tunnel").rglob("*") if is_shipped(path))


def is_shipped(path: Path) -> bool:
    """Say whether `path` is a file that belongs into an archive."""
    noted = path.name in INSTALLATION_NOTES or path.parent.name == "bin"  # scripts name this Python
    return path.is_file() and path.suffix != ".pyc" and not noted


def digest(paths: Iterable[Path]) -> str:
    """Return one hash of names, contents and the machine that it is built for."""
    total = hashlib.sha256(MACHINE.encode())
    for path in sorted(paths):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(ROOT)} {content}\n".encode())
    return total.hexdigest()


def third_party() -> Path:
    """Return the directory with the locked wheels for all minors, installed if it is not yet."""
    target = CACHE / f"site-{digest([LOCK, Path(__file__)])[:16]}"
    if not target.exists():
        for stale in CACHE.glob("site-*"):
            shutil.rmtree(stale)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            merged = Path(scratch, "merged")
            for minor in MINORS:
                merge(install(minor, Path(scratch, str(minor))), merged)
            merge(install_pure(Path(scratch, "pure")), merged)
            merged.rename(target)
    return target


def install(minor: int, target: Path) -> Path:
    """Install the locked wheels for one minor into `target`, but for those that are pure."""
    print(f"installing the wheels for Python 3.{minor}", flush=True)
    options = [option for tag in PLATFORMS for option in ("--platform", tag)]
    run_pip(lambda name: name not in PURE, target, "--python-version", f"3.{minor}", *options)
    return target


def install_pure(target: Path) -> Path:
    """Install into `target` those locked wheels that pip takes only if it is offered no others."""
    print("installing the wheels for any Python", flush=True)
    options = ("--python-version", f"3.{MINORS[0]}", "--implementation", "py", "--abi", "none")
    run_pip(PURE.__contains__, target, *options, "--platform", "any")
    return target


def run_pip(is_wanted: Callable[[str], bool], target: Path, *options: str) -> None:
    """Have pip install what is wanted of the lock into `target`."""
    with tempfile.NamedTemporaryFile("w", suffix=".lock") as wanted:
        wanted.writelines(text for name, text in locked() if is_wanted(name))
        wanted.flush()
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--target", str(target), "--only-binary=:all:", "--no-deps", "--no-compile"]
        command += ["--require-hashes", "--cache-dir", str(CACHE / "pip"), *options]
        subprocess.run([*command, "--requirement", wanted.name], check=True)


def locked() -> Iterator[tuple[str, str]]:
    """Yield the name of each requirement in the lock, and its lines."""
    for text in re.split("(?m)^(?=[A-Za-z0-9])", LOCK.read_text()):
        name, _, pinned = text.partition("==")
        if pinned:
            yield name, text


def merge(source: Path, target: Path) -> None:
    """Copy the files of `source` to `target`; one that is there already must be the same."""
    for path in filter(is_shipped, source.rglob("*")):
        copy = target / path.relative_to(source)
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        elif copy.read_bytes() != path.read_bytes():
            sys.exit(f"{path.relative_to(source)} differs between the Python versions")


def build_wheel(target: Path) -> Path:
    """Return the wheel of this tree, made below `target`."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "HATCH_QUIET": "1"})
    return next(target.glob("*.whl"))


def unpack_wheel(wheel: Path, site: Path) -> None:
    """Unpack a pure wheel into `site`, which is all that installing it comes to."""
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch)
        merge(Path(scratch), site)


def run_shiv(site: Path, entry: str, target: Path) -> None:
    """Have shiv pack `site` into `target`."""
    command = [sys.executable, "-m", "shiv", "--site-packages", str(site), "--entry-point", entry]
    command += ["--reproducible", "--uncompressed", "--output-file", str(target)]
    subprocess.run(command, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH})


def repack(packed: Path, target: Path) -> Path:
    """Write what shiv packed to `target`, with our start-up in place of its own."""
    with zipfile.ZipFile(packed) as archive:
        contents = {
            name: archive.read(name)
            for name in archive.namelist()
            if name == "environment.json" or name.startswith("site-packages/")
        }
    contents["__main__.py"] = (ROOT / "tunnel" / "boot.py").read_bytes()
    contents["bundle.json"] = json.dumps(describe(contents), sort_keys=True).encode()
    with target.open("wb") as file:
        file.write(BEGINNING)
        with zipfile.ZipFile(file, "w") as archive:
            for name in sorted(contents):
                entry = zipfile.ZipInfo(name, EARLIEST)
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, contents[name], zipfile.ZIP_DEFLATED)
    target.chmod(0o755)
    return target


def describe(contents: dict[str, bytes]) -> dict[str, object]:
    """Return what tunnel/boot.py has to know: where it can run, and the size of each file."""
    prefix = "site-packages/"
    sizes = {
        name.removeprefix(prefix): len(content)
        for name, content in contents.items()
        if name.startswith(prefix)
    }
    if hooks := [name for name in sizes if name.endswith(".pth")]:
        sys.exit(f"{hooks} would have no effect: the start-up does not read .pth files")
    return {"minors": MINORS, "machine": MACHINE, "glibc": GLIBC, "sizes": sizes}


if __name__ == "__main__":
    main()
