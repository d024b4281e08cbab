"""Names that clients serve, ids made from their keys, and fingerprints as text.

Functions that read text raise ValueError saying what is wrong with it. Nothing here knows who may
have which name.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

ID_BITS = (64, 128)
HOST_NAME_LIMIT = 253  # RFC 1035 §2.3.4, in the textual form without trailing dot

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1123 §2.1, lower case
_ID = re.compile(r"(?:[0-9a-f]{16}|[0-9a-f]{32})")
_FINGERPRINT = re.compile(r"sha256:([0-9a-fA-F]{64})")


def client_id(fingerprint: bytes, id_bits: int = 128) -> str:
    """Return the id of the key with this fingerprint (32 bytes): its first hex digits."""
    if id_bits not in ID_BITS:
        raise ValueError(f"an id has 64 or 128 bits, not {id_bits}")
    return fingerprint.hex()[: id_bits // 4]


def format_fingerprint(fingerprint: bytes) -> str:
    """Return `sha256:` and 64 hex digits."""
    return f"sha256:{fingerprint.hex()}"


def parse_fingerprint(text: str) -> bytes:
    """Return the 32 bytes of `sha256:` and 64 hex digits."""
    found = _FINGERPRINT.fullmatch(text)
    if not found:
        raise ValueError("not a fingerprint (expected sha256: and 64 hex digits)")
    return bytes.fromhex(found[1])


@lru_cache(maxsize=4096)
def check_host_name(text: str) -> str:
    """Return `text` if it is a lower-case host name (RFC 1123 §2.1) without trailing dot.

    What ends in a number is an address to a URL parser, so it is no name here.
    """
    if not 0 < len(text) <= HOST_NAME_LIMIT:
        raise ValueError(f"not a host name: {len(text)} characters long, 1 to 253 allowed")
    labels = text.split(".")
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise ValueError(f"not a host name: label {label[:64]!r}")
    if labels[-1].isdigit():
        raise ValueError("not a host name: ends in a number")
    return text


def has_id_shape(name: str, suffix: str) -> bool:
    """Say whether `name` reads like a key's own name: `{16 or 32 hex digits}.{suffix}`."""
    label, _, rest = name.partition(".")
    return rest == suffix and _ID.fullmatch(label) is not None


def matches(pattern: str, name: str) -> bool:
    """Say whether a grant covers `name`; `*.example.com` stands for exactly one label."""
    if not pattern.startswith("*."):
        return pattern == name
    label, dot, rest = name.partition(".")
    return bool(label and dot) and rest == pattern[2:]


def best_match(patterns: Iterable[str], name: str) -> str | None:
    """Return the pattern that `name` falls to, the exact one before the wildcard, or None."""
    return min((p for p in patterns if matches(p, name)), key=lambda p: p != name, default=None)
