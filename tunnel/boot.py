"""What a zipapp runs first: it unpacks itself where it may, then calls its entry point.

scripts/build puts this file into the archives as `__main__.py`; nothing else imports it. It
imports nothing of ours, and it parses on Python 3.6, so that an old Python is refused in one
sentence and not with a traceback.
"""

import sys

if sys.version_info < (3, 11):
    running = ".".join(map(str, sys.version_info[:2]))
    sys.exit(f"{sys.argv[0]}: needs Python 3.11 or newer; this is Python {running}")

import signal

if __name__ == "__main__":
    # A reload may be asked for before the program has its handler; the default action would kill.
    # The shell at the beginning of the archive has done so already, unless Python was named.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import NamedTuple, NoReturn
from zipimport import zipimporter

CANNOT_CREATE = 73  # EX_CANTCREAT of sysexits.h
CANNOT_READ = 74  # EX_IOERR

_KEY_LENGTH = 16
_HEX_DIGITS = frozenset("0123456789abcdef")
_ATTEMPTS = 10  # each is lost only if some other version starts within microseconds


class Place(NamedTuple):
    """What an archive is started on."""

    python: str  # such as CPython 3.11
    machine: str
    libc: str  # such as glibc 2.36

    @classmethod
    def here(cls) -> "Place":
        """Return the Python and the machine that run this."""
        name = {"cpython": "CPython"}.get(sys.implementation.name, sys.implementation.name)
        threads = "t" if "t" in getattr(sys, "abiflags", "") else ""  # no GIL: another ABI
        bits = "" if sys.maxsize > 1 << 32 else " with 32 bits"  # a 64-bit kernel may run it
        try:
            libc = os.confstr("CS_GNU_LIBC_VERSION")
        except (OSError, ValueError):  # only glibc knows this name
            libc = None
        return cls(
            f"{name} 3.{sys.version_info[1]}{threads}",
            f"{os.uname().machine}{bits}",
            libc or "another C library",
        )


class Bundle:
    """The archive this process was started from; what it is to run lies below `site-packages/`.

    `key` tells one content from another; `sizes` has the bytes of every file to unpack, which are
    all but the extension modules of other Pythons.
    """

    def __init__(self, archive: str) -> None:
        reader = zipimporter(archive)
        shiv = json.loads(reader.get_data(os.path.join(archive, "environment.json")))
        about = json.loads(reader.get_data(os.path.join(archive, "bundle.json")))
        self.archive = archive
        self.entry: str = shiv["entry_point"]
        self.key: str = shiv["build_id"][:_KEY_LENGTH]
        self.minors: list[int] = about["minors"]
        self.machine: str = about["machine"]
        self.glibc: list[int] = about["glibc"]
        self.sizes: dict[str, int] = {
            name: size for name, size in about["sizes"].items() if _is_ours(name)
        }

    def unmet(self, place: Place) -> str:
        """Return why this cannot run at `place`; empty if it can."""
        pythons = [f"CPython 3.{minor}" for minor in self.minors]
        if place.python not in pythons:
            return f"is built for {', '.join(pythons)}; this is {place.python}"
        if place.machine != self.machine:
            return f"is built for {self.machine}; this is {place.machine}"
        name, _, version = place.libc.partition(" ")
        if name != "glibc" or [int(part) for part in version.split(".")[:2]] < self.glibc:
            needed = ".".join(map(str, self.glibc))
            return f"needs glibc {needed} or newer; this is {place.libc}"
        return ""

    def unpack(self, prefix: str) -> str:
        """Return the directory at `prefix` plus `key`, complete; raises OSError where it cannot be.

        Whatever an interrupted start, a full disk or a cleaner of old files has left is mended.
        Any number of processes may do so at once: each file appears whole, by being renamed.
        """
        directory = prefix + self.key
        hold = _hold(directory)
        try:
            damaged = self._damaged(directory)
            if damaged:
                self._mend(directory, damaged)
        except OSError:
            os.close(hold)
            raise
        clear_out(prefix, directory)
        return directory

    def _damaged(self, directory: str) -> list[str]:
        return [name for name in self.sizes if _size(directory, name) != self.sizes[name]]

    def _mend(self, directory: str, names: list[str]) -> None:
        import shutil  # noqa: PLC0415 - not needed by a warm start
        import zipfile  # noqa: PLC0415 - not needed by a warm start
        import zlib  # noqa: PLC0415 - not needed by a warm start

        try:
            with zipfile.ZipFile(self.archive) as archive:
                for name in names:
                    _write(os.path.join(directory, name), archive.read(f"site-packages/{name}"))
        except (zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(str(error)) from error
        except OSError:
            if len(names) == len(self.sizes):  # all of it is ours: leave no full disk behind
                shutil.rmtree(directory, ignore_errors=True)
            raise


def _is_ours(name: str) -> bool:
    tag = sys.implementation.cache_tag  # such as cpython-311
    return ".cpython-" not in name or f".{tag}-" in name


def _hold(directory: str) -> int:
    """Make `directory` and take a shared lock on it, which keeps it there for all the process.

    Raises OSError if another user may write there, or if nothing may be executed from there.
    """
    for _ in range(_ATTEMPTS):
        with suppress(FileNotFoundError):  # another version cleared it out before it was locked
            os.makedirs(directory, mode=0o755, exist_ok=True)
            hold = _lock(directory)
            if _is_at(directory, hold):
                return hold
            os.close(hold)
    raise FileNotFoundError(f"{directory} is deleted time and again")


def _lock(directory: str) -> int:
    hold = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(hold)
        if status.st_uid not in {0, os.geteuid()} or status.st_mode & 0o022:
            raise PermissionError("another user may write there")
        if os.fstatvfs(hold).f_flag & os.ST_NOEXEC:
            raise PermissionError("it is mounted noexec")
        fcntl.flock(hold, fcntl.LOCK_SH)
    except OSError:
        os.close(hold)
        raise
    return hold


def _is_at(directory: str, hold: int) -> bool:
    try:
        return os.path.samestat(os.stat(directory), os.fstat(hold))
    except FileNotFoundError:
        return False


def _size(directory: str, name: str) -> int:
    try:
        return os.stat(os.path.join(directory, name)).st_size
    except OSError:
        return -1


def _write(path: str, content: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.urandom(4).hex()}"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def clear_out(prefix: str, keep: str) -> None:
    """Delete what other versions unpacked at `prefix`, unless a process holds it.

    Every start does so: while an update was unpacked, what it replaces was most likely running.
    """
    parent, beginning = os.path.split(prefix)
    try:
        names = os.listdir(parent)
    except OSError:  # may be entered, but not listed
        return
    for name in names:
        key = name[len(beginning) :]
        is_copy = name.startswith(beginning) and len(key) == _KEY_LENGTH and set(key) <= _HEX_DIGITS
        directory = os.path.join(parent, name)
        if is_copy and directory != keep:
            with suppress(OSError):  # in use, or not ours
                _remove(directory)


def _remove(directory: str) -> None:
    import shutil  # noqa: PLC0415 - not needed by a warm start

    hold = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory)
    finally:
        os.close(hold)


