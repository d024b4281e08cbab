"""What may stand on the command line. Imports nothing heavy: `--version` and `--help` end here."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from tunnel import __version__
from tunnel.cli.manual import Manual
from tunnel.cli.manual_pages import SUMMARIES, daemon_page
from tunnel.cli.once import Once
from tunnel.cli.quick_flags import add_quick_start, quick_start_of
from tunnel.cli.verb_flags import DOCTOR, VERBS, parse_verb, verb_parser, verbs_of

_ORDERING = (  # what has a meaning only where a certificate is ordered
    *("acme_email", "acme_creds_path", "acme_staging", "acme_directory", "acme_ca"),
    *("acme_renew_days", "cert_pem"),
)

_COMBINES = ("force_h2", "pool_size")  # with -c; the log flags do anyway

Check = Callable[[ArgumentParser, Namespace], None]


def parse_relay(argv: Sequence[str]) -> Namespace:
    """Return what was asked of relay.pyz; raises SystemExit (0 after --help, 2 on bad usage)."""
    return _parse("relay", argv, _check_relay)


def parse_client(argv: Sequence[str]) -> Namespace:
    """Return what was asked of client.pyz; raises SystemExit as `parse_relay` does."""
    return _parse("client", argv, _check_client)


def _check_relay(parser: ArgumentParser, arguments: Namespace) -> None:
    """End with status 2 where the flags of a quick start do not go together."""
    _check_ordering(parser, arguments, "acme_domain")
    if arguments.acme_domain is not None:
        _refuse(parser, arguments, ("tls_cert", "tls_key"), beside="acme_domain")


def _check_client(parser: ArgumentParser, arguments: Namespace) -> None:
    """End with status 2 where a quick start lacks what it cannot do without."""
    if arguments.config is None and not arguments.server:
        parser.error("a relay is needed: --server HOST, or -c FILE")
    if arguments.secondary_key is None:
        for flag in ("secondary_local", "secondary_cert_extension_hex"):
            if getattr(arguments, flag) is not None:
                parser.error(f"{_spelt(flag)} needs --secondary-key")
    _check_ordering(parser, arguments, "acme_email")


def _check_ordering(parser: ArgumentParser, arguments: Namespace, switch: str) -> None:
    """End with status 2 where flags about an authority find no order, or contradict each other."""
    given = [flag for flag in _ORDERING if getattr(arguments, flag, None) is not None]
    if getattr(arguments, switch) is None and given:
        parser.error(f"{_spelt(given[0])} needs {_spelt(switch)}")
    if arguments.acme_staging:
        _refuse(parser, arguments, ("acme_directory", "acme_ca"), beside="acme_staging")


def _refuse(
    parser: ArgumentParser, arguments: Namespace, flags: Sequence[str], *, beside: str
) -> None:
    for flag in flags:
        if getattr(arguments, flag) is not None:
            parser.error(f"{_spelt(flag)} does not go with {_spelt(beside)}")


def _spelt(dest: str) -> str:
    """Return the flag as it is written, by the name of its value."""
    return f"--{dest.replace('_', '-')}"


def _parse(program: str, argv: Sequence[str], check: Check) -> Namespace:
    verb = argv[0] if argv and not argv[0].startswith("-") else None
    if verb is not None and verb != DOCTOR:
        return parse_verb(program, verb, argv[1:])
    # The doctor examines what the program would run on, and takes the same flags.
    if verb is None:
        parser, late = daemon_parser(program), verbs_of(program)
    else:
        parser, late = verb_parser(program, verb), []
    arguments, rest = parser.parse_known_args(argv if verb is None else argv[1:])
    if rest:
        _refuse_rest(parser, rest, late)
    arguments.verb = verb
    _check_combinations(parser, arguments, program)
    check(parser, arguments)
    return arguments


def _refuse_rest(parser: ArgumentParser, rest: Sequence[str], verbs: Sequence[str]) -> NoReturn:
    """End with status 2 because of words that mean nothing where they are."""
    for word in rest:
        if word in verbs:
            parser.error(f"{word} is a verb: it comes first, before every flag")
    parser.error(f"unrecognized arguments: {' '.join(rest)}")


def daemon_parser(program: str) -> ArgumentParser:
    """Return the parser of a command line without a verb."""
    verbs = tuple((verb, VERBS[verb]) for verb in verbs_of(program))
    usage = f"{program}.pyz [-c {program}.toml] [flags] | VERB"
    parser = Manual(f"{program}.pyz", SUMMARIES[program], daemon_page(program, verbs), usage)
    parser.register("action", None, Once)
    _add_shared_flags(parser, program)
    if program == "client":
        parser.add_argument("--qr", action="store_true", help="draw each URL, on a terminal")
    add_quick_start(parser, program)
    return parser


def _add_shared_flags(parser: ArgumentParser, program: str) -> None:
    version = f"{program}.pyz {__version__}"
    parser.add_argument("--version", action="version", version=version, help="say which one it is")
    settings = parser.add_argument_group("Settings")
    add = settings.add_argument
    add("-c", dest="config", type=Path, metavar="FILE", help="settings; FILE.d/*.toml add to it")
    mode = settings.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="judge the settings and end")
    mode.add_argument(
        "--show-config", action="store_true", help="print what is in force, and whence"
    )
    add(
        "--as",
        dest="stands_for",
        type=Path,
        metavar="FILE",
        help="read -c (or --with) in its place",
    )
    add("--with", dest="content", type=Path, metavar="FILE", help="read it in the place of --as")
    log = parser.add_argument_group("Log, on standard error")
    loudness = log.add_mutually_exclusive_group()
    loudness.add_argument(
        "-v", dest="log_level", action="store_const", const="debug", help="log more"
    )
    loudness.add_argument(
        "-q", dest="log_level", action="store_const", const="warning", help="log less"
    )
    log.add_argument(
        "--log-format",
        type=_log_format,
        metavar="auto|text|json|journald",
        help="how a log line looks",
    )


def _log_format(word: str) -> str:
    if word not in ("auto", "text", "json", "journald"):
        raise ArgumentTypeError(f"{word!r} is none of auto, text, json, journald")
    return word


def _check_combinations(parser: ArgumentParser, arguments: Namespace, program: str) -> None:
    """End with status 2 where flags that were given exclude each other."""
    if arguments.config is not None:
        quick = (dest for dest in quick_start_of(program) if dest not in _COMBINES)
        extra = [dest for dest in quick if getattr(arguments, dest) is not None]
        if extra:
            parser.error(f"{_spelt(extra[0])} does not go with -c: put it into the file")
    if arguments.stands_for or arguments.content:
        _check_stand_in(parser, arguments)


def _check_stand_in(parser: ArgumentParser, arguments: Namespace) -> None:
    if arguments.config is None or not (arguments.check or arguments.show_config):
        parser.error("--as and --with go with -c and --check or --show-config")
    if arguments.stands_for is None:
        parser.error("--with needs --as, the drop-in in whose place it is read")
