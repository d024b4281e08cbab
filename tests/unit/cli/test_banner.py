"""What a person at a terminal sees of an endpoint."""

import io
import re

import pytest

from tunnel.cli.banner import Banner, banner_for, qr_code

URL = "https://0123456789abcdef0123456789abcdef.t.example.org:8443"
FINDER = ["1111111", "1000001", "1011101", "1011101", "1011101", "1000001", "1111111"]
QUIET = 4  # modules around the code (ISO/IEC 18004, 6.3.8)
HALVES = {" ": "11", "\u2580": "01", "\u2584": "10", "\u2588": "00"}  # upper, lower; 1 is dark


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def modules(drawn: str) -> list[str]:
    """Return the rows of a code that was drawn in half blocks."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", drawn).splitlines()
    return ["".join(HALVES[cell][half] for cell in line) for line in lines for half in (0, 1)]


def square(rows: list[str], top: int, left: int) -> list[str]:
    return [row[left : left + 7] for row in rows[top : top + 7]]


def test_the_targets_are_told_and_how_to_stop_only_once() -> None:
    banner = Banner({"web": "127.0.0.1:3000", "api": "unix:/run/app.sock"})
    assert banner.text("web", URL) == "Forwarding to 127.0.0.1:3000; Ctrl-C to stop\n"
    assert banner.text("api", URL) == "Forwarding to unix:/run/app.sock\n"


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert "\x1b" not in Banner({"web": "unix:/\x1b[2J"}).text("web", URL)


def test_no_banner_is_written_for_a_program() -> None:
    assert banner_for(io.StringIO(), {}, {}, qr=True) is None


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_escapes_are_written_where_they_are_wanted(
    environment: dict[str, str], coloured: bool
) -> None:
    banner = banner_for(Terminal(), {"web": "127.0.0.1:3000"}, environment, qr=True)
    assert banner is not None
    banner.encoding = "utf-8"
    assert ("\x1b" in banner.text("web", URL)) is coloured


@pytest.mark.parametrize("coloured", [False, True])
def test_a_code_has_its_three_corners_on_a_light_ground(coloured: bool) -> None:
    rows = modules(qr_code(URL, "utf-8", coloured=coloured))
    size = len(rows[0]) - 2 * QUIET
    far = QUIET + size - 7
    corners = [square(rows, *at) for at in ((QUIET, QUIET), (QUIET, far), (far, QUIET))]
    assert corners == [FINDER] * 3
    assert {*"".join(rows[:QUIET])} == {"0"}


def test_a_code_is_of_what_it_is_asked_for() -> None:
    assert qr_code(URL, "utf-8", coloured=False) != qr_code(f"{URL}1", "utf-8", coloured=False)


def test_a_terminal_without_blocks_gets_a_code_that_it_can_write() -> None:
    drawn = qr_code(URL, "iso-8859-1", coloured=True)
    assert drawn.isascii()
    assert "\x1b[7m  " in drawn
