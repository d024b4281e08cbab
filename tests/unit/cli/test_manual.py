"""What `--help` says: everything there is, on pages that fit a terminal."""

import re
from pathlib import Path

import pytest

from tunnel.cli.arguments import daemon_parser, parse_client, parse_relay
from tunnel.cli.manual_pages import STATUSES, VERB_PAGES
from tunnel.cli.verb_flags import VERBS, verb_parser, verbs_of
from tunnel.runtime.exits import Exit

CONFIG = (Path(__file__).parents[3] / "docs" / "config.md").read_text()
PROGRAMS = ("relay", "client")
EVERY = [(program, verb) for program in PROGRAMS for verb in ("", *verbs_of(program))]
every_page = pytest.mark.parametrize(("program", "verb"), EVERY)


def page(program: str, verb: str = "") -> str:
    parser = verb_parser(program, verb) if verb else daemon_parser(program)
    return parser.format_help()


def section(text: str, heading: str) -> str:
    """Return what stands below a heading."""
    return text.partition(f"\n{heading}\n")[2].partition("\n\n")[0] + "\n"


def terms(text: str, heading: str) -> list[str]:
    """Return the first word of each row below a heading."""
    return re.findall(r"^    (\S+)", section(text, heading), re.MULTILINE)


@every_page
def test_a_page_fits_a_terminal_and_every_encoding(
    program: str, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for columns in ("20", "80", "300"):
        monkeypatch.setenv("COLUMNS", columns)
        text = page(program, verb)
        assert [line for line in text.splitlines() if len(line) > 80] == []
        assert text.isascii()


@every_page
def test_a_page_has_the_sections_of_a_man_page(program: str, verb: str) -> None:
    headings = re.findall(r"^[A-Z ]+$", page(program, verb), re.MULTILINE)
    more = ["VERBS", "FILES", "ENVIRONMENT", "EXIT STATUS", "SIGNALS"]
    between = ["EXIT STATUS"] if verb else more
    assert [heading for heading in headings if heading != "ARGUMENTS"] == [
        *("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"),
        *between,
        *("EXAMPLES", "SEE ALSO"),
    ]


@every_page
def test_a_page_describes_in_two_sentences(program: str, verb: str) -> None:
    described = section(page(program, verb), "DESCRIPTION")
    assert described.count(". ") + described.count(".\n") == 2


@every_page
def test_every_flag_is_there_with_its_meaning(program: str, verb: str) -> None:
    parser = verb_parser(program, verb) if verb else daemon_parser(program)
    for action in parser._actions:
        assert action.help
        for spelling in action.option_strings:
            shown = rf"^    (.*, )?{spelling}(,| |$)"
            assert re.search(shown, page(program, verb), re.MULTILINE)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_verb_is_there_in_a_line(program: str) -> None:
    assert terms(page(program), "VERBS") == verbs_of(program)


def test_every_verb_has_a_page() -> None:
    assert set(VERB_PAGES) == set(VERBS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_exit_status_is_there(program: str) -> None:
    assert set(map(int, terms(page(program), "EXIT STATUS"))) == {*Exit, 130, 141, 143}


def test_the_exit_statuses_are_those_of_the_documentation() -> None:
    rows = re.findall(r"^\| ([0-9, ]+) \|", CONFIG.split("### Exit status")[1], re.MULTILINE)
    documented = {int(number) for row in rows for number in row.split(",")}
    assert documented == set(STATUSES)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_docs_that_it_names_are_there(program: str) -> None:
    named = re.findall(r"docs/\w+\.md", page(program))
    root = Path(__file__).parents[3]
    assert [name for name in named if not (root / name).exists()] == []
    assert len(named) == 3


@every_page
def test_examples_are_good_usage(program: str, verb: str) -> None:
    commands = section(page(program, verb), "EXAMPLES").replace("\\\n", "")
    lines = re.findall(rf"{program}\.pyz( .*?)?(?:\)| \||$)", commands, re.MULTILINE)
    parse = {"relay": parse_relay, "client": parse_client}[program]
    for line in lines:
        parse(line.split())
    assert lines
