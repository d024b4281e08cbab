"""Files that hold secrets: written atomically and for the owner alone, read only if kept so.

Everything here blocks; files are small and local.
"""

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from tunnel.errors import SettingsError

SIZE_LIMIT = 1 << 20  # bytes; no key or chain comes near, a mistaken path may lead to anything


def make_private_directory(path: Path) -> None:
    """Make `path` and its missing parents, each 0700; what exists already stays as it is."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)  # mkdir's own mode would pass through the umask


def write_private(path: Path, content: bytes) -> None:
    """Replace `path` by a file (0600) holding `content`, or leave it untouched; raises OSError."""
    draft = _write_draft(path, content)
    try:
        draft.replace(path)
    except OSError:
        draft.unlink()
        raise
    _sync_directory(path.parent)


def create_private(path: Path, content: bytes) -> None:
    """Make `path` (0600) with all of `content` at once; raises FileExistsError, OSError.

    Of two processes that create the same file one wins, and nobody ever sees half a file.
    """
    draft = _write_draft(path, content)
    try:
        path.hardlink_to(draft)  # unlike a rename, a link never replaces
    finally:
        draft.unlink()
    _sync_directory(path.parent)


def read_private(path: Path) -> bytes:
    """Return what a secret file holds.

    Raises FileNotFoundError where there is none, SettingsError where it cannot be read or where
    it is open to others.
    """
    return _read(path, _require_private)


def read_public(path: Path) -> bytes:
    """Return what a file that anybody may read holds; raises as `read_private`."""
    return _read(path, _require_plain)


def _read(path: Path, require: Callable[[Path, os.stat_result], None]) -> bytes:
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            require(path, os.fstat(file.fileno()))
            return file.read(SIZE_LIMIT)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SettingsError([f"{path}: cannot be read: {error.strerror}"]) from error


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting for the writer of a named pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _require_plain(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SettingsError([f"{path}: is not a regular file"])
    if status.st_size > SIZE_LIMIT:
        raise SettingsError([f"{path}: is too large for a key or chain ({status.st_size} bytes)"])


def _require_private(path: Path, status: os.stat_result) -> None:
    """Refuse as ssh does: a group may read only what somebody else gave to it on purpose."""
    _require_plain(path, status)
    refused = 0o077 if status.st_uid == os.geteuid() else 0o007
    if status.st_mode & refused:
        mode = stat.S_IMODE(status.st_mode)
        raise SettingsError([f"{path}: is open to others (mode {mode:04o}): run chmod 600 {path}"])


def _write_draft(path: Path, content: bytes) -> Path:
    """Return a synced file (0600) beside `path`, on the same file system, under another name."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    draft = Path(name)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # mkstemp's own mode would pass through the umask
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        draft.unlink()
        raise
    return draft


def _sync_directory(path: Path) -> None:
    """Make the directory's entries durable: a rename alone may be lost with the power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
