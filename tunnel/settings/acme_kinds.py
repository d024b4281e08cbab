"""Kinds of value that speak of certificate authorities."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from tunnel.settings.kinds import Kind, Misfit, as_text
from tunnel.settings.network_kinds import is_domain, is_ip

NAMED_DIRECTORIES = ("letsencrypt", "letsencrypt-staging", "zerossl", "google")
BOUND_DIRECTORIES = ("zerossl", "google")  # they admit nobody without an account of their own

_URL_LIMIT = 2000  # characters
_KEY_ID_LIMIT = 1000  # characters
_EMAIL_LIMIT = 254  # characters; RFC 5321 §4.5.3.1.3, without the angle brackets
# The characters of an atom that a mailto URL carries as they are (RFC 5322 §3.2.3, RFC 6068 §2).
_ATOM = r"[A-Za-z0-9!$&'*+=_~-]+"
_EMAIL = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@([A-Za-z0-9.-]+)")


def _read_directory(value: object, _folder: Path) -> object:
    word = as_text(value)
    if word in NAMED_DIRECTORIES:
        return str(word)
    if "@" in word:  # whatever stands before it is not to be repeated
        raise Misfit("has a user's name in it (expected a plain https:// URL)")
    if len(word) > _URL_LIMIT:
        raise Misfit(f"is longer than {_URL_LIMIT} characters")
    if not _is_https(word):
        raise Misfit
    return str(word)


def _is_https(url: str) -> bool:
    """Say whether this is an https URL of a host (RFC 8555 §6.1), without a fragment."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # brackets that are not closed, or a port beyond 65535
        return False
    host = parts.hostname or ""
    is_plain = url.isascii() and " " not in url and not parts.fragment
    return is_plain and parts.scheme == "https" and port != 0 and (is_ip(host) or is_domain(host))


DIRECTORY = Kind(
    "name or URL",
    "an authority",
    f"{', '.join(NAMED_DIRECTORIES)} or an https:// URL",
    _read_directory,
)


def _read_email(value: object, _folder: Path) -> object:
    address = as_text(value)
    match = _EMAIL.fullmatch(address)
    if match is None or len(address) > _EMAIL_LIMIT or not is_domain(match[1].lower()):
        raise Misfit
    return str(address)


EMAIL = Kind("e-mail address", "an e-mail address", "one such as ops@example.org", _read_email)


def _read_key_id(value: object, _folder: Path) -> object:
    key_id = as_text(value)
    if not key_id.isascii() or len(key_id) > _KEY_ID_LIMIT:
        raise Misfit
    return str(key_id)


KEY_ID = Kind("string", "a key id", "what the authority gave out", _read_key_id)
