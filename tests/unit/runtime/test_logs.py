"""How a line of the log looks."""

import io
import json
import logging
from collections.abc import Iterator

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
