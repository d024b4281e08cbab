"""What may stand on the command line. Imports nothing heavy: `--version` and `--help` end here."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace, _ArgumentGroup
from collections.abc import Callable, Sequence
from pathlib import Path

from tunnel import __version__
from tunnel.cli.manual import Manual
from tunnel.cli.manual_pages import SUMMARIES, daemon_page
from tunnel.cli.once import Once
from tunnel.cli.verb_flags import VERBS, parse_verb, verbs_of

_ORDERING = (  # what has a meaning only where a certificate is ordered
    *("acme_email", "acme_creds_path", "acme_staging", "acme_directory", "acme_ca"),
    *("acme_renew_days", "cert_pem"),
)

_COMBINES = ("force_h2", "pool_size")  # with -c; the log flags do anyway
_POOL_LIMIT = 64
_DAYS_LIMIT = 365

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
    if argv and not argv[0].startswith("-"):
        return parse_verb(program, argv[0], argv[1:])
    parser, quick_start = daemon_parser(program)
    arguments = parser.parse_args(argv)
    arguments.verb = None
    _check_combinations(parser, arguments, quick_start)
    check(parser, arguments)
    return arguments


def daemon_parser(program: str) -> tuple[ArgumentParser, list[str]]:
    """Return the parser of a command line without a verb, and the flags of a quick start."""
    verbs = tuple((verb, VERBS[verb]) for verb in verbs_of(program))
    usage = f"{program}.pyz [-c {program}.toml] [flags] | VERB"
    parser = Manual(f"{program}.pyz", SUMMARIES[program], daemon_page(program, verbs), usage)
    parser.register("action", None, Once)
    _add_shared_flags(parser, program)
    if program == "client":
        parser.add_argument("--qr", action="store_true", help="draw each URL, on a terminal")
    known = {action.dest for action in parser._actions}  # noqa: SLF001 - argparse has no other list
    add_flags = _add_relay_flags if program == "relay" else _add_client_flags
    add_flags(parser)
    quick_start = [a.dest for a in parser._actions if a.dest not in known]  # noqa: SLF001 - as above
    return parser, quick_start


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


def _ip(word: str) -> str:
    from ipaddress import ip_address  # noqa: PLC0415 - only where it is asked for

    try:
        return str(ip_address(word))
    except ValueError:
        raise ArgumentTypeError(f"{word!r} is not an IP address") from None


def _up_to(limit: int) -> Callable[[str], int]:
    """Return what reads a whole number from 1 to `limit`, which has at most three digits."""

    def read(word: str) -> int:
        if not (word.isascii() and word.isdecimal() and 1 <= int(word[:4]) <= limit):
            raise ArgumentTypeError(f"{word!r} is out of range (expected 1 to {limit})")
        return int(word)

    return read


def _add_relay_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument_group("Quick start without a file: where to listen").add_argument
    add(
        "--bind-addr",
        type=_ip,
        metavar="IP",
        help="where to listen (127.0.0.1; with a suffix or an --acme-domain 0.0.0.0)",
    )
    add("--api-port", type=int, metavar="PORT", help="for clients, UDP and TCP (4433)")
    add("--pub-port", type=int, metavar="PORT", help="for visitors (8443)")
    add(
        "--alpn-port",
        type=int,
        metavar="PORT",
        help="a second one, which an authority validates on",
    )
    add = parser.add_argument_group("Quick start: what to serve, and to whom").add_argument
    add(
        "--domain-suffix",
        action="append",
        metavar="NAME",
        help="serve names below it; repeatable (localhost)",
    )
    add("--open", action="store_true", default=None, help="anyone with a key may use the suffixes")
    add("--allow", action="append", metavar="sha256:HEX", help="a client's fingerprint; repeatable")
    group = parser.add_argument_group("Quick start: the relay's own certificate")
    add = group.add_argument
    add("--tls-cert", metavar="FILE", help="certificate chain, PEM (self-signed)")
    add("--tls-key", metavar="FILE", help="its key, PEM")
    add(
        "--acme-domain",
        action="append",
        metavar="NAME",
        help="order the relay's certificate for this name; repeatable",
    )
    add("--acme-email", metavar="ADDRESS", help="where the authority writes to")
    _add_acme_flags(group)
    add(
        "--acme-renew-days",
        type=_up_to(_DAYS_LIMIT),
        metavar="N",
        help="renew this long before the end (when the authority says)",
    )


def _add_acme_flags(group: _ArgumentGroup) -> None:
    """Add what both programs may say of an authority."""
    add = group.add_argument
    add("--acme-creds-path", metavar="FILE", help="the account, made if missing (in state_dir)")
    add("--acme-staging", action="store_true", default=None, help="try out: letsencrypt-staging")
    add("--acme-directory", metavar="URL", help="the authority's directory (letsencrypt)")
    add("--acme-ca", metavar="FILE", help="trust these certificates when it is asked")


def _add_client_flags(parser: ArgumentParser) -> None:
    _add_server_flags(parser.add_argument_group("Quick start without a file: relays"))
    add = parser.add_argument_group("Quick start: what to serve").add_argument
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
    add("--id-bits", type=int, choices=(64, 128), help="length of ids (128)")
    group = parser.add_argument_group("Quick start: certificates for visitors")
    add = group.add_argument
    add(
        "--acme-email",
        metavar="ADDRESS",
        help="order the first endpoint's certificate (self-signed); the authority writes there",
    )
    _add_acme_flags(group)
    add(
        "--cert-pem",
        metavar="FILE",
        help="key and certificate to begin with, PEM; passed over if it does not exist",
    )


def _add_server_flags(group: _ArgumentGroup) -> None:
    add = group.add_argument
    add("--server", action="append", metavar="HOST[:PORT]", help="a relay; repeatable")
    trust = group.add_mutually_exclusive_group()
    trust.add_argument("--pin", metavar="sha256:HEX", help="trust the relay with this key")
    trust.add_argument("--ca", metavar="FILE", help="trust these certificates")
    trust.add_argument("--insecure", action="store_true", default=None, help="trust anyone")
    add("--force-h2", action="store_true", default=None, help="only HTTP/2, no QUIC")
    add(
        "--pool-size",
        type=_up_to(_POOL_LIMIT),
        metavar="N",
        help="HTTP/2 connections per relay (4)",
    )


def _check_combinations(parser: ArgumentParser, arguments: Namespace, quick: list[str]) -> None:
    """End with status 2 where flags that were given exclude each other."""
    if arguments.config is not None:
        extra = [d for d in quick if getattr(arguments, d) is not None and d not in _COMBINES]
        if extra:
            parser.error(f"{_spelt(extra[0])} does not go with -c: put it into the file")
    if arguments.stands_for or arguments.content:
        _check_stand_in(parser, arguments)


def _check_stand_in(parser: ArgumentParser, arguments: Namespace) -> None:
    if arguments.config is None or not (arguments.check or arguments.show_config):
        parser.error("--as and --with go with -c and --check or --show-config")
    if arguments.stands_for is None:
        parser.error("--with needs --as, the drop-in in whose place it is read")
