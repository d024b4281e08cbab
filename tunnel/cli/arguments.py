"""What may stand on the command line. Imports nothing heavy: `--version` and `--help` end here."""

import argparse
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from tunnel import __version__

ACME = "certificates from a certificate authority (ACME)"
OPERATIONS = "talking to a running program"

VERBS = {
    "init": "write commented settings",
    "keygen": "make an identity key",
    "id": "show ids, fingerprints and names (client)",
}
LATER_VERBS = {
    "status": OPERATIONS,
    "reload": OPERATIONS,
    "drain": OPERATIONS,
    "doctor": OPERATIONS,
    "explain": OPERATIONS,
    "cert": ACME,
    "completion": "completion for shells",
}

_RELAY_ACME = ("--acme-domain", "--acme-email", "--acme-creds-path", "--acme-staging")
_CLIENT_ACME = ("--acme-email", "--acme-creds-path", "--acme-staging", "--cert-pem")

_COMBINES = ("force_h2", "pool_size")  # with -c; the log flags do anyway
_POOL_LIMIT = 64

AddFlags = Callable[[ArgumentParser], None]


def parse_relay(argv: Sequence[str]) -> Namespace:
    """Return what was asked of relay.pyz; raises SystemExit (0 after --help, 2 on bad usage)."""
    return _parse("relay", argv, _add_relay_flags)


def parse_client(argv: Sequence[str]) -> Namespace:
    """Return what was asked of client.pyz; raises SystemExit as `parse_relay` does."""
    return _parse("client", argv, _add_client_flags)


def _check_client(parser: ArgumentParser, arguments: Namespace) -> None:
    """End with status 2 where a quick start lacks what it cannot do without."""
    if arguments.config is None and not arguments.server:
        parser.error("a relay is needed: --server HOST, or -c FILE")
    if arguments.secondary_key is None:
        for flag in ("secondary_local", "secondary_cert_extension_hex"):
            if getattr(arguments, flag) is not None:
                parser.error(f"--{flag.replace('_', '-')} needs --secondary-key")


def _parse(program: str, argv: Sequence[str], add_flags: AddFlags) -> Namespace:
    if argv and not argv[0].startswith("-"):
        return _parse_verb(program, argv[0], argv[1:])
    parser = ArgumentParser(
        prog=f"{program}.pyz",
        allow_abbrev=False,
        usage=f"{program}.pyz [-c {program}.toml] [flags] | VERB",
        epilog="Verbs: " + "; ".join(f"{v} ({VERBS[v]})" for v in _verbs_of(program)),
    )
    parser.register("action", None, _Once)
    _add_shared_flags(parser, program)
    if program == "client":
        parser.add_argument("--qr", action="store_true", help="draw each URL, on a terminal")
    quick = parser.add_argument_group("quick start without a file")
    known = {action.dest for action in parser._actions}  # noqa: SLF001 - argparse has no other list
    add_flags(quick)  # type: ignore[arg-type] # a group adds arguments as a parser does
    quick_start = [a.dest for a in parser._actions if a.dest not in known]  # noqa: SLF001 - as above
    arguments = parser.parse_args(argv)
    arguments.verb = None
    if program == "client":
        _check_client(parser, arguments)
    _check_combinations(parser, arguments, [dest for dest in quick_start if dest != SUPPRESS])
    return arguments


def _verbs_of(program: str) -> list[str]:
    return [verb for verb in VERBS if verb != "id" or program == "client"]


def _add_shared_flags(parser: ArgumentParser, program: str) -> None:
    add = parser.add_argument
    add("--version", action="version", version=f"{program}.pyz {__version__}")
    add("-c", dest="config", type=Path, metavar="FILE", help="settings; FILE.d/*.toml add to it")
    mode = parser.add_mutually_exclusive_group()
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
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument(
        "-v", dest="log_level", action="store_const", const="debug", help="log more"
    )
    loudness.add_argument(
        "-q", dest="log_level", action="store_const", const="warning", help="log less"
    )
    add("--log-format", type=_log_format, metavar="auto|text|json", help="how a log line looks")


def _log_format(word: str) -> str:
    if word == "journald":
        raise ArgumentTypeError("not built yet: journald's native protocol")
    if word not in ("auto", "text", "json"):
        raise ArgumentTypeError(f"{word!r} is none of auto, text, json")
    return word


def _ip(word: str) -> str:
    from ipaddress import ip_address  # noqa: PLC0415 - only where it is asked for

    try:
        return str(ip_address(word))
    except ValueError:
        raise ArgumentTypeError(f"{word!r} is not an IP address") from None


def _pool_size(word: str) -> int:
    if not (word.isascii() and word.isdecimal() and 1 <= int(word[:4]) <= _POOL_LIMIT):
        raise ArgumentTypeError(f"{word!r} is out of range (expected 1 to {_POOL_LIMIT})")
    return int(word)


