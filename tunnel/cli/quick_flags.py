"""The flags of a quick start without a file. Imports nothing heavy."""

from argparse import ArgumentParser, ArgumentTypeError, _ArgumentGroup
from collections.abc import Callable

_POOL_LIMIT = 64
_DAYS_LIMIT = 365


def add_quick_start(parser: ArgumentParser, program: str) -> None:
    """Add what stands for settings where there is no file."""
    (_add_relay_flags if program == "relay" else _add_client_flags)(parser)


def quick_start_of(program: str) -> list[str]:
    """Return the names of these flags' values."""
    parser = ArgumentParser(add_help=False)
    add_quick_start(parser, program)
    return [action.dest for action in parser._actions]  # noqa: SLF001 - argparse has no other list


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
