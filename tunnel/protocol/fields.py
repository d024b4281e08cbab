"""How the fields of messages travel in JSON, and what each may hold.

One `Codec` is one kind of field. Its `parse` is the only place where a limit is enforced: what we
send goes through the peer's rule too.
"""

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Generic, TypeVar

from tunnel.errors import Code
from tunnel.protocol.direct import SPARES_LIMIT
from tunnel.protocol.names import check_host_name

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

SocketAddress = tuple[str, int]
"""A textual IP address, never IPv4-mapped IPv6, and a port (a `stream.Address` is one)."""

_WORD = re.compile(r"[a-z0-9_-]{1,16}")
_CODE_WORD = re.compile(r"[a-z0-9_-]{1,32}")
_ADDRESS = re.compile(r"(?:\[([0-9a-fA-F.]*:[0-9a-fA-F:.]*)\]|([0-9.]+)):(0|[1-9][0-9]{0,4})")
_CODES: Mapping[str, Code] = {code.word: code for code in Code}


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    """One kind of field: what it is in words, and both directions.

    `parse` takes a JSON value and raises ValueError; `render` is its inverse and checks nothing.
    """

    meaning: str
    parse: Callable[[object], T]
    render: Callable[[T], object]


@dataclass(frozen=True, slots=True)
class Reason:
    """A code as it came in a message.

    A word that this version does not know reads as ABORTED, so that later versions may add some;
    it is kept for logs.
    """

    code: Code
    unknown_word: str = ""

    def __str__(self) -> str:
        return self.unknown_word or self.code.word


def _unchanged(value: T) -> T:
    return value


def integer(least: int, most: int) -> Codec[int]:
    """Return the codec of a JSON number without fraction, both bounds included."""

    def parse(value: object) -> int:
        if type(value) is not int or not least <= value <= most:  # a bool is not an int here
            raise ValueError(f"not an integer from {least} to {most}")
        return value

    return Codec(f"int, {least} to {most}", parse, _unchanged)


def seconds(least: float, most: float) -> Codec[float]:
    """Return the codec of a duration."""

    def parse(value: object) -> float:
        if type(value) not in (int, float) or not least <= value <= most:  # type: ignore[operator] # mypy does not narrow by `in`
            raise ValueError(f"not a number of seconds from {least:g} to {most:g}")
        return float(value)  # type: ignore[arg-type] # as above

    return Codec(f"seconds, {least:g} to {most:g}", parse, _unchanged)


def text(most: int, least: int = 0) -> Codec[str]:
    """Return the codec of a string with a limit in characters."""

    def parse(value: object) -> str:
        if not isinstance(value, str) or not least <= len(value) <= most:
            raise ValueError(f"not a string of {least} to {most} characters")
        value.encode("utf-8")  # ours may come from the file system, with lone surrogates
        return value

    return Codec(f"str, {least} to {most} characters", parse, _unchanged)


def octets(least: int, most: int) -> Codec[bytes]:
    """Return the codec of a byte string: unpadded, canonical base64url (RFC 4648 §5, §3.5)."""

    def parse(value: object) -> bytes:
        if not isinstance(value, str):
            raise ValueError("not a base64url string")  # noqa: TRY004 - one error for all bad input
        raw = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
        if _base64url(raw) != value:  # stray characters, padding or unused bits
            raise ValueError("not canonical unpadded base64url")
        if not least <= len(raw) <= most:
            raise ValueError(f"{len(raw)} bytes long, {least} to {most} allowed")
        return raw

    length = f"{least}" if least == most else f"{least} to {most}"
    return Codec(f"bytes, {length}", parse, _base64url)


def one_of(words: type[E]) -> Codec[E]:
    """Return the codec of an enumeration."""

    def parse(value: object) -> E:
        if not isinstance(value, str) or value not in by_word:
            raise ValueError(f"not {meaning}")
        return by_word[value]

    by_word = {str(word): word for word in words}
    meaning = " or ".join(f'"{word}"' for word in words)
    return Codec(meaning, parse, str)


