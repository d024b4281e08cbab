"""Tables on and off a terminal."""

import io

from tunnel.cli.tables import format_table, is_coloured


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_columns_are_aligned_without_trailing_space() -> None:
    table = format_table(["A", "LONG"], [["wide cell", "x"], ["b", ""]])
    assert table == "A          LONG\nwide cell  x\nb\n"


def test_figures_stand_on_the_right_in_a_column_of_their_own_width() -> None:
    table = format_table(["A", "N", "B"], [["x", "1", "y"], ["x", "22", "y"]], figures={"N": 4})
    assert table == "A     N  B\nx     1  y\nx    22  y\n"


def test_a_terminal_sees_the_headings_in_bold() -> None:
    assert format_table(["A"], [["b"]], coloured=True) == "\x1b[1mA\x1b[0m\nb\n"


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert format_table(["A"], [["\x1b[2J"]]) == "A\n\\x1b[2J\n"


def test_colour_needs_a_terminal_that_may_have_it() -> None:
    assert is_coloured(Terminal(), {})
    assert not is_coloured(Terminal(), {"NO_COLOR": "1"})
    assert not is_coloured(Terminal(), {"TERM": "dumb"})
    assert not is_coloured(io.StringIO(), {})
