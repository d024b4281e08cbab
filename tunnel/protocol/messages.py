"""Every message of the control stream, the signed body and the stream header (docs/protocol.md).

One line per field: its name, what it holds and how it travels; a field with a default need not be
sent. docs/protocol.md has the same table, and a test compares the two.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache, partial
from typing import Annotated, Any, Generic, TypeVar, get_type_hints

from tunnel.errors import LocalProtocolError, RemoteProtocolError
from tunnel.protocol.fields import (
    ADDRESS,
    DIRECT,
    FLAG,
    NAME,
    REASON,
    WORD,
    Codec,
    DirectOffer,
    Reason,
    SocketAddress,
    array,
    by_name,
    integer,
    octets,
    one_of,
    seconds,
    text,
)
from tunnel.protocol.objects import parse_object, render_object

T = TypeVar("T")

NAMES_LIMIT = 64  # of one client
ALPN_ENTRIES_LIMIT = 64
ALPN_BYTES_LIMIT = 1024
MESSAGE_LIMIT = 256  # characters of the text in reject, bye and serving
RETRY_AFTER_LIMIT = 600
REMEMBERED_VALUES = 512  # of each field that is often the same
SERVING_RETRY_AFTER_LIMIT = 604_800  # what is refused there may be counted by the week

_VERSION = integer(1, 65535)
_PORT = integer(1, 65535)
_SEQUENCE = integer(0, 2**63 - 1)
_TIME = integer(0, 253_402_300_799)  # seconds since 1970 (UTC), until the year 9999
_RETRY_AFTER = seconds(0, RETRY_AFTER_LIMIT)
_FEATURES = array(WORD, 0, 16)
_NAMES = array(NAME, 1, NAMES_LIMIT, together=4096)
_ALPN = array(octets(1, 255), 0, ALPN_ENTRIES_LIMIT, together=ALPN_BYTES_LIMIT)


class StreamKind(StrEnum):
    """Who is at the far end of a stream."""

    VISITOR = "visitor"
    CHALLENGE = "challenge"  # a certificate authority that validates the name (RFC 8737)


@dataclass(frozen=True, slots=True)
class Hello:
    """The relay's first message: what it speaks, and a nonce for the proof."""

    versions: Annotated[tuple[int, ...], array(_VERSION, 1, 16)]
    nonce: Annotated[bytes, octets(32, 32)]
    relay: Annotated[str, text(64)]
    features: Annotated[tuple[str, ...], _FEATURES]
    # By the relay's clock, for a client that doubts its own.
    time: Annotated[int | None, _TIME] = None


@dataclass(frozen=True, slots=True)
class Auth:
    """The client's proof: a signature over the connection, the hello and the body."""

    body: Annotated[bytes, octets(2, 12 * 1024)]
    signature: Annotated[bytes, octets(1, 128)]


@dataclass(frozen=True, slots=True)
class AuthBody:
    """What the client claims; nothing of it is believed before the signature is verified."""

    version: Annotated[int, _VERSION]
    key: Annotated[bytes, octets(1, 256)]  # SubjectPublicKeyInfo, DER
    instance: Annotated[bytes, octets(16, 16)]  # random, fixed for the process
    names: Annotated[tuple[str, ...], _NAMES]
    features: Annotated[tuple[str, ...], _FEATURES]
    software: Annotated[str, text(64)]
    extension: Annotated[bytes | None, octets(0, 4096)] = None  # for the relay's authorisation


@dataclass(frozen=True, slots=True)
class Welcome:
    """The relay has accepted the key; `granted` has the public port of each name's URL."""

    session: Annotated[bytes, octets(16, 16)]
    granted: Annotated[Mapping[str, int], by_name(_PORT, NAMES_LIMIT)]
    refused: Annotated[Mapping[str, Reason], by_name(REASON, NAMES_LIMIT)]
    heartbeat: Annotated[float, seconds(1, 60)]
    streams: Annotated[int, integer(1, 2**31 - 1)]
    observed: Annotated[SocketAddress, ADDRESS]  # of the client, as the relay sees it
    direct: Annotated[DirectOffer | None, DIRECT] = None  # where spares are welcome


@dataclass(frozen=True, slots=True)
class Reject:
    """The relay has not accepted the client; the last message."""

    reason: Annotated[Reason, REASON, "code"]  # a third item is the field's word on the wire
    message: Annotated[str, text(MESSAGE_LIMIT)]
    retry_after: Annotated[float | None, _RETRY_AFTER] = None


@dataclass(frozen=True, slots=True)
class Bye:
    """The sender is about to close the connection; its last message."""

    reason: Annotated[Reason, REASON, "code"]
    message: Annotated[str, text(MESSAGE_LIMIT)]
    retry_after: Annotated[float | None, _RETRY_AFTER] = None


@dataclass(frozen=True, slots=True)
class Serve:
    """What the client can answer for a name on this connection from now on."""

    name: Annotated[str, NAME]
    visitors: Annotated[bool, FLAG]
    challenge: Annotated[bool, FLAG]
    renewal: Annotated[bool, FLAG] = False


