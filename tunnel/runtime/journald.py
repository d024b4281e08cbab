"""Log lines as entries of the systemd journal, in its native protocol.

An entry has the line as MESSAGE and each of its fields as a field of the journal, such as
`SESSION=` or `PEER=`. https://systemd.io/JOURNAL_NATIVE_PROTOCOL has the format,
systemd.journal-fields(7) the names that mean something there. Nothing here waits: what the journal
does not take at once goes to standard error, behind the `<n>` of sd-daemon(3).
"""

import array
import errno
import fcntl
import logging
import os
import re
import select
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TextIO

from tunnel.log import fields_of

SOCKET = "/run/systemd/journal/socket"
LONGEST_NAME = 64  # characters; journald drops what has a longer one

_PRIORITIES = (  # from each level on: syslog(3)
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
_DEBUG = 7
# Names with a meaning of their own, and those that an entry has already.
_TAKEN = frozenset(
    {
        *("MESSAGE", "MESSAGE_ID", "PRIORITY", "CODE_FILE", "CODE_LINE", "CODE_FUNC", "ERRNO"),
        *("INVOCATION_ID", "USER_INVOCATION_ID", "DOCUMENTATION", "TID", "UNIT", "USER_UNIT"),
        *("LOGGER", "TRACEBACK"),
    }
)
_TAKEN_BEGINNINGS = ("SYSLOG_", "OBJECT_", "COREDUMP_")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_TOO_LARGE = frozenset({errno.EMSGSIZE, errno.ENOBUFS})


def priority(level: int) -> int:
    """Return the syslog priority of a level of `logging`."""
    return next((number for least, number in _PRIORITIES if level >= least), _DEBUG)


def field_name(key: str) -> str:
    """Return the name under which the journal has a field: upper case, and TUNNEL_ if it is taken.

    journald drops fields whose names have other characters, or begin with a digit or underscore.
    """
    name = re.sub("[^A-Z0-9_]", "_", key.upper())
    if name in _TAKEN or name.startswith(_TAKEN_BEGINNINGS) or not name[:1].isalpha():
        name = f"TUNNEL_{name}"
    return name[:LONGEST_NAME]


def encoded(fields: Iterable[tuple[str, str]]) -> bytes:
    """Return an entry; a value of several lines has its length in front, so that it forges none."""
    entry = bytearray()
    for name, value in fields:
        content = value.encode("utf-8", "backslashreplace")  # a lone surrogate must not raise
        if b"\n" in content:
            entry += b"%s\n%s" % (name.encode(), len(content).to_bytes(8, "little"))
        else:
            entry += b"%s=" % name.encode()
        entry += content + b"\n"
    return bytes(entry)


class JournalSocket:
    """Where the journal takes datagrams; opened with the first, and open until closed."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def __repr__(self) -> str:
        return f"<JournalSocket {self._path} {'closed' if self._socket is None else 'open'}>"

    def is_reachable(self) -> bool:
        """Say whether somebody listens there."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            return probe.connect_ex(self._path) == 0

    def send(self, entry: bytes) -> bool:
        """Say whether the journal has taken `entry`; neither waits nor raises."""
        try:
            try:
                self._send([entry])
            except OSError as error:
                if error.errno not in _TOO_LARGE:
                    return False
                self._send_as_file(entry)
        except OSError:
            return False
        return True

    def _send(self, parts: list[bytes], descriptors: Iterable[int] = ()) -> None:
        rights = array.array("i", descriptors)
        attached = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
        # Addressed anew each time: whoever binds the path after a restart gets what comes then.
        self._opened().sendmsg(parts, attached, socket.MSG_NOSIGNAL, self._path)

    def _send_as_file(self, entry: bytes) -> None:
        """Send a descriptor of `entry`; journald reads it only if it can change no more."""
        file = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with open(file, "wb") as writer:
            writer.write(entry)
            writer.flush()
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            self._send([], [file])

    def _opened(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(0)
        return self._socket

    def close(self) -> None:
        """Close the socket; the next datagram opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class PrefixedLines:
    """Standard error as systemd reads it: `<4>` in front of a line is its priority."""

    def __init__(self, stream: TextIO | None) -> None:
        self._descriptor = descriptor_of(stream)
        self._ends_within_line = False

    def write(self, number: int, text: str) -> bool:
        """Say whether all of `text` was written, each line with its prefix; never waits."""
        # To journald a NUL ends a line, too: what came after it would have a prefix of its own.
        lines = "".join(f"<{number}>{line}\n" for line in re.split("[\n\0]", text))
        content = b"\n" * self._ends_within_line + lines.encode(errors="backslashreplace")
        written = 0
        with suppress(OSError):  # nobody reads any more, or the disk is full
            while written < len(content) and self._has_room():
                chunk = content[written : written + select.PIPE_BUF]
                written += os.write(self._descriptor, chunk)
        if written:
            self._ends_within_line = content[written - 1 : written] != b"\n"
        return written == len(content)

    def _has_room(self) -> bool:
        """Say whether PIPE_BUF bytes can be written without waiting.

        O_NONBLOCK would say so too, but for everybody who has this file, such as a shell.
        """
        if self._descriptor < 0:
            return False
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(0))


def descriptor_of(stream: TextIO | None) -> int:
    """Return the descriptor that a stream writes to; -1 if it has none."""
    try:
        return -1 if stream is None else stream.fileno()
    except (OSError, ValueError):  # in memory, or closed
        return -1


class JournalHandler(logging.Handler):
    """Sends every record to the journal or, where that cannot be, to `stream`; never waits.

    What neither takes is lost, and counted: the next line that comes through is told how many.
    """

    def __init__(self, identifier: str, stream: TextIO | None, path: str = SOCKET) -> None:
        super().__init__()
        self._identifier = identifier
        self._journal = JournalSocket(path)
        self._otherwise = PrefixedLines(stream)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; never raises."""
        try:
            if self._lost and self._deliver(self._losses()):
                self._lost = 0
            if not self._deliver(record):
                self._lost += 1
        except Exception:  # noqa: BLE001 - a field that has no text, say; as every handler does it
            self.handleError(record)

    def _deliver(self, record: logging.LogRecord) -> bool:
        text = self.format(record)
        return self._journal.send(encoded(self._fields(record, text))) or self._otherwise.write(
            priority(record.levelno), text
        )

    def _losses(self) -> logging.LogRecord:
        about = {"name": __name__, "levelno": logging.WARNING, "msg": "lines were lost"}
        return logging.makeLogRecord({**about, "fields": {"lines": self._lost}})

    def _fields(self, record: logging.LogRecord, text: str) -> Iterator[tuple[str, str]]:
        yield "MESSAGE", text
        yield "PRIORITY", str(priority(record.levelno))
        yield "SYSLOG_IDENTIFIER", self._identifier
        yield "LOGGER", record.name
        if record.exc_info:
            formatter = self.formatter or logging.Formatter()
            yield "TRACEBACK", formatter.formatException(record.exc_info)
        for key, value in fields_of(record).items():
            if isinstance(value, list):  # names: a field NAME for each, so that NAME=… finds all
                yield from ((field_name(key.removesuffix("s")), str(each)) for each in value)
            elif value is not None:
                yield field_name(key), str(value)

    def close(self) -> None:
        """Close the socket."""
        self._journal.close()
        super().close()


def leads_to_journal(
    stream: TextIO | None, environment: Mapping[str, str], path: str = SOCKET
) -> bool:
    """Say whether what is written to `stream` ends in the journal, as far as one can know.

    systemd names the stream that it has given, in $JOURNAL_STREAM (systemd.exec(5)). One that is
    not that may still lead there by a detour, unless it is a terminal or there is a journal that
    could be asked directly.
    """
    descriptor = descriptor_of(stream)
    given = environment.get("JOURNAL_STREAM")
    if descriptor < 0 or not given:
        return False
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    if f"{status.st_dev}:{status.st_ino}" == given:
        return True
    return not os.isatty(descriptor) and not JournalSocket(path).is_reachable()
