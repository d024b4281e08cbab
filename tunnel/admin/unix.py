"""The control socket in the file system: made whole or not at all, and taken from nobody alive."""

import asyncio
import fcntl
import os
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tunnel.errors import Code, ConnectionLost, ListenFailed
from tunnel.log import get_log
from tunnel.settings.file_kinds import SOCKET_PATH_LIMIT
from tunnel.transport.accepting import BACKOFF_MAX, BACKOFF_MIN
from tunnel.transport.tcp import reason_of

MODE = 0o660  # for the service's user and its group
BACKLOG = 64
PROBE_TIMEOUT = 1.0  # seconds for a living one to take a connection

log = get_log(__name__)


class UnixListener:
    """A listening Unix socket at `path`, which is removed by `withdraw` and by `close`."""

    def __init__(self, sock: socket.socket, path: Path, inode: int) -> None:
        self._sock = sock
        self._inode = inode
        self.path = path
        self.failures = 0  # times that accepting paused, mostly for want of descriptors

    def __repr__(self) -> str:
        return f"<UnixListener {self.path}>"

    @property
    def address(self) -> str:
        """Where it listens, for an operator to read."""
        return str(self.path)

    async def accept(self) -> socket.socket:
        """Return the next connection, non-blocking. Cancel-safe; ConnectionLost after `close`."""
        loop = asyncio.get_running_loop()
        backoff = BACKOFF_MIN
        while True:
            try:
                sock, _ = await loop.sock_accept(self._sock)
            except OSError as error:
                if self._sock.fileno() < 0:
                    raise ConnectionLost("listener closed", Code.OK) from error
                self._note(error)
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, BACKOFF_MAX)
            else:
                return sock

    def _note(self, error: OSError) -> None:
        """Count it; the first is worth a warning, and all others only repeat it."""
        self.failures += 1
        tell = log.warning if self.failures == 1 else log.debug
        tell("cannot accept", path=self.path, cause=error, failures=self.failures)

    @property
    def is_found(self) -> bool:
        """Whether the path still leads here: it may have been removed, or be somebody else's."""
        with suppress(OSError):
            return os.stat(self.path, follow_symlinks=False).st_ino == self._inode
        return False

    def withdraw(self) -> None:
        """Remove the path, unless it is somebody else's by now; who has come is let in yet."""
        if self.is_found:
            with suppress(OSError):
                self.path.unlink()

    def close(self) -> None:
        """Stop listening and remove the path, unless it is somebody else's by now."""
        self.withdraw()
        self._sock.close()


def listen_unix(path: Path) -> UnixListener:
    """Listen at `path`, in place of what a process that is gone has left there.

    Raises ListenFailed, saying whether something else is there or somebody listens already.
    """
    draft = path.with_name(f".{secrets.token_hex(4)}")
    length = max(len(os.fsencode(each)) for each in (path, draft))
    if length > SOCKET_PATH_LIMIT:
        message = f"{path}: {length} bytes are too long for a socket (at most {SOCKET_PATH_LIMIT})"
        raise ListenFailed(message)
    try:
        with _claimed(path.parent):
            _require_free(path)
            return _make(path, draft)
    except OSError as error:
        raise ListenFailed(f"{path}: cannot listen there: {reason_of(error)}") from error


@contextmanager
def _claimed(directory: Path) -> Iterator[None]:
    """Let nobody else look for a free place in the directory meanwhile; raises OSError."""
    hold = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(hold)


def _require_free(path: Path) -> None:
    """Raise ListenFailed unless nothing is at `path`, or the socket of a process that is gone."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ListenFailed(f"{path}: is not a socket; it was left alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except (TimeoutError, BlockingIOError):
            pass  # its queue is full (EAGAIN, connect(2)): somebody lives
    raise ListenFailed(f"{path}: another process listens there")


def _make(path: Path, draft: Path) -> UnixListener:
    """Bind beside `path` and move there: whoever sees the socket may connect. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
        sock.bind(str(draft))
        draft.chmod(MODE)
        sock.listen(BACKLOG)
        listener = UnixListener(sock, path, os.stat(draft).st_ino)
        draft.rename(path)  # last, so that nothing is left at `path` by what fails
    except BaseException:
        sock.close()
        draft.unlink(missing_ok=True)
        raise
    return listener