def prefixes(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield where to try, best first; in directories that all users share, one prefix per user."""
    for variable in ("SHIV_ROOT", "CACHE_DIRECTORY", "XDG_CACHE_HOME"):
        root = environment.get(variable, "").split(":")[0]  # systemd may list several
        if root:
            yield os.path.join(os.path.abspath(root), "quic-tunnel-")
    home = environment.get("HOME", os.path.expanduser("~"))  # of the user database if unset
    if os.path.isabs(home) and os.path.isdir(home):  # a home that is missing is not ours to make
        yield os.path.join(home, ".cache", "quic-tunnel-")
    for root in (environment.get("TMPDIR", ""), "/tmp", "/var/tmp"):  # noqa: S108 - see _hold
        if root:
            yield os.path.join(os.path.abspath(root), f"quic-tunnel-{os.geteuid()}-")


def settle(bundle: Bundle, environment: Mapping[str, str]) -> str:
    """Return the directory with the complete content of `bundle`; exits where there is none."""
    refusals = []
    for prefix in prefixes(environment):
        try:
            return bundle.unpack(prefix)
        except OSError as error:
            refusals.append(f"{os.path.dirname(prefix)}: {error.strerror or error}")
    raise _refusal(f"cannot unpack itself ({'; '.join(refusals)}); set SHIV_ROOT", CANNOT_CREATE)


def start(archive: str) -> NoReturn:
    """Run the program in `archive`, and exit as it says; without a word if it is interrupted."""
    try:
        sys.exit(_run(archive))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _run(archive: str) -> int:
    try:
        bundle = Bundle(archive)
        unmet = bundle.unmet(Place.here())
        if unmet:
            raise _refusal(unmet, 1)
        sys.path[0] = settle(bundle, os.environ)
    except (OSError, ImportError, ValueError) as error:
        raise _refusal(f"is damaged: {error}", CANNOT_READ) from error
    module, _, function = bundle.entry.partition(":")
    status: int = getattr(import_module(module), function)()
    return status


def _refusal(sentence: str, status: int) -> SystemExit:
    sys.stderr.write(f"{sys.argv[0]}: {sentence}\n")
    return SystemExit(status)


if __name__ == "__main__":
    start(sys.path[0])