def array(
    item: Codec[T], least: int, most: int, *, together: int | None = None
) -> Codec[tuple[T, ...]]:
    """Return the codec of a list; `together` limits the sum of its items' lengths."""

    def parse(value: object) -> tuple[T, ...]:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise ValueError(f"not a list of {least} to {most} items")
        items = tuple(item.parse(each) for each in value)
        if together is not None and total_length(items) > together:
            raise ValueError(f"more than {together} bytes together")
        return items

    def render(items: tuple[T, ...]) -> object:
        return [item.render(each) for each in items]

    suffix = "" if together is None else f", {together} bytes together at most"
    return Codec(f"list of {least} to {most} ({item.meaning}){suffix}", parse, render)


def by_name(item: Codec[T], most: int) -> Codec[Mapping[str, T]]:
    """Return the codec of an object whose keys are host names."""

    def parse(value: object) -> Mapping[str, T]:
        if not isinstance(value, dict) or len(value) > most:
            raise ValueError(f"not an object of at most {most} members")
        return {check_host_name(name): item.parse(each) for name, each in value.items()}

    def render(members: Mapping[str, T]) -> object:
        return {name: item.render(each) for name, each in members.items()}

    return Codec(f"object of at most {most}, host name: {item.meaning}", parse, render)


@dataclass(frozen=True, slots=True)
class DirectOffer:
    """What a client needs for direct connections: the session's key, how many spares it may hold.

    The key must not be shown anywhere.
    """

    key: bytes = field(repr=False)
    spare: int


def _parse_direct(value: object) -> DirectOffer:
    if not isinstance(value, dict) or not {"key", "spare"} <= value.keys():
        raise ValueError("not an object with key and spare")
    return DirectOffer(_DIRECT_KEY.parse(value["key"]), _DIRECT_SPARE.parse(value["spare"]))


def _render_direct(offer: DirectOffer) -> object:
    return {"key": _DIRECT_KEY.render(offer.key), "spare": _DIRECT_SPARE.render(offer.spare)}


def total_length(items: tuple[object, ...]) -> int:
    """Return the sum of the lengths of strings (ASCII) or byte strings."""
    return sum(len(each) for each in items if isinstance(each, str | bytes))


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _parse_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("not a boolean")  # noqa: TRY004 - one error for all bad input
    return value


def _parse_word(value: object) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise ValueError("not a word of 1 to 16 characters a-z 0-9 _ -")
    return value


def _parse_name(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not a host name")  # noqa: TRY004 - one error for all bad input
    return check_host_name(value)


def _parse_reason(value: object) -> Reason:
    if not isinstance(value, str) or not _CODE_WORD.fullmatch(value):
        raise ValueError("not a code word of 1 to 32 characters a-z 0-9 _ -")
    return Reason(_CODES[value]) if value in _CODES else Reason(Code.ABORTED, value)


def _parse_address(value: object) -> SocketAddress:
    found = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if not found or int(found[3]) > 65535:
        raise ValueError("not an address (expected 192.0.2.1:443 or [2001:db8::1]:443)")
    return _plain_host(found[1] or found[2]), int(found[3])


def _render_address(address: SocketAddress) -> str:
    host, port = address
    host = _plain_host(host.partition("%")[0])  # a scope means nothing on another machine
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@lru_cache(maxsize=4096)
def _plain_host(host: str) -> str:
    """Return an IP address in its usual spelling, an IPv4-mapped one as IPv4."""
    if ":" not in host:
        return str(IPv4Address(host))
    address = IPv6Address(host)
    return str(address.ipv4_mapped or address)


FLAG: Codec[bool] = Codec("bool", _parse_flag, _unchanged)
WORD: Codec[str] = Codec("word, 1 to 16 of a-z 0-9 _ -", _parse_word, _unchanged)
NAME: Codec[str] = Codec("host name", _parse_name, _unchanged)
REASON: Codec[Reason] = Codec("code word", _parse_reason, str)
ADDRESS: Codec[SocketAddress] = Codec("address", _parse_address, _render_address)
_DIRECT_KEY = octets(32, 32)
_DIRECT_SPARE = integer(1, SPARES_LIMIT)
DIRECT: Codec[DirectOffer] = Codec(
    f"object, key: {_DIRECT_KEY.meaning}, spare: {_DIRECT_SPARE.meaning}",
    _parse_direct,
    _render_direct,
)
