"""Aligned tables for people; programs use --json."""

from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

Pad = Callable[[str, int], str]

_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"


def is_coloured(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Say whether emphasis may be written: on a terminal, unless NO_COLOR is set (no-color.org)."""
    dumb = environment.get("TERM") == "dumb"
    return stream.isatty() and not environment.get("NO_COLOR") and not dumb


def format_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    coloured: bool = False,
    figures: Mapping[str, int] = {},
) -> str:
    """Return the rows below their headings, columns aligned, one line each.

    `figures` are the headings of columns that are aligned on the right, each with the least width
    that it has whatever the figures are. Characters that a terminal would obey are written as
    escapes.
    """
    lines = [[printable(cell) for cell in row] for row in (headings, *rows)]
    columns = zip(headings, zip(*lines, strict=True), strict=True)
    widths = [max(figures.get(word, 0), *map(len, column)) for word, column in columns]
    pads = [str.rjust if word in figures else str.ljust for word in headings]
    first, *rest = (_format_row(line, widths, pads) for line in lines)
    return "\n".join([f"{_BOLD}{first}{_PLAIN}" if coloured else first, *rest]) + "\n"


def _format_row(cells: Sequence[str], widths: Sequence[int], pads: Sequence[Pad]) -> str:
    padded = (pad(cell, width) for pad, cell, width in zip(pads, cells, widths, strict=True))
    return "  ".join(padded).rstrip()


def printable(cell: str) -> str:
    """Return a text without characters that a terminal would obey: they become escapes."""
    return cell if cell.isprintable() else ascii(cell)[1:-1]
