"""What the journal gets of a line, and who gets it where the journal does not."""

import fcntl
import io
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tunnel.log import get_log
from tunnel.runtime.journald import (
    JournalHandler,
    JournalSocket,
    encoded,
    field_name,
    leads_to_journal,
    priority,
)
from tunnel.runtime.logs import LineFormatter

Entry = dict[str, list[str]]
LARGE = "x" * (1 << 20)  # bytes; more than any datagram


class Journal:
    """A real socket in the place of journald's."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(5)

    def receive(self) -> tuple[bytes, list[int]]:
        """Return the next datagram, and the descriptors that came with it."""
        content, descriptors, _, _ = socket.recv_fds(self._socket, 1 << 18, 4)
        return content, descriptors

    def next_entry(self) -> Entry:
        return decoded(self.receive()[0])

    def has_more(self) -> bool:
        self._socket.settimeout(0)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._socket.close()


def decoded(content: bytes) -> Entry:
    """Return the values of each field, read as https://systemd.io/JOURNAL_NATIVE_PROTOCOL says."""
    entry: Entry = {}
    while content:
        line, _, content = content.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(content[:8], "little")
            value, ending = content[8 : 8 + length], content[8 + length : 9 + length]
            assert ending == b"\n"
            content = content[9 + length :]
        entry.setdefault(name.decode(), []).append(value.decode())
    return entry


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(tmp_path / "socket")) as opened:
        yield opened


@contextmanager
def logging_to(path: str, stderr: io.TextIOBase | None = None) -> Iterator[JournalHandler]:
    """Have `tunnel` write to a journal, and otherwise to `stderr`."""
    handler = JournalHandler("tunnel-relay", stderr, path)  # type: ignore[arg-type] # any text file
    handler.setFormatter(LineFormatter())
    logger = logging.getLogger("tunnel")
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates
        handler.close()


def test_an_entry_has_the_line_and_its_fields(journal: Journal) -> None:
    with logging_to(journal.path):
        log = get_log("tunnel.relay.agents").bind(session=7, peer="192.0.2.1:4")
        log.info("registered", name="a.example")
    assert journal.next_entry() == {
        "MESSAGE": ["relay.agents registered session=7 peer=192.0.2.1:4 name=a.example"],
        "PRIORITY": ["6"],
        "SYSLOG_IDENTIFIER": ["tunnel-relay"],
        "LOGGER": ["tunnel.relay.agents"],
        "SESSION": ["7"],
        "PEER": ["192.0.2.1:4"],
        "NAME": ["a.example"],
    }


def test_a_field_without_a_value_is_left_out(journal: Journal) -> None:
    with logging_to(journal.path):
        get_log("tunnel").info("ended", code=None)
    assert "CODE" not in journal.next_entry()


@pytest.mark.parametrize(
    ("level", "expected"),
    [("DEBUG", 7), ("INFO", 6), ("WARNING", 4), ("ERROR", 3), ("CRITICAL", 2)],
)
def test_priorities_are_those_of_syslog(level: str, expected: int) -> None:
    assert priority(logging.getLevelNamesMapping()[level]) == expected


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("retry_in", "RETRY_IN"),
        ("tls-version", "TLS_VERSION"),
        ("größe", "GR_SSE"),
        ("message", "TUNNEL_MESSAGE"),
        ("priority", "TUNNEL_PRIORITY"),
        ("logger", "TUNNEL_LOGGER"),
        ("unit", "TUNNEL_UNIT"),
        ("syslog_pid", "TUNNEL_SYSLOG_PID"),
        ("_pid", "TUNNEL__PID"),
        ("2nd", "TUNNEL_2ND"),
        ("", "TUNNEL_"),
        ("x" * 100, "X" * 64),
    ],
)
def test_names_are_those_that_the_journal_keeps(key: str, name: str) -> None:
    assert field_name(key) == name


