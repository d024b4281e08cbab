"""How a line of the log looks."""

import io
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunnel.log import Log, clipped, get_log
from tunnel.runtime.logs import set_up_logs
from tunnel.settings.values import LogSettings


@pytest.fixture(autouse=True)
def _root() -> Iterator[None]:
    """Leave the root logger as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(settings: LogSettings, *, exception: BaseException | None = None) -> list[str]:
    """Return what one error in a bound log looks like."""
    output = io.StringIO()
    set_up_logs(settings, output)
    log: Log = get_log("tunnel.relay.front").bind(peer="192.0.2.1:4")
    log.error("went wrong", name='a "b"', exception=exception)
    return output.getvalue().splitlines()


def test_text_has_the_message_and_the_fields() -> None:
    (line,) = lines(LogSettings(format="text"))
    assert line.endswith('Z ERROR relay.front went wrong peer=192.0.2.1:4 name="a \\"b\\""')


def test_json_has_one_object_a_line() -> None:
    (line,) = lines(LogSettings(format="json"))
    row = json.loads(line)
    assert (row["level"], row["message"], row["peer"]) == ("error", "went wrong", "192.0.2.1:4")


def test_json_has_several_names_as_a_list() -> None:
    output = io.StringIO()
    set_up_logs(LogSettings(format="json"), output)
    get_log("tunnel").info("registered", names=["a.example", "b.example"])
    assert json.loads(output.getvalue())["names"] == ["a.example", "b.example"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_bug_comes_with_its_traceback(form: str) -> None:
    assert "ZeroDivisionError" in "\n".join(
        lines(LogSettings(format=form), exception=ZeroDivisionError())
    )


def test_a_line_break_cannot_forge_a_line() -> None:
    output = io.StringIO()
    set_up_logs(LogSettings(format="text"), output)
    get_log("tunnel").warning("came", software="x\n2026-01-01 ERROR forged")
    assert len(output.getvalue().splitlines()) == 1


def test_a_stanza_is_shown_as_it_is_to_be_pasted() -> None:
    output = io.StringIO()
    set_up_logs(LogSettings(format="text"), output)
    get_log("tunnel").warning("to admit it, add", stanza='[clients.x]\nnames = ["a"]')
    assert output.getvalue().splitlines()[1:] == ["[clients.x]", 'names = ["a"]']


def test_below_the_level_nothing_is_written() -> None:
    output = io.StringIO()
    set_up_logs(LogSettings(level="error"), output)
    get_log("tunnel").warning("not this")
    assert not output.getvalue()


def test_a_peers_string_is_cut() -> None:
    assert clipped("x" * 500) == "x" * 128


def test_a_peers_escapes_reach_no_terminal() -> None:
    output = io.StringIO()
    set_up_logs(LogSettings(format="text"), output)
    get_log("tunnel").warning("came", software="\x1b[31mred")
    assert "\x1b" not in output.getvalue()


def written(path: Path, form: str, environment: dict[str, str], journal: str) -> str:
    """Return what reaches `path`, as stderr, of one warning."""
    with path.open("w") as stderr:
        set_up_logs(
            LogSettings(format=form),
            stderr,
            identifier="tunnel-client",
            environment=environment,
            journal=journal,
        )
        get_log("tunnel.client").warning("came", name="a b")
    return path.read_text()


def test_journald_is_spoken_where_stderr_is_the_journal(tmp_path: Path) -> None:
    stderr = tmp_path / "stderr"
    stderr.touch()
    status = stderr.stat()
    given = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(f"{tmp_path}/socket")
        assert not written(stderr, "auto", given, f"{tmp_path}/socket")
        entry = journal.recv(1 << 16).splitlines()
    assert {b'MESSAGE=client came name="a b"', b"SYSLOG_IDENTIFIER=tunnel-client"} < set(entry)


@pytest.mark.parametrize("form", ["auto", "text", "json"])
def test_elsewhere_it_is_not(form: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(f"{tmp_path}/socket")
        line = written(tmp_path / "stderr", form, {"JOURNAL_STREAM": "1:1"}, f"{tmp_path}/socket")
    assert line.startswith("{" if form == "json" else "20")


def test_journald_has_priorities_where_there_is_no_journal(tmp_path: Path) -> None:
    line = written(tmp_path / "stderr", "journald", {}, f"{tmp_path}/none")
    assert line == '<4>client came name="a b"\n'


def test_the_format_that_is_asked_for_is_the_one_in_the_journal_too(tmp_path: Path) -> None:
    stderr = tmp_path / "stderr"
    stderr.touch()
    given = {"JOURNAL_STREAM": f"{stderr.stat().st_dev}:{stderr.stat().st_ino}"}
    assert json.loads(written(stderr, "json", given, f"{tmp_path}/none"))["name"] == "a b"


def test_who_is_replaced_keeps_no_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(f"{tmp_path}/socket")
        written(tmp_path / "stderr", "journald", {}, f"{tmp_path}/socket")
        before = len(os.listdir("/proc/self/fd"))
        written(tmp_path / "stderr", "text", {}, f"{tmp_path}/socket")
        assert len(os.listdir("/proc/self/fd")) == before - 1