@dataclass(frozen=True, slots=True)
class Serving:
    """What the relay sends this connection for a name from now on; also unasked."""

    name: Annotated[str, NAME]
    visitors: Annotated[bool, FLAG]
    challenge: Annotated[bool, FLAG]
    reason: Annotated[Reason | None, REASON, "code"] = None
    retry_after: Annotated[float | None, seconds(0, SERVING_RETRY_AFTER_LIMIT)] = None
    message: Annotated[str, text(MESSAGE_LIMIT)] = ""


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a Pong with the same number."""

    seq: Annotated[int, _SEQUENCE]


@dataclass(frozen=True, slots=True)
class Pong:
    """Answers a Ping."""

    seq: Annotated[int, _SEQUENCE]


@dataclass(frozen=True, slots=True)
class Drain:
    """No new streams come here, and the connection closes at the deadline at the latest."""

    deadline: Annotated[float, seconds(0, 86400)]  # from now
    retry_after: Annotated[float, _RETRY_AFTER]


@dataclass(frozen=True, slots=True)
class StreamHeader:
    """The one frame before a stream's raw bytes: who calls, and which name."""

    kind: Annotated[StreamKind, one_of(StreamKind)]
    id: Annotated[str, text(64)]
    name: Annotated[str, NAME]
    peer: Annotated[SocketAddress, ADDRESS]  # of the visitor
    local: Annotated[SocketAddress, ADDRESS]  # where the visitor connected to
    alpn: Annotated[tuple[bytes, ...], _ALPN]  # leading entries of its ClientHello


Message = Hello | Auth | Welcome | Reject | Bye | Serve | Serving | Ping | Pong | Drain


@dataclass(frozen=True, slots=True)
class Field:
    """One line of the tables above."""

    attribute: str
    word: str
    codec: Codec[Any]
    default: object  # dataclasses.MISSING: required

    @property
    def is_required(self) -> bool:
        """Whether a message without the field is malformed."""
        return self.default is dataclasses.MISSING


class Schema(Generic[T]):
    """Reads and writes one class of the above."""

    __slots__ = ("_writers", "fields", "make", "word")

    def __init__(self, make: type[T], often_the_same: Collection[str] = ()) -> None:
        self.make = make
        self.word = make.__name__.lower()
        hints = get_type_hints(make, include_extras=True)
        self.fields = tuple(
            _field(each, hints[each.name].__metadata__)
            for each in dataclasses.fields(make)  # type: ignore[arg-type] # mypy has no bound for "a dataclass"
        )
        self._writers = [
            (each, self._writer(each, is_remembered=each.attribute in often_the_same))
            for each in self.fields
        ]

    def read(self, members: Mapping[str, object]) -> T:
        """Return the message that a JSON object is; raises RemoteProtocolError."""
        return self.make(**{each.attribute: self._read(each, members) for each in self.fields})

    def write(self, message: T) -> dict[str, object]:
        """Return the JSON object; raises LocalProtocolError for what a peer would not accept."""
        values = [(each, write, getattr(message, each.attribute)) for each, write in self._writers]
        return {each.word: write(v) for each, write, v in values if v != each.default}

    def _read(self, each: Field, members: Mapping[str, object]) -> object:
        if each.word not in members:
            if each.is_required:
                raise RemoteProtocolError(f"{self.word}.{each.word}: missing")
            return each.default
        try:
            return each.codec.parse(members[each.word])
        except ValueError as error:
            raise RemoteProtocolError(f"{self.word}.{each.word}: {error}") from error

    def _writer(self, each: Field, *, is_remembered: bool) -> Callable[[Any], object]:
        write = partial(self._write, each)
        return lru_cache(REMEMBERED_VALUES, typed=True)(write) if is_remembered else write

    def _write(self, each: Field, value: object) -> object:
        try:
            rendered = each.codec.render(value)
            each.codec.parse(rendered)
        except ValueError as error:
            raise LocalProtocolError(f"{self.word}.{each.word}: {error}") from error
        return rendered


def _field(each: "dataclasses.Field[Any]", metadata: tuple[Any, ...]) -> Field:
    codec, *words = metadata
    return Field(each.name, words[0] if words else each.name, codec, each.default)


MESSAGE_TYPES: tuple[type[Message], ...] = Message.__args__
BODY_SCHEMA = Schema(AuthBody)
HEADER_SCHEMA = Schema(StreamHeader, often_the_same=("kind", "name", "local", "alpn"))
SCHEMAS: Mapping[type, Schema[Any]] = {
    **{each: Schema(each) for each in MESSAGE_TYPES},
    AuthBody: BODY_SCHEMA,
    StreamHeader: HEADER_SCHEMA,
}
_BY_WORD: Mapping[str, Schema[Any]] = {SCHEMAS[each].word: SCHEMAS[each] for each in MESSAGE_TYPES}


def encode(message: Message | AuthBody | StreamHeader) -> bytes:
    """Return the payload; raises LocalProtocolError if a value is out of its range."""
    schema = SCHEMAS[type(message)]
    tag = {"type": schema.word} if schema.word in _BY_WORD else {}
    return render_object({**tag, **schema.write(message)})


def decode(payload: bytes) -> Message:
    """Return the control message that a frame's payload is; raises RemoteProtocolError."""
    members = parse_object(payload)
    word = members.get("type")
    if not isinstance(word, str) or word not in _BY_WORD:
        raise RemoteProtocolError(f"unknown message type {str(word)[:32]!r}")
    message: Message = _BY_WORD[word].read(members)
    return message


def decode_body(body: bytes) -> AuthBody:
    """Return what an Auth claims; raises RemoteProtocolError."""
    return BODY_SCHEMA.read(parse_object(body))


def decode_header(payload: bytes) -> StreamHeader:
    """Return the header of a data stream; raises RemoteProtocolError."""
    return HEADER_SCHEMA.read(parse_object(payload))


def leading_alpn(entries: Iterable[bytes]) -> tuple[bytes, ...]:
    """Return as many of a ClientHello's ALPN entries, in order, as a stream header may carry."""
    leading: list[bytes] = []
    room = ALPN_BYTES_LIMIT
    for entry in entries:
        room -= len(entry)
        if room < 0 or len(leading) == ALPN_ENTRIES_LIMIT:
            break
        leading.append(entry)
    return tuple(leading)
