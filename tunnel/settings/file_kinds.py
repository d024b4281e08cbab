"""Kinds of value that name files, and what can be known of a file before it is used."""

import os
import stat
from pathlib import Path

from tunnel.settings.kinds import Inspect, Kind, Misfit, as_text


def _read_path(value: object, folder: Path) -> object:
    if isinstance(value, str) and "-----BEGIN" in value:
        raise Misfit("holds a key or certificate itself (expected the path of its file)")
    path = Path(as_text(value))
    if path.parts[:1] == ("~",):
        try:
            path = path.expanduser()
        except RuntimeError:
            raise Misfit(f"{path} cannot be found: this user has no home") from None
    return Path(os.path.normpath(folder / path))


def _status(path: Path, *, is_check: bool, may_be_missing: bool) -> os.stat_result | None:
    """Return the status of a regular file, or None where there is nothing to judge.

    With `is_check` a file that this user may not reach is the service user's matter.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        if may_be_missing:
            return None
        raise Misfit(f"{path} does not exist") from None
    except PermissionError:
        if is_check:
            return None
        raise Misfit(f"{path} cannot be read: permission denied") from None
    except OSError as error:
        raise Misfit(f"{path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise Misfit(f"{path} is not a regular file")
    return status


def may_exist(path: Path) -> bool:
    """Say whether a file is there, as far as this user can tell."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # such as a folder that only the service's user may enter
        return True
    return True


def _check_readable(path: Path, *, is_check: bool) -> None:
    if not is_check and not os.access(path, os.R_OK):
        raise Misfit(f"{path} cannot be read: permission denied")


def _inspect_public(path: Path, *, is_check: bool) -> None:
    if _status(path, is_check=is_check, may_be_missing=False):
        _check_readable(path, is_check=is_check)


def _secret_inspector(*, may_be_missing: bool) -> Inspect:
    def inspect(path: Path, *, is_check: bool) -> None:
        status = _status(path, is_check=is_check, may_be_missing=may_be_missing)
        if status is None:
            return
        _check_private(path, status)
        _check_readable(path, is_check=is_check)

    return inspect


def _check_private(path: Path, status: os.stat_result) -> None:
    """Refuse as ssh does: a group may read only what somebody else gave to it on purpose."""
    refused = 0o077 if status.st_uid == os.geteuid() else 0o007
    if status.st_mode & refused:
        mode = stat.S_IMODE(status.st_mode)
        raise Misfit(f"{path} is open to others (mode {mode:04o}): run chmod 600 {path}")


PATH = Kind("path", "a path", "a path", _read_path)
PUBLIC_FILE = Kind("path", "a path", "a path", _read_path, _inspect_public)
"""A file that must exist and be readable."""
SECRET_FILE = Kind("path", "a path", "a path", _read_path, _secret_inspector(may_be_missing=False))
"""A secret that must exist, for its owner alone."""
IDENTITY_FILE = Kind("path", "a path", "a path", _read_path, _secret_inspector(may_be_missing=True))
"""A secret that is made if missing."""


SOCKET_PATH_LIMIT = 107  # bytes; sun_path of unix(7) without its end


def _read_socket(value: object, folder: Path) -> object:
    path = _read_path(value, folder)
    length = len(os.fsencode(str(path)))
    if length > SOCKET_PATH_LIMIT:
        limit = f"at most {SOCKET_PATH_LIMIT}, the limit of Unix sockets"
        raise Misfit(f"{path} is {length} bytes long (expected {limit})")
    return path


SOCKET = Kind("path", "a path", "a path", _read_socket)
"""Where a Unix socket can be made."""
