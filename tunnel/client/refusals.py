"""What an operator should do about a relay's refusal, in words."""

import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from tunnel.errors import Code
from tunnel.protocol.names import format_fingerprint

_ADVICE: Mapping[Code, str] = MappingProxyType(
    {
        Code.NAME_TAKEN: (
            "another program with this key, or another key, serves the name: stop that one; "
            "it is asked for again every minute"
        ),
        Code.SUPERSEDED: (
            "a newer program with this key has taken over: stop one of the two, "
            "or give each its own keypair"
        ),
        Code.REVOKED: (
            "the relay's operator has withdrawn this key: ask for it to be enabled again, "
            "or use another keypair"
        ),
        Code.VERSION: "update this client or the relay: they have no protocol version in common",
        Code.BUSY: (
            "the relay has reached a limit: ask its operator to raise the limits in [clients.*], "
            "or certificates_per_week of the suffix if it is certificates that it refuses"
        ),
        Code.DRAINING: "the relay is going away: it is dialled again when it said",
        Code.PROTOCOL: "update this client or the relay: one of them breaks the protocol",
        Code.TIMEOUT: "the relay or the path to it is too slow: see the relay's log",
        Code.INTERNAL: "the relay has met a bug of its own: see the relay's log",
    }
)


def stanza(fingerprint: bytes, suffixes: Iterable[str], names: Iterable[str]) -> str:
    """Return the TOML that grants a key its names, on one line for a log."""
    parts = [f'fingerprint = "{format_fingerprint(fingerprint)}"']
    for key, values in (("suffixes", suffixes), ("names", names)):
        if wanted := sorted(set(values)):
            parts.append(f"{key} = {json.dumps(wanted)}")
    return f"[clients.NAME] {'; '.join(parts)}"


def advice(code: Code, stanza_text: str) -> str:
    """Return what to do about a refusal; `stanza_text` is what the relay's settings need."""
    if code in (Code.UNAUTHORIZED, Code.NAME_REFUSED):
        return f"ask the relay's operator to add: {stanza_text}"
    return _ADVICE.get(code, "see the relay's log")
