"""Aligned tables for people; programs use --json."""

from collections.abc import Mapping, Sequence
from typing import TextIO

_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"


def is_coloured(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Say whether emphasis may be written: on a terminal, unless NO_COLOR is set (no-color.org)."""
    dumb = environment.get("TERM") == "dumb"
    return stream.isatty() and not environment.get("NO_COLOR") and not dumb


def format_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, coloured: bool = False
) -> str:
    """Return the rows below their headings, columns aligned, one line each.

    Characters that a terminal would obey are written as escapes.
    """
    lines = [[printable(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    first, *rest = (_format_row(line, widths) for line in lines)
    return "\n".join([f"{_BOLD}{first}{_PLAIN}" if coloured else first, *rest]) + "\n"


def _format_row(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()


def printable(cell: str) -> str:
    """Return a text without characters that a terminal would obey: they become escapes."""
    return cell if cell.isprintable() else ascii(cell)[1:-1]
