"""Completion for shells: scripts that know verbs, flags and their words, and ask nobody.

They are made from the parsers themselves, so that they know what these know.
"""

from argparse import Action, ArgumentParser
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tunnel.cli.arguments import daemon_parser
from tunnel.cli.verb_flags import VERBS, verb_parser, verbs_of

FILES = frozenset({"FILE", "PATH"})  # metavars of what is completed as a file


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag in all its spellings; `words` are what it may be given, where they are known."""

    spellings: tuple[str, ...]
    meaning: str
    takes_value: bool
    takes_file: bool
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What may be written after one verb, or, for the verb "", without any."""

    verb: str
    flags: tuple[Flag, ...]
    words: tuple[str, ...]  # that are no flags


def completion_script(program: str, shell: str) -> str:
    """Return the script for a shell: bash, zsh or fish."""
    return _WRITERS[shell](program, list(_vocabularies(program)))


def _vocabularies(program: str) -> Iterator[Vocabulary]:
    yield _vocabulary("", daemon_parser(program))
    for verb in verbs_of(program):
        yield _vocabulary(verb, verb_parser(program, verb))


def _vocabulary(verb: str, parser: ArgumentParser) -> Vocabulary:
    actions = parser._actions  # noqa: SLF001 - argparse has no other list
    flags = tuple(_flag(action) for action in actions if action.option_strings)
    words = (word for action in actions if not action.option_strings for word in _words(action))
    return Vocabulary(verb, flags, tuple(words))


def _words(action: Action) -> tuple[str, ...]:
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    listed = metavar.split("|") if "|" in metavar else ()
    return tuple(map(str, action.choices or listed))


def _flag(action: Action) -> Flag:
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    return Flag(
        tuple(action.option_strings),
        (action.help or "").replace("%%", "%"),
        takes_value=action.nargs != 0,
        takes_file=metavar in FILES,
        words=_words(action),
    )


def _commands(program: str) -> str:
    return f"{program}.pyz tunnel-{program}"


def _spellings(flags: Iterable[Flag]) -> list[str]:
    return list(dict.fromkeys(word for flag in flags for word in flag.spellings))


def _by_value(vocabularies: Iterable[Vocabulary]) -> tuple[list[Flag], list[Flag], list[Flag]]:
    """Return the flags whose value is a file, one of some words, or anything else."""
    flags = {flag.spellings: flag for each in vocabularies for flag in each.flags}
    valued = [flag for flag in flags.values() if flag.takes_value]
    files = [flag for flag in valued if flag.takes_file]
    chosen = [flag for flag in valued if flag.words]
    free = [flag for flag in valued if not flag.takes_file and not flag.words]
    return files, chosen, free


def _all_words(each: Vocabulary, program: str) -> list[str]:
    verbs = verbs_of(program) if not each.verb else []
    return [*verbs, *each.words, *_spellings(each.flags)]


def _bash(program: str, vocabularies: list[Vocabulary]) -> str:
    files, chosen, free = _by_value(vocabularies)
    function = f"_tunnel_{program}"
    lines = [
        f"# Completion of {program}.pyz for bash: source <({program}.pyz completion bash)",
        f"{function}() {{",
        '    local current=${COMP_WORDS[COMP_CWORD]} words=""',
        "    local previous=${COMP_WORDS[COMP_CWORD - 1]}",
        "    COMPREPLY=()",
        "    case $previous in",
        f"        {'|'.join(_spellings(files))})",
        "            compopt -o filenames",
        '            mapfile -t COMPREPLY < <(compgen -f -- "$current")',
        "            return ;;",
        *(f'        {"|".join(f.spellings)}) words="{" ".join(f.words)}" ;;' for f in chosen),
        f"        {'|'.join(_spellings(free))}) return ;;",
        "    esac",
        '    if [ -z "$words" ]; then',
        "        case $COMP_CWORD-${COMP_WORDS[1]} in",
        f'            1-*) words="{" ".join(_all_words(vocabularies[0], program))}" ;;',
        *(
            f'            *-{each.verb}) words="{" ".join(_all_words(each, program))}" ;;'
            for each in vocabularies[1:]
        ),
        f'            *) words="{" ".join(_spellings(vocabularies[0].flags))}" ;;',
        "        esac",
        "    fi",
        '    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")',
        "}",
        f"complete -o default -F {function} {_commands(program)}",
    ]
    return "\n".join(lines) + "\n"


def _zsh(program: str, vocabularies: list[Vocabulary]) -> str:
    files, chosen, free = _by_value(vocabularies)
    function = f"_tunnel_{program}"
    lines = [
        f"#compdef {_commands(program)}",
        f"# Completion of {program}.pyz for zsh: source <({program}.pyz completion zsh)",
        f"{function}() {{",
        "    case ${words[CURRENT-1]} in",
        f"        ({'|'.join(_spellings(files))}) _files; return ;;",
        *(
            f"        ({'|'.join(f.spellings)}) compadd -- {' '.join(f.words)}; return ;;"
            for f in chosen
        ),
        f"        ({'|'.join(_spellings(free))}) return ;;",
        "    esac",
        "    case $CURRENT-${words[2]} in",
        f"        (2-*) compadd -- {' '.join(_all_words(vocabularies[0], program))} ;;",
        *(
            f"        (*-{each.verb}) compadd -- {' '.join(_all_words(each, program))} ;;"
            for each in vocabularies[1:]
        ),
        f"        (*) compadd -- {' '.join(_spellings(vocabularies[0].flags))} ;;",
        "    esac",
        "}",
        f"compdef {function} {_commands(program)}",
    ]
    return "\n".join(lines) + "\n"


def _fish(program: str, vocabularies: list[Vocabulary]) -> str:
    lines = [f"# Completion of {program}.pyz for fish: {program}.pyz completion fish | source"]
    verbs = " ".join(verbs_of(program))
    for command in _commands(program).split():
        begin = f"complete -c {command}"
        lines += [
            f"{begin} -n __fish_use_subcommand -f -a {verb} -d {_quoted(VERBS[verb])}"
            for verb in verbs_of(program)
        ]
        for each in vocabularies:
            seen = f"__fish_seen_subcommand_from {each.verb or verbs}"
            condition = f"{begin} -n {_quoted(seen if each.verb else f'not {seen}')}"
            lines += [f"{condition} -f -a {_quoted(word)}" for word in each.words]
            lines += [f"{condition} {_fish_flag(flag)}" for flag in each.flags]
    return "\n".join(lines) + "\n"


def _fish_flag(flag: Flag) -> str:
    short_or_long = (
        f"-l {spelling[2:]}" if spelling.startswith("--") else f"-s {spelling[1:]}"
        for spelling in flag.spellings
    )
    value = f" -x -a {_quoted(' '.join(flag.words))}" if flag.words else " -x"
    if not flag.takes_value:
        value = ""
    elif flag.takes_file:
        value = " -r -F"
    return f"{' '.join(short_or_long)}{value} -d {_quoted(flag.meaning)}"


def _quoted(text: str) -> str:
    """Return a text in single quotes, as fish reads them."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


_WRITERS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
