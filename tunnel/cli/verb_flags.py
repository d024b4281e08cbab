"""The verbs, which program has them, and what may stand after each. Imports nothing heavy."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from tunnel.cli.manual import Manual
from tunnel.cli.manual_pages import verb_page
from tunnel.cli.once import Once
from tunnel.cli.quick_flags import add_quick_start

DOCTOR = "doctor"
VERBS = {
    "init": "write commented settings",
    "keygen": "make an identity key",
    "id": "show ids, fingerprints and names",
    "status": "show how a running program fares, and why",
    "reload": "have a running program read its settings anew, all of them or nothing",
    "drain": "let a running program end in order, as SIGTERM does",
    "explain": "show how a visitor of a name would be routed, and why",
    "cert": "list the certificates of a running program, or have one renewed",
    DOCTOR: "examine all that the program depends on, and say what to do",
    "completion": "print what makes a shell complete these commands",
}
ONLY_OF = {"id": "client", "explain": "relay"}

SHELLS = ("bash", "zsh", "fish")


def verbs_of(program: str) -> list[str]:
    """Return the verbs that ``relay`` or ``client`` has."""
    return [verb for verb in VERBS if ONLY_OF.get(verb, program) == program]


def parse_verb(program: str, verb: str, argv: Sequence[str]) -> Namespace:
    """Return what was asked of a verb; raises SystemExit (0 after --help, 2 on bad usage)."""
    if verb not in verbs_of(program):
        problem = f"no such verb (known: {', '.join(verbs_of(program))})"
        ArgumentParser(prog=f"{program}.pyz {verb}", add_help=False).error(problem)
    parser = verb_parser(program, verb)
    arguments = parser.parse_args(argv)
    _check(parser, verb, arguments)
    arguments.verb = verb
    return arguments


def verb_parser(program: str, verb: str) -> ArgumentParser:
    """Return the parser of what stands after a verb."""
    parser = Manual(f"{program}.pyz {verb}", VERBS[verb], verb_page(program, verb))
    parser.register("action", None, Once)
    if verb == "completion":
        parser.add_argument("shell", choices=SHELLS, help="which shell it is for")
        return parser
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _ADD_FLAGS[verb](parser, program)
    return parser


def _add_init_flags(parser: ArgumentParser, program: str) -> None:
    _add_path(parser, f"{program}.toml")


def _add_keygen_flags(parser: ArgumentParser, _program: str) -> None:
    _add_path(parser, "client.key")


def _add_path(parser: ArgumentParser, default: str) -> None:
    parser.add_argument("path", nargs="?", type=Path, default=Path(default), help=f"({default})")


def _add_id_flags(parser: ArgumentParser, _program: str) -> None:
    files = parser.add_mutually_exclusive_group()
    files.add_argument("-c", dest="config", type=Path, metavar="FILE", help="every endpoint of it")
    files.add_argument("--primary-key", type=Path, metavar="FILE", help="one key (client.key)")
    parser.add_argument("--domain-suffix", metavar="NAME", help="the relay's suffix (localhost)")
    parser.add_argument("--id-bits", type=int, choices=(64, 128), help="length of the id (128)")


def add_running_flags(parser: ArgumentParser, program: str) -> None:
    """Add the flags that say which running program is meant."""
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "-c", dest="config", type=Path, metavar="FILE", help="the settings that it runs on"
    )
    place.add_argument(
        "--socket", type=Path, metavar="PATH", help=f"the control socket of the {program}"
    )


def _add_status_flags(parser: ArgumentParser, program: str) -> None:
    add_running_flags(parser, program)
    parser.add_argument(
        "--check", action="store_true", help="only say whether it is ready: status 0 or 1"
    )


def _add_reload_flags(parser: ArgumentParser, program: str) -> None:
    add_running_flags(parser, program)
    parser.add_argument(
        "--dry-run", action="store_true", help="only show what would change, and what hinders it"
    )


def _add_explain_flags(parser: ArgumentParser, program: str) -> None:
    add_running_flags(parser, program)
    parser.add_argument("host", metavar="HOST", help="the name that a visitor asks for")


def _add_cert_flags(parser: ArgumentParser, program: str) -> None:
    add_running_flags(parser, program)
    parser.add_argument("action", choices=("list", "renew"), help="what to do")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the name to renew it for")


def _add_doctor_flags(parser: ArgumentParser, program: str) -> None:
    """Add what the program itself takes, as far as it says what it would run on."""
    add = parser.add_argument
    add("-c", dest="config", type=Path, metavar="FILE", help="the settings to examine")
    add("--socket", type=Path, metavar="PATH", help=f"the control socket of a running {program}")
    add("-v", dest="log_level", action="store_const", const="debug", help="log what is tried")
    parser.set_defaults(log_format=None, qr=False)
    parser.set_defaults(check=False, show_config=False, stands_for=None, content=None)
    add_quick_start(parser, program)


def _check(parser: ArgumentParser, verb: str, arguments: Namespace) -> None:
    """End with status 2 where flags of one verb do not go together."""
    if verb == "id" and arguments.config and (arguments.domain_suffix or arguments.id_bits):
        parser.error("--domain-suffix and --id-bits do not go with -c")
    if verb == "cert" and (arguments.action == "renew") != (arguments.name is not None):
        needs = "needs the NAME" if arguments.action == "renew" else "takes no NAME"
        parser.error(f"{arguments.action} {needs}")


_ADD_FLAGS: dict[str, Callable[[ArgumentParser, str], None]] = {
    "init": _add_init_flags,
    "keygen": _add_keygen_flags,
    "id": _add_id_flags,
    "status": _add_status_flags,
    "reload": _add_reload_flags,
    "drain": add_running_flags,
    "explain": _add_explain_flags,
    "cert": _add_cert_flags,
    DOCTOR: _add_doctor_flags,
}
