"""The first bytes of a visitor: which name and which ALPN its ClientHello asks for.

Reads just enough of TLS (RFC 8446 §4.1.2, §5.1; RFC 6066 §3; RFC 7301 §3.1) to route a connection
that somebody else terminates; it neither negotiates nor judges what routing does not need.
"""

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum, auto, unique
from struct import Struct
from typing import Final, TypeVar

from tunnel.errors import LocalProtocolError, RemoteProtocolError
from tunnel.protocol.names import HOST_NAME_LIMIT, check_host_name

MAX_HELLO_BYTES: Final = 16 * 1024  # record headers included: what a peeking reader must hold
ALPN_AGENT: Final = b"tunnel-h2/1"
ALPN_VALIDATION: Final = b"acme-tls/1"  # RFC 8737 §6.2

UNEXPECTED_MESSAGE: Final = 10  # the numbers are those of RFC 8446 §6
RECORD_OVERFLOW: Final = 22
ILLEGAL_PARAMETER: Final = 47
DECODE_ERROR: Final = 50
PROTOCOL_VERSION: Final = 70
UNRECOGNIZED_NAME: Final = 112

HANDSHAKE: Final = 22
CLIENT_HELLO: Final = 1
SERVER_NAME: Final = 0
APPLICATION_PROTOCOLS: Final = 16
MAX_RECORD_BYTES: Final = 1 << 14
_EXTENSION: Final = Struct(">HH")  # its kind, and the length of its body
_READ: Final = frozenset({SERVER_NAME, APPLICATION_PROTOCOLS})
SERVER_NAME_OVERHEAD: Final = 5  # list length, name type, name length

HTTP_METHODS: Final = (
    *(b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"CONNECT ", b"OPTIONS ", b"TRACE "),
    *(b"PATCH ", b"PRI ", b"PROPFIND "),
)
NOT_HTTPS: Final = (
    b"HTTP/1.1 400 Bad Request\r\n"
    b"Content-Type: text/plain\r\n"
    b"Content-Length: 23\r\n"
    b"Connection: close\r\n"
    b"\r\n"
    b"this port speaks HTTPS\n"
)

T = TypeVar("T")
Steps = Generator[None, None, T]  # yields whenever it needs bytes that have not arrived


def alert(description: int) -> bytes:
    """Return the TLS record of a fatal alert (RFC 8446 §6.2)."""
    return bytes((21, 3, 3, 0, 2, 2, description))


UNRECOGNIZED_NAME_ALERT: Final = alert(UNRECOGNIZED_NAME)


class HelloRefused(RemoteProtocolError):  # noqa: N818 - named like Refused, which it resembles
    """A connection cannot be routed; `answer` holds the bytes to send before closing it."""

    def __init__(self, message: str, answer: bytes) -> None:
        self.answer = answer
        super().__init__(message)


