"""How `--help` looks: a page as man(1) would show it, made of a parser's flags and a text.

Imports nothing heavy. The text is in `tunnel.cli.manual_pages`.
"""

from argparse import Action, ArgumentParser, HelpFormatter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

WIDTH = 79  # columns; what a terminal of 80 shows without a break
INDENT = "    "
TERM_WIDTH = 22  # columns; what is explained beside it, and not below it, is shorter
EXAMPLES = "examples"  # the section whose terms are commands, explained below each

Rows = tuple[tuple[str, str], ...]
ARGUMENTS, OPTIONS = "positional arguments", "options"  # argparse's own groups


class Page(NamedTuple):
    """What a page says besides names and flags: two sentences, and what follows the flags.

    A section is rows of a term and its meaning, under the heading that is its key.
    """

    description: str
    sections: Mapping[str, Rows]


class Manual(ArgumentParser):
    """A parser whose help is a page; `summary` is what it is in half a sentence."""

    def __init__(self, prog: str, summary: str, page: Page, usage: str | None = None) -> None:
        super().__init__(
            prog=prog,
            usage=usage,
            allow_abbrev=False,
            add_help=False,
            formatter_class=_UsageFormatter,
        )
        self.color = False  # else Python 3.14 paints the usage, which is a part of the page
        self.add_argument("-h", "--help", action="help", help="show this page")
        self._summary = summary
        self._page = page

    def format_help(self) -> str:
        """Return the page."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield from _section("name", _wrapped(f"{self.prog} - {self._summary}"))
        yield from _section("synopsis", self._synopsis())
        yield from _section("description", _wrapped(self._page.description))
        yield from _flags(self)
        for heading, rows in self._page.sections.items():
            yield from _section(heading, _listed(rows, 0 if heading == EXAMPLES else TERM_WIDTH))

    def _synopsis(self) -> Iterator[str]:
        before = "usage: "
        for line in self.format_usage().splitlines():
            yield f"{INDENT}{line[len(before) :]}"


class _UsageFormatter(HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=WIDTH - len(INDENT))


def _section(heading: str, lines: Iterable[str]) -> Iterator[str]:
    yield heading.upper()
    yield from lines
    yield ""


def _flags(parser: ArgumentParser) -> Iterator[str]:
    """Yield arguments, then options: first those of no group, then each group below its title."""
    for group in parser._action_groups:  # noqa: SLF001 - argparse has no other list
        actions, title = group._group_actions, group.title or ""  # noqa: SLF001 - as above
        lines = _listed(map(_described, actions))
        if title in (ARGUMENTS, OPTIONS) and actions:
            yield from _section(title.split()[-1], lines)
        elif actions:
            yield from (f"  {title}", *lines, "")


def _described(action: Action) -> tuple[str, str]:
    """Return an argument as it is written, and what it means."""
    spellings = ", ".join(action.option_strings)
    value = "" if action.nargs == 0 else _value(action)
    return f"{spellings} {value}".strip(), (action.help or "").replace("%%", "%")


def _value(action: Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    return "|".join(map(str, action.choices)) if action.choices else action.dest.upper()


def _listed(rows: Iterable[tuple[str, str]], width: int = TERM_WIDTH) -> Iterator[str]:
    """Yield each term with its meaning beside it; below it, where it is wider than `width`."""
    margin = INDENT + (" " * width or INDENT)
    for term, meaning in rows:
        begin = f"{INDENT}{term}  ".ljust(len(margin))
        if len(begin) > len(margin):
            yield from (f"{INDENT}{line}" for line in term.splitlines())
            begin = margin
        yield from _wrapped(meaning, begin, margin)


def _wrapped(text: str, begin: str = INDENT, margin: str = INDENT) -> list[str]:
    from textwrap import wrap  # noqa: PLC0415 - only who asks for help waits for it

    return wrap(
        text,
        WIDTH,
        initial_indent=begin,
        subsequent_indent=margin,
        break_long_words=False,
        break_on_hyphens=False,
    )
