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
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import NoReturn
from zipimport import zipimporter

CANNOT_CREATE = 73  # EX_CANTCREAT of sysexits.h
CANNOT_READ = 74  # EX_IOERR


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
        self.key: str = shiv["build_id"][:16]
        self.minors: list[int] = about["minors"]
        self.sizes: dict[str, int] = {
            name: size for name, size in about["sizes"].items() if _is_ours(name)
        }

    def unpack(self, prefix: str) -> str:
        """Return the directory at `prefix` plus `key`, complete; raises OSError where it cannot be.

        Whatever an interrupted start, a full disk or a cleaner of old files has left is mended.
        Any number of processes may do so at once: each file appears whole, by being renamed.
        """
        directory = prefix + self.key
        os.makedirs(directory, mode=0o755, exist_ok=True)
        hold = _hold(directory)
        try:
            damaged = self._damaged(directory)
            if damaged:
                self._mend(directory, damaged)
                clear_out(prefix, directory)
        except OSError:
            os.close(hold)
            raise
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
    """Take a shared lock on `directory`, which lasts as long as the process and keeps it there.

    Raises OSError if another user may write there, or if nothing may be executed from there.
    """
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
    """Delete what other versions unpacked at `prefix`, unless a process holds it."""
    import glob  # noqa: PLC0415 - not needed by a warm start
    import shutil  # noqa: PLC0415 - not needed by a warm start

    for directory in glob.glob(glob.escape(prefix) + "[0-9a-f]" * 16):
        if directory == keep:
            continue
        with suppress(OSError):  # in use, or not ours
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
    """Run the program in `archive`, and exit as it says."""
    try:
        bundle = Bundle(archive)
        if sys.version_info[1] not in bundle.minors:
            known = ", ".join(f"3.{minor}" for minor in bundle.minors)
            running = f"3.{sys.version_info[1]}"
            raise _refusal(f"is built for Python {known}; this is Python {running}", 1)
        sys.path[0] = settle(bundle, os.environ)
    except (OSError, ImportError, ValueError) as error:
        raise _refusal(f"is damaged: {error}", CANNOT_READ) from error
    module, _, function = bundle.entry.partition(":")
    sys.exit(getattr(import_module(module), function)())


def _refusal(sentence: str, status: int) -> SystemExit:
    sys.stderr.write(f"{sys.argv[0]}: {sentence}\n")
    return SystemExit(status)


if __name__ == "__main__":
    start(sys.path[0])