@unique
class Arrival(Enum):
    """Who has come to a TCP port, told by the ALPN alone (docs/protocol.md §1)."""

    VALIDATION = auto()  # a CA that checks a name, RFC 8737
    AGENT = auto()  # a client that wants to register
    VISITOR = auto()


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What routing needs of a ClientHello.

    `server_name` is a lower-case RFC 1123 host name without trailing dot, or None when none was
    sent; `size` counts the raw bytes of the records that carry the hello.
    """

    server_name: str | None
    alpn: tuple[bytes, ...]
    size: int

    @property
    def required_name(self) -> str:
        """The server name; raises HelloRefused when none was sent."""
        if self.server_name is None:
            raise HelloRefused("the ClientHello names no server", UNRECOGNIZED_NAME_ALERT)
        return self.server_name


def sort(hello: ClientHello, *, accepts_agents: bool) -> Arrival:
    """Return who has come; where agents are not accepted, one is a visitor like any other.

    Raises HelloRefused when anyone but an agent names no server. (An agent that dials an address
    has no name to send, RFC 6066 §3.)
    """
    if accepts_agents and ALPN_AGENT in hello.alpn:
        return Arrival.AGENT
    _ = hello.required_name
    return Arrival.VALIDATION if hello.alpn == (ALPN_VALIDATION,) else Arrival.VISITOR


def parse_client_hello(data: bytes) -> ClientHello | None:
    """Return the ClientHello that a connection begins with, or None while it is incomplete.

    `data` starts at the first byte of the connection; whatever follows the hello is ignored.
    Raises HelloRefused as soon as no further byte could change that. Each call reads from the
    start: who tries at every segment takes a HelloReader, or pays the square of their number.
    """
    return HelloReader().receive(data)


class HelloReader:
    """Reads one ClientHello from the pieces in which it arrives, each byte once."""

    def __init__(self) -> None:
        self._unread = bytearray()
        self._size = 0  # raw bytes read
        self._record_left = 0  # bytes of the current record not yet read
        self._hello_left: int | None = None  # bytes of the hello not yet read, once its length is
        self._server_name: str | None = None
        self._alpn: tuple[bytes, ...] = ()
        self._steps = self._read_hello()
        self._is_done = False

    def receive(self, data: bytes) -> ClientHello | None:
        """Take the next bytes and return the hello once it is whole, None before.

        Raises HelloRefused as soon as the bytes so far cannot become one, LocalProtocolError when
        called again after either answer.
        """
        if self._is_done:
            raise LocalProtocolError("a HelloReader was fed after its answer")
        if not self._size and not self._unread and (whole := _at_a_glance(data)) is not None:
            self._is_done = True
            return whole
        self._unread += data
        self._is_done = True
        try:
            next(self._steps)
        except StopIteration as end:
            hello: ClientHello = end.value
            return hello
        self._is_done = False
        return None

    def receive_beginning(self, data: bytes) -> ClientHello | None:
        """Do as `receive` does, with all bytes since the connection began: what peeking gives."""
        return self.receive(data[self._size + len(self._unread) :])

    def _read_hello(self) -> Steps[ClientHello]:
        yield from self._refuse_plaintext()
        yield from self._read_message_header()
        yield from self._read_legacy_fields()
        yield from self._read_extensions()
        return ClientHello(self._server_name, self._alpn, self._size)

    def _refuse_plaintext(self) -> Steps[None]:
        while not self._unread:
            yield
        while self._unread[0] != HANDSHAKE:
            start = bytes(self._unread)
            if start.startswith(HTTP_METHODS):
                raise HelloRefused("plain HTTP instead of TLS", NOT_HTTPS)
            if not any(method.startswith(start) for method in HTTP_METHODS):
                raise _refusal("neither TLS nor HTTP", UNEXPECTED_MESSAGE)
            yield

    def _read_message_header(self) -> Steps[None]:
        if (yield from self._read_fragments(1))[0] != CLIENT_HELLO:
            raise _refusal("the first message is not a ClientHello", UNEXPECTED_MESSAGE)
        self._hello_left = int.from_bytes((yield from self._read_fragments(3)))
        self._check_room()

    def _read_legacy_fields(self) -> Steps[None]:
        if (yield from self._read(2))[0] != 3:
            raise _refusal("not a version of TLS", PROTOCOL_VERSION)
        yield from self._read(32)  # random
        if len((yield from self._read_vector(1))) > 32:
            raise _refusal("session id too long", DECODE_ERROR)
        cipher_suites = yield from self._read_vector(2)
        if not cipher_suites or len(cipher_suites) % 2:
            raise _refusal("bad list of cipher suites", DECODE_ERROR)
        if not (yield from self._read_vector(1)):
            raise _refusal("no compression method", DECODE_ERROR)

    def _read_extensions(self) -> Steps[None]:
        if not self._hello_left:  # RFC 5246 §7.4.1.2: before TLS 1.3 there need not be any
            return
        if int.from_bytes((yield from self._read(2))) != self._hello_left:
            raise _refusal("extensions do not fill the ClientHello", DECODE_ERROR)
        seen: set[int] = set()
        while self._hello_left:
            kind = int.from_bytes((yield from self._read(2)))
            if kind in seen:  # RFC 8446 §4.2
                raise _refusal(f"extension {kind} sent twice", ILLEGAL_PARAMETER)
            seen.add(kind)
            yield from self._read_extension(kind)

    def _read_extension(self, kind: int) -> Steps[None]:
        length = int.from_bytes((yield from self._read(2)))
        if kind == SERVER_NAME and length > SERVER_NAME_OVERHEAD + HOST_NAME_LIMIT:
            raise _refusal("server name too long", UNRECOGNIZED_NAME)
        body = yield from self._read(length)
        if kind == SERVER_NAME:
            self._server_name = _parse_server_name(body)
        elif kind == APPLICATION_PROTOCOLS:
            self._alpn = _parse_protocols(body)

    def _read_vector(self, width: int) -> Steps[bytes]:
        """Return what follows its own length, given in `width` bytes (RFC 8446 §3.4)."""
        length = int.from_bytes((yield from self._read(width)))
        return (yield from self._read(length))

    def _read(self, count: int) -> Steps[bytes]:
        """Return the next `count` bytes of the hello; refuses a length that points beyond it."""
        if count > (self._hello_left or 0):
            raise _refusal("a length points beyond the ClientHello", DECODE_ERROR)
        return (yield from self._read_fragments(count))

    def _read_fragments(self, count: int) -> Steps[bytes]:
        """Return the next `count` bytes of handshake, from however many records hold them."""
        parts = bytearray()
        while len(parts) < count:
            if not self._record_left:
                yield from self._open_record()
            part = yield from self._read_raw(min(count - len(parts), self._record_left))
            self._record_left -= len(part)
            if self._hello_left is not None:
                self._hello_left -= len(part)
            parts += part
        return bytes(parts)

    def _open_record(self) -> Steps[None]:
        if (yield from self._read_raw(1))[0] != HANDSHAKE:
            raise _refusal("another record before the end of the ClientHello", UNEXPECTED_MESSAGE)
        major, minor = yield from self._read_raw(2)
        if major != 3 or minor > 4:
            raise _refusal("not a record version of TLS", PROTOCOL_VERSION)
        self._record_left = int.from_bytes((yield from self._read_raw(2)))
        if not self._record_left:  # RFC 8446 §5.1
            raise _refusal("empty handshake record", UNEXPECTED_MESSAGE)
        if self._record_left > MAX_RECORD_BYTES:
            raise _refusal("record too long", RECORD_OVERFLOW)
        self._check_room()

    def _check_room(self) -> None:
        """Refuse at once what must grow too long, or what the record holds beyond the hello."""
        left = self._record_left if self._hello_left is None else self._hello_left
        if self._size + left > MAX_HELLO_BYTES:
            raise _refusal(f"a ClientHello over {MAX_HELLO_BYTES} bytes", ILLEGAL_PARAMETER)
        if self._record_left > left:
            raise _refusal("another message after the ClientHello", UNEXPECTED_MESSAGE)

    def _read_raw(self, count: int) -> Steps[bytes]:
        while len(self._unread) < count:
            yield
        part = bytes(self._unread[:count])
        del self._unread[:count]
        self._size += count
        return part


def _at_a_glance(data: bytes) -> ClientHello | None:
    """Return a faultless hello that is whole and fills one record, as nearly all do.

    None says nothing: whatever is different is read step by step, which takes ten times as long.
    """
    size = 5 + int.from_bytes(data[3:5])
    is_whole = 44 < size <= len(data) and size <= MAX_HELLO_BYTES and data[6:9] == _u24(size - 9)
    if not is_whole or data[:2] != b"\x16\x03" or data[2] > 4 or data[5:10:4] != b"\x01\x03":
        return None
    at = 44 + data[43]  # after the session id
    suites = int.from_bytes(data[at : at + 2])
    at += 2 + suites
    if data[43] > 32 or not suites or suites % 2 or at >= size or not data[at]:
        return None
    at += 1 + data[at]
    if int.from_bytes(data[at : at + 2]) != size - at - 2:
        return None
    try:
        return _with_extensions(data[at + 2 : size], size)
    except HelloRefused:
        return None


def _with_extensions(data: bytes, size: int) -> ClientHello | None:
    """Return the hello of `size` bytes that ends with these extensions, None for a fault."""
    bodies: dict[int, bytes] = {}
    at, end = 0, len(data)
    while at < end:
        start = at + _EXTENSION.size
        if start > end:
            return None
        kind, length = _EXTENSION.unpack_from(data, at)
        at = start + length
        if at > end or kind in bodies:
            return None
        bodies[kind] = data[start:at] if kind in _READ else b""
    name, protocols = bodies.get(SERVER_NAME), bodies.get(APPLICATION_PROTOCOLS)
    if name is not None and len(name) > SERVER_NAME_OVERHEAD + HOST_NAME_LIMIT:
        return None
    return ClientHello(
        None if name is None else _parse_server_name(name),
        () if protocols is None else _parse_protocols(protocols),
        size,
    )


def _u24(number: int) -> bytes:
    return number.to_bytes(3)


def _refusal(message: str, description: int) -> HelloRefused:
    return HelloRefused(message, alert(description))


def _parse_server_name(body: bytes) -> str:
    """Return the one host name of a server_name extension (RFC 6066 §3), in lower case."""
    names, rest = _split_vector(body, 2)
    if rest or not names:
        raise _refusal("malformed server name", DECODE_ERROR)
    name, rest = _split_vector(names[1:], 2)
    if names[0] != 0 or not name:
        raise _refusal("malformed server name", DECODE_ERROR)
    if rest:
        raise _refusal("more than one server name", ILLEGAL_PARAMETER)
    try:
        return check_host_name(name.decode("ascii").lower())
    except ValueError as error:
        raise _refusal("server name is no host name", UNRECOGNIZED_NAME) from error


def _parse_protocols(body: bytes) -> tuple[bytes, ...]:
    """Return the names of an ALPN extension (RFC 7301 §3.1): at least one, none empty."""
    names, rest = _split_vector(body, 2)
    protocols = []
    while names:
        protocol, names = _split_vector(names, 1)
        protocols.append(protocol)
    if rest or not protocols or b"" in protocols:
        raise _refusal("malformed list of application protocols", DECODE_ERROR)
    return tuple(protocols)


def _split_vector(data: bytes, width: int) -> tuple[bytes, bytes]:
    """Return the vector that `data` begins with, and what follows it."""
    end = width + int.from_bytes(data[:width])
    if len(data) < end:
        raise _refusal("a length points beyond its extension", DECODE_ERROR)
    return data[width:end], data[end:]
