"""The running program, as a verb reaches it: HTTP/1.1 on its control socket.

Imports next to nothing: a verb has to answer at once.
"""

import json
import os
import socket
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tunnel.admin import NOTE, SOCKET

ANSWER_TIMEOUT = 10.0  # seconds from connecting to the last byte
ANSWER_LIMIT = 64 << 20  # bytes
CHUNK = 1 << 18
SERVICES = Path("/run"), Path("/var/lib")  # where units have their directories
INSTANCES = "clients"  # the folder whose NAME.toml are those of tunnel-client@NAME
PATH_LIMIT = 107  # bytes of a socket's path, unix(7)


class Unreachable(Exception):  # noqa: N818 - what is said is that nobody answers
    """There is no running program to be asked, or none that we may ask."""


class Declined(Exception):  # noqa: N818 - it answered, and said no
    """The running program cannot do what it was asked to; `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class Running:
    """A running program at the end of its control socket."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, page: str, *, timeout: float = ANSWER_TIMEOUT) -> Any:
        """Return the JSON value of a page; raises Unreachable, Declined."""
        return _value(*self.exchange("GET", page, timeout=timeout))

    def post(
        self, page: str, members: Mapping[str, object] = {}, *, timeout: float = ANSWER_TIMEOUT
    ) -> Any:
        """Have something done; returns what is said of it, and raises as `get` does."""
        return _value(*self.exchange("POST", page, json.dumps(members).encode(), timeout=timeout))

    def exchange(
        self, method: str, page: str, body: bytes = b"", *, timeout: float = ANSWER_TIMEOUT
    ) -> tuple[int, str]:
        """Return status and text of an answer; raises Unreachable."""
        head = f"{method} {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode("ascii") + body
        deadline = time.monotonic() + timeout
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(timeout)
                sock.connect(str(self.path))
                _limit(sock, deadline)
                sock.sendall(request)
                answer = _read(sock, deadline)
        except TimeoutError:
            raise Unreachable(f"{self.path}: no answer within {timeout:g} s") from None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise Unreachable(f"{self.path}: {reason}{_advice(error)}") from None
        head_of_answer, blank, content = answer.partition(b"\r\n\r\n")
        status = head_of_answer[9:12]
        if not answer:
            raise Unreachable(f"{self.path}: it has ended, or is ending, without an answer")
        if not head_of_answer.startswith(b"HTTP/1.1 ") or not status.isdigit():
            raise Unreachable(f"{self.path}: what answers there is no tunnel")
        if not blank or len(content) < _length(head_of_answer):
            raise Unreachable(f"{self.path}: it has ended in the middle of its answer")
        return int(status), content.decode(errors="replace")


def _read(sock: socket.socket, deadline: float) -> bytes:
    answer = bytearray()
    while len(answer) < ANSWER_LIMIT:
        _limit(sock, deadline)
        piece = sock.recv(CHUNK)
        if not piece:
            break
        answer += piece
    return bytes(answer)


def _length(head: bytes) -> int:
    """Return how long an answer is to be, 0 where its head does not say."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and value.strip().isdigit():
            return int(value)
    return 0


def _limit(sock: socket.socket, deadline: float) -> None:
    """Let the next call last until `deadline` at most; raises TimeoutError once that has come."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    sock.settimeout(left)


def _advice(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return " (only the service's user, its group and root may ask)"
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return " (not running, or its socket is elsewhere: say -c FILE or --socket PATH)"
    return ""


def _value(status: int, text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        raise Unreachable("the answer is not JSON") from None
    if not isinstance(value, dict):
        raise Unreachable("the answer is not a JSON object")
    if status >= 400:
        raise Declined(status, str(value.get("error", "no reason was given")))
    return value


def running(program: str, arguments: Namespace) -> Running:
    """Return the program that the flags speak of, whether it runs or not.

    Raises SettingsError, OSError for a file that cannot be read.
    """
    if arguments.socket is not None:
        return Running(arguments.socket)
    places = list(_places(program, arguments.config, arguments.verb))
    return Running(next((place for place in places if _may_be(place)), places[0]))


def _may_be(path: Path) -> bool:
    """Say whether a socket is there, or in a directory that is closed to us: connecting tells."""
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _places(program: str, config: Path | None, verb: str) -> Iterator[Path]:
    """Yield where the socket may be, likeliest first.

    A reload may be what is to move it: then settings only say where it will be. Only a reload is
    taken further, as it cannot hurt a program whose settings these are not.
    """
    written, state_dir, defaults = None, None, list(_default_directories(program, config))
    if config is not None:
        from tunnel.cli.control_socket import socket_in_settings  # noqa: PLC0415 - loads TOML

        written, state_dir = socket_in_settings(program, config)
        if written is not None:
            yield written
            if verb != "reload":
                return
        if runtime := os.environ.get("RUNTIME_DIRECTORY"):  # a unit's own ExecReload, say
            yield Path(runtime.split(":")[0]) / SOCKET
    directories = [] if state_dir is None else [state_dir]
    if state_dir is None or state_dir in defaults:
        directories += defaults
    yield from (directory / SOCKET for directory in directories)
    if verb == "reload":
        yield from filter(None, map(_noted_in, directories))


def _default_directories(program: str, config: Path | None) -> Iterator[Path]:
    """Yield ours, then those of a service, which are not in the environment of its operator."""
    for variable in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY"):
        directory = os.environ.get(variable, "").split(":")[0]  # systemd may list several
        if directory:
            yield Path(directory)
    name = f"tunnel-{program}"
    if program == "client" and config is not None and config.absolute().parent.name == INSTANCES:
        # Never those of tunnel-client, which may run beside it.
        yield from (place / f"{name}-{config.stem}" for place in SERVICES)
        return
    yield Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), name)
    yield from (place / name for place in SERVICES)


def _noted_in(directory: Path) -> Path | None:
    """Return where a running program has noted that its socket is."""
    try:
        with (directory / NOTE).open("rb") as note:
            path = note.read(PATH_LIMIT + 1)
    except OSError:
        return None
    is_path = path.startswith(b"/") and len(path) <= PATH_LIMIT and b"\0" not in path
    return Path(os.fsdecode(path)) if is_path else None