def _add_relay_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--bind-addr",
        type=_ip,
        metavar="IP",
        help="where to listen (127.0.0.1; with a suffix 0.0.0.0)",
    )
    add("--api-port", type=int, metavar="PORT", help="for clients, UDP and TCP (4433)")
    add("--pub-port", type=int, metavar="PORT", help="for visitors (8443)")
    add("--alpn-port", type=int, metavar="PORT", help="a second port for visitors (none)")
    add("--domain-suffix", action="append", metavar="NAME", help="repeatable (localhost)")
    add("--tls-cert", metavar="FILE", help="certificate chain, PEM (self-signed)")
    add("--tls-key", metavar="FILE", help="its key, PEM")
    add("--open", action="store_true", default=None, help="anyone with a key may use the suffixes")
    add("--allow", action="append", metavar="sha256:…", help="a client's fingerprint; repeatable")
    _add_later_flags(parser, (*_RELAY_ACME, "--acme-renew-days"))


def _add_client_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--server", action="append", metavar="HOST[:PORT]", help="a relay; repeatable")
    add(
        "--local",
        metavar="TARGET",
        help="the service, also 3000 or unix:/path (127.0.0.1:3000)",
    )
    add("--domain-suffix", metavar="NAME", help="the relay's suffix (localhost)")
    add("--primary-key", metavar="FILE", help="identity key, made if missing (client.key)")
    add("--secondary-key", metavar="FILE", help="identity key of a second endpoint")
    add("--secondary-local", metavar="TARGET", help="its service (that of --local)")
    add("--primary-cert-extension-hex", metavar="HEX", help="put into the certificate")
    add("--secondary-cert-extension-hex", metavar="HEX", help="put into the second certificate")
    add("--force-h2", action="store_true", default=None, help="only HTTP/2, no QUIC")
    add("--pool-size", type=_pool_size, metavar="N", help="HTTP/2 connections per relay (4)")
    add("--id-bits", type=int, choices=(64, 128), help="length of ids (128)")
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument("--pin", metavar="sha256:…", help="trust the relay with this key")
    trust.add_argument("--ca", metavar="FILE", help="trust these certificates")
    trust.add_argument("--insecure", action="store_true", default=None, help="trust anyone")
    _add_later_flags(parser, _CLIENT_ACME)


class _Once(argparse.Action):
    """What stores a value by default, but refuses a second one instead of forgetting the first."""

    def __call__(
        self, _parser: ArgumentParser, space: Namespace, values: object, _flag: str | None = None
    ) -> None:
        if getattr(space, self.dest) is not self.default:
            raise argparse.ArgumentError(self, "may be given only once")
        setattr(space, self.dest, values)


class _LaterFlag(argparse.Action):
    """A flag of the original that is refused until what it asks for is built."""

    def __call__(
        self, parser: ArgumentParser, _space: Namespace, _values: object, flag: str | None = None
    ) -> None:
        parser.error(f"{flag}: not built yet: {ACME}")


def _add_later_flags(parser: ArgumentParser, flags: tuple[str, ...]) -> None:
    for flag in flags:
        parser.add_argument(flag, action=_LaterFlag, nargs="?", help=SUPPRESS, dest=SUPPRESS)


def _check_combinations(parser: ArgumentParser, arguments: Namespace, quick: list[str]) -> None:
    """End with status 2 where flags that were given exclude each other."""
    if arguments.config is not None:
        extra = [d for d in quick if getattr(arguments, d) is not None and d not in _COMBINES]
        if extra:
            parser.error(
                f"--{extra[0].replace('_', '-')} does not go with -c: put it into the file"
            )
    if arguments.stands_for or arguments.content:
        _check_stand_in(parser, arguments)


def _check_stand_in(parser: ArgumentParser, arguments: Namespace) -> None:
    if arguments.config is None or not (arguments.check or arguments.show_config):
        parser.error("--as and --with go with -c and --check or --show-config")
    if arguments.stands_for is None:
        parser.error("--with needs --as, the drop-in in whose place it is read")


def _parse_verb(program: str, verb: str, argv: Sequence[str]) -> Namespace:
    parser = ArgumentParser(prog=f"{program}.pyz {verb}", allow_abbrev=False)
    if verb in LATER_VERBS:
        parser.error(f"not built yet: {LATER_VERBS[verb]}")
    if verb not in _verbs_of(program):
        parser.error(f"no such verb (known: {', '.join(_verbs_of(program))})")
    parser.register("action", None, _Once)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    if verb == "id":
        _add_id_flags(parser)
    else:
        default = Path(f"{program}.toml" if verb == "init" else "client.key")
        parser.add_argument("path", nargs="?", type=Path, default=default, help=f"({default})")
    arguments = parser.parse_args(argv)
    if verb == "id" and arguments.config and (arguments.domain_suffix or arguments.id_bits):
        parser.error("--domain-suffix and --id-bits do not go with -c")
    arguments.verb = verb
    return arguments


def _add_id_flags(parser: ArgumentParser) -> None:
    files = parser.add_mutually_exclusive_group()
    files.add_argument("-c", dest="config", type=Path, metavar="FILE", help="every endpoint of it")
    files.add_argument("--primary-key", type=Path, metavar="FILE", help="one key (client.key)")
    parser.add_argument("--domain-suffix", metavar="NAME", help="the relay's suffix (localhost)")
    parser.add_argument("--id-bits", type=int, choices=(64, 128), help="length of the id (128)")