def test_a_line_break_in_a_value_forges_no_field(journal: Journal) -> None:
    with logging_to(journal.path):
        get_log("tunnel").info("came", software="x\nPRIORITY=0\n")
    entry = journal.next_entry()
    assert (entry["SOFTWARE"], entry["PRIORITY"]) == (["x\nPRIORITY=0\n"], ["6"])


def test_text_that_is_no_unicode_is_escaped() -> None:
    assert encoded([("NAME", "a\udcff")]) == b"NAME=a\\udcff\n"


def test_a_bug_comes_with_its_traceback(journal: Journal) -> None:
    with logging_to(journal.path):
        try:
            1 // 0  # noqa: B018 - for its fault
        except ZeroDivisionError as error:
            get_log("tunnel").error("went wrong", exception=error)
    entry = journal.next_entry()
    [traceback] = entry["TRACEBACK"]
    assert traceback.startswith("Traceback (most recent call last):\n")
    assert entry["MESSAGE"] == [f"tunnel went wrong\n{traceback}"]


def test_what_fits_no_datagram_comes_in_a_file_that_cannot_change(journal: Journal) -> None:
    with logging_to(journal.path):
        get_log("tunnel").info("large", content=LARGE)
    content, [descriptor] = journal.receive()
    with open(descriptor, "rb") as file:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        file.seek(0)
        assert decoded(file.read())["CONTENT"] == [LARGE]
    wanted = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    assert (content, seals & wanted) == (b"", wanted)


def test_a_large_line_leaves_no_descriptor_open(journal: Journal) -> None:
    with logging_to(journal.path):
        get_log("tunnel").info("the first opens the socket")
        before = os.listdir("/proc/self/fd")
        get_log("tunnel").info("large", content=LARGE)
        assert os.listdir("/proc/self/fd") == before


