"""What is written on a descriptor that goes to another process. Sans-I/O, both ways."""

import base64
import json
from dataclasses import dataclass
from typing import Any

from tunnel.errors import RemoteProtocolError
from tunnel.protocol.direct import PRELUDE_BYTES, Prelude, parse_prelude
from tunnel.protocol.hello import Arrival, ClientHello
from tunnel.relay.arrivals import Caller, Guest
from tunnel.relay.direct import Unserved
from tunnel.settings.reload import Socket
from tunnel.stream import Address


@dataclass(frozen=True, slots=True)
class HandedGuest:
    """A visitor or a validation; `so_far` is what was read off its socket, None for nothing."""

    guest: Guest
    so_far: Unserved | None = None


@dataclass(frozen=True, slots=True)
class HandedSpare:
    """A spare direct connection, whose prelude was read off and is still to be checked."""

    prelude: Prelude


@dataclass(frozen=True, slots=True)
class HandedListener:
    """A socket to listen on, by its key, and for which beginning or reload of the worker."""

    key: str
    ticket: int


Parcel = HandedGuest | HandedSpare | HandedListener


def key_of(wanted: Socket) -> str:
    """Return the key of a socket."""
    return " ".join(map(str, wanted))


def note_of(parcel: Parcel) -> bytes:
    """Return what says all that is known of a descriptor."""
    members: dict[str, object]
    match parcel:
        case HandedGuest(guest, so_far):
            members = {"guest": _guest(guest), "so_far": None if so_far is None else _said(so_far)}
        case HandedSpare(prelude):
            members = {"spare": _text(bytes(prelude))}
        case HandedListener(key, ticket):
            members = {"listen": key, "ticket": ticket}
    return json.dumps(members, separators=(",", ":")).encode()


def parcel_of(note: bytes) -> Parcel:
    """Return what `note_of` was given; raises RemoteProtocolError for anything else."""
    try:
        members = json.loads(note)
        if "guest" in members:
            said = members["so_far"]
            return HandedGuest(_read_guest(members["guest"]), _read_said(said) if said else None)
        if "spare" in members:
            return HandedSpare(_read_prelude(base64.b64decode(members["spare"])))
        return HandedListener(members["listen"], members["ticket"])
    except (ValueError, LookupError, TypeError) as error:
        raise RemoteProtocolError(f"a note of another process says nothing: {error!r}") from error


def _guest(guest: Guest) -> list[object]:
    hello = guest.hello
    alpn = [_text(each) for each in hello.alpn]
    return [
        guest.kind.name,
        guest.caller.peer,
        guest.caller.local,
        hello.server_name,
        alpn,
        hello.size,
    ]


def _read_guest(members: list[Any]) -> Guest:
    kind, peer, local, name, alpn, size = members
    protocols = tuple(base64.b64decode(each) for each in alpn)
    caller = Caller(Address(*peer), Address(*local))
    return Guest(Arrival[kind], caller, ClientHello(name, protocols, size))


def _said(so_far: Unserved) -> list[object]:
    return [_text(so_far.said), so_far.attempts]


def _read_said(members: list[Any]) -> Unserved:
    said, attempts = members
    return Unserved(base64.b64decode(said), attempts)


def _read_prelude(content: bytes) -> Prelude:
    prelude = parse_prelude(content)
    if prelude is None or len(content) != PRELUDE_BYTES:
        raise ValueError("no whole prelude")
    return prelude


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