def test_without_a_journal_a_line_has_its_priority_in_front(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as stderr, logging_to(f"{tmp_path}/none", stderr):
        get_log("tunnel.relay").warning("came", peer="192.0.2.1:4", session=None)
    assert Path(stderr.name).read_text() == "<4>relay came peer=192.0.2.1:4 session=None\n"


def test_no_text_ends_a_line_to_begin_with_a_priority_of_its_own(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as stderr, logging_to(f"{tmp_path}/none", stderr):
        get_log("tunnel").info("came\0<0>forged\n<0>forged")
    assert Path(stderr.name).read_text() == "<6>tunnel came\n<6><0>forged\n<6><0>forged\n"


def test_each_of_several_names_is_a_field(journal: Journal) -> None:
    with logging_to(journal.path):
        get_log("tunnel").info("registered", names=["a.example", "b.example"])
    entry = journal.next_entry()
    assert entry["NAME"] == ["a.example", "b.example"]
    assert entry["MESSAGE"] == ["tunnel registered names=a.example,b.example"]


def test_every_line_of_a_traceback_has_its_priority_in_front(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as stderr, logging_to(f"{tmp_path}/none", stderr):
        get_log("tunnel").error("went wrong", exception=ZeroDivisionError("by\nnone"))
    lines = Path(stderr.name).read_text().splitlines()
    assert lines == ["<3>tunnel went wrong", "<3>ZeroDivisionError: by", "<3>none"]


def test_a_journal_that_begins_anew_gets_what_comes_then(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as stderr, logging_to(f"{tmp_path}/socket", stderr):
        for number in (1, 2):
            with closing(Journal(tmp_path / "socket")) as journal:
                get_log("tunnel").info("told", number=number)
                assert journal.next_entry()["NUMBER"] == [str(number)]
            Path(journal.path).unlink()
            get_log("tunnel").info("between", number=number)
    assert Path(stderr.name).read_text().count("<6>tunnel between") == 2


def test_a_full_journal_holds_nobody_up(journal: Journal, tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as stderr, logging_to(journal.path, stderr):
        for number in range(5000):
            get_log("tunnel").info("told", number=number)
    lines = Path(stderr.name).read_text().splitlines()
    taken = 0
    while journal.has_more():
        assert journal.next_entry()["NUMBER"] == [str(taken)]
        taken += 1
    rest = [f"<6>tunnel told number={number}" for number in range(taken, 5000)]
    assert (taken > 0, lines) == (True, rest)


@contextmanager
def a_full_pipe() -> Iterator[tuple[int, io.TextIOWrapper]]:
    """Yield what reads from a pipe, and what has filled it with `.`."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    while True:
        try:
            os.write(writing, b"." * 4096)
        except BlockingIOError:
            break
    os.set_blocking(writing, True)
    with open(reading, "rb", closefd=True), open(writing, "w") as stderr:
        yield reading, stderr


def drained(descriptor: int) -> str:
    """Return what is in a pipe, but for what filled it."""
    return os.read(descriptor, 1 << 20).decode().lstrip(".")


def test_where_neither_takes_a_line_it_is_counted(tmp_path: Path) -> None:
    with a_full_pipe() as (reading, stderr), logging_to(f"{tmp_path}/none", stderr):
        for _ in range(3):
            get_log("tunnel").info("lost")
        drained(reading)
        get_log("tunnel").info("heard")
        lines = drained(reading).splitlines()
    assert lines == ["<4>runtime.journald lines were lost lines=3", "<6>tunnel heard"]


def test_a_line_that_was_cut_ends_before_the_next_begins(tmp_path: Path) -> None:
    with a_full_pipe() as (reading, stderr), logging_to(f"{tmp_path}/none", stderr):
        os.read(reading, 4096)
        get_log("tunnel").info("cut", content="y" * 10_000)
        assert drained(reading)[-1] == "y"
        get_log("tunnel").info("whole")
        assert drained(reading).splitlines()[0] == ""


def test_a_reader_that_has_gone_is_no_fault(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stderr, logging_to(f"{tmp_path}/none", stderr):
        get_log("tunnel").info("told")


@pytest.mark.parametrize("stderr", [None, io.StringIO()], ids=["none", "in memory"])
def test_without_standard_error_a_line_is_lost_in_silence(
    stderr: io.StringIO | None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with logging_to(f"{tmp_path}/none", stderr):
        get_log("tunnel").info("told")
    assert capfd.readouterr() == ("", "")


def identity(stream: io.TextIOBase) -> str:
    status = os.fstat(stream.fileno())
    return f"{status.st_dev}:{status.st_ino}"


def test_a_stream_that_systemd_has_named_leads_to_the_journal(
    journal: Journal, tmp_path: Path
) -> None:
    with (tmp_path / "stderr").open("w") as stderr:
        given = {"JOURNAL_STREAM": identity(stderr)}
        assert leads_to_journal(stderr, given, journal.path)
        assert leads_to_journal(stderr, given, f"{tmp_path}/none")


def test_another_stream_does_not_where_the_journal_can_be_asked(
    journal: Journal, tmp_path: Path
) -> None:
    with (tmp_path / "stderr").open("w") as stderr:
        assert not leads_to_journal(stderr, {"JOURNAL_STREAM": "1:1"}, journal.path)
        assert leads_to_journal(stderr, {"JOURNAL_STREAM": "1:1"}, f"{tmp_path}/none")


def test_a_terminal_does_not(tmp_path: Path) -> None:
    leading, following = os.openpty()
    with open(leading, "rb", closefd=True), open(following, "w") as terminal:
        assert not leads_to_journal(terminal, {"JOURNAL_STREAM": "1:1"}, f"{tmp_path}/none")


def test_outside_systemd_nothing_does(journal: Journal, tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as stderr:
        assert not leads_to_journal(stderr, {}, journal.path)
        given = {"JOURNAL_STREAM": identity(stderr)}
    assert not leads_to_journal(stderr, given, journal.path)
    assert not leads_to_journal(io.StringIO(), given, journal.path)


def test_who_asks_for_a_socket_leaves_none_open(journal: Journal, tmp_path: Path) -> None:
    asked = JournalSocket(journal.path)
    assert (asked.is_reachable(), JournalSocket(f"{tmp_path}/none").is_reachable()) == (True, False)
    assert repr(asked) == f"<JournalSocket {journal.path} closed>"
