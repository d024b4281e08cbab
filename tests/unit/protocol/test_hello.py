"""What a ClientHello may say, and what it is refused for."""

import pytest

from tests.hello import CORPUS, handshake, record, reframe
from tunnel.errors import LocalProtocolError
from tunnel.protocol.hello import (
    MAX_HELLO_BYTES,
    NOT_HTTPS,
    UNRECOGNIZED_NAME_ALERT,
    ClientHello,
    HelloReader,
    HelloRefused,
    alert,
    parse_client_hello,
)

UNEXPECTED_MESSAGE = bytes.fromhex("15 0303 0002 02 0a")
RECORD_OVERFLOW = bytes.fromhex("15 0303 0002 02 16")
ILLEGAL_PARAMETER = bytes.fromhex("15 0303 0002 02 2f")
DECODE_ERROR = bytes.fromhex("15 0303 0002 02 32")
PROTOCOL_VERSION = bytes.fromhex("15 0303 0002 02 46")
UNRECOGNIZED_NAME = bytes.fromhex("15 0303 0002 02 70")


def vector(width: int, content: bytes) -> bytes:
    return len(content).to_bytes(width) + content


def extension(kind: int, body: bytes) -> bytes:
    return kind.to_bytes(2) + vector(2, body)


def host_names(*names: bytes, kind: int = 0) -> bytes:
    """Return a server_name extension."""
    return extension(0, vector(2, b"".join(bytes((kind,)) + vector(2, name) for name in names)))


def protocols(*names: bytes) -> bytes:
    """Return an ALPN extension."""
    return extension(16, vector(2, b"".join(vector(1, name) for name in names)))


def message(
    extensions: bytes | None,
    version: bytes = b"\x03\x03",
    session_id: bytes = b"",
    cipher_suites: bytes = b"\x13\x01",
    compression: bytes = b"\0",
) -> bytes:
    """Return a ClientHello as a handshake message; None leaves the block of extensions out."""
    body = version + bytes(32) + vector(1, session_id) + vector(2, cipher_suites)
    body += vector(1, compression) + (b"" if extensions is None else vector(2, extensions))
    return b"\x01" + vector(3, body)


def read(extensions: bytes) -> ClientHello | None:
    return parse_client_hello(record(message(extensions)))


def answer_to(data: bytes) -> bytes:
    """Return the bytes that a refusal sends back."""
    with pytest.raises(HelloRefused) as refused:
        parse_client_hello(data)
    return refused.value.answer


def answer_to_name(name: bytes) -> bytes:
    return answer_to(record(message(host_names(name))))


def name_in(hello: ClientHello | None) -> str | None:
    assert hello is not None
    return hello.server_name


# Names


def test_a_name_is_read_in_lower_case() -> None:
    assert name_in(read(host_names(b"Shop.EXAMPLE.org"))) == "shop.example.org"


@pytest.mark.parametrize(
    "name",
    [
        b"localhost",
        b"a.b",
        b"1a.example",
        b"1.2.3.4.example",
        b"xn--mnchen-3ya.example",
        b"a--b.example",
        b"l" * 63 + b".example",
        b".".join([b"m" * 49] * 5) + b".xyz",  # 253 bytes
    ],
)
def test_a_host_name_is_taken(name: bytes) -> None:
    assert name_in(read(host_names(name))) == name.decode()


@pytest.mark.parametrize(
    "name",
    [
        b"192.0.2.1",
        b"127.1",
        b"3221225985",
        b"2001:db8::1",
        b"[2001:db8::1]",
        b"::ffff:192.0.2.1",
        b"l" * 64 + b".example",
        b".".join([b"m" * 49] * 5) + b".wxyz",  # 254 bytes
        b"n" * 15_000,
        b"example.org.",
        b".example.org",
        b"example..org",
        b".",
        b"-a.example",
        b"a-.example",
        b"a_b.example",
        b"a b.example",
        b"*.example.org",
        b"example.org:443",
        b"example.org\n",
        b"example.org\0",
        b"exam\0ple.org",
        b"\0",
        "münchen.example".encode(),
        "münchen.example".encode("latin-1"),
        b"\xff",
        "\u212aelvin.example".encode(),  # lower-cases to ASCII
    ],
)
def test_what_is_no_host_name_is_unrecognized(name: bytes) -> None:
    assert answer_to_name(name) == UNRECOGNIZED_NAME


def test_two_names_are_refused() -> None:
    assert answer_to(record(message(host_names(b"a.example", b"b.example")))) == ILLEGAL_PARAMETER


def test_the_same_name_twice_is_refused() -> None:
    assert answer_to(record(message(host_names(b"a.example", b"a.example")))) == ILLEGAL_PARAMETER


def test_two_extensions_with_a_name_each_are_refused() -> None:
    block = host_names(b"a.example") + host_names(b"b.example")
    assert answer_to(record(message(block))) == ILLEGAL_PARAMETER


@pytest.mark.parametrize("kind", [10, 16, 43, 0x1A1A, 0xFE0D])
def test_any_extension_sent_twice_is_refused(kind: int) -> None:
    one = protocols(b"h2") if kind == 16 else extension(kind, b"ab")
    assert answer_to(record(message(one + host_names(b"a.example") + one))) == ILLEGAL_PARAMETER


@pytest.mark.parametrize(
    "server_name",
    [
        pytest.param(extension(0, b""), id="an empty extension"),
        pytest.param(extension(0, b"\0"), id="half a length"),
        pytest.param(extension(0, vector(2, b"")), id="an empty list"),
        pytest.param(host_names(b""), id="an empty name"),
        pytest.param(host_names(b"", b"a.example"), id="an empty name and another"),
        pytest.param(host_names(b"a.example", kind=1), id="another kind of name"),
        pytest.param(extension(0, vector(2, b"\0")), id="a name without its length"),
        pytest.param(extension(0, vector(2, b"\0\0\5a.b")), id="a name longer than its list"),
        pytest.param(extension(0, b"\0\x09\0\0\3a.b"), id="a list longer than its extension"),
        pytest.param(extension(0, vector(2, b"\0\0\3a.b") + b"x"), id="bytes after the list"),
    ],
)
def test_a_malformed_server_name_is_a_decode_error(server_name: bytes) -> None:
    assert answer_to(record(message(server_name))) == DECODE_ERROR


# ALPN


def test_protocols_are_read_in_the_order_sent() -> None:
    hello = read(protocols(b"\x0a\x0a", b"h2", b"http/1.1") + host_names(b"a.example"))
    assert hello is not None
    assert hello.alpn == (b"\x0a\x0a", b"h2", b"http/1.1")


@pytest.mark.parametrize(
    "alpn",
    [
        pytest.param(extension(16, b""), id="an empty extension"),
        pytest.param(protocols(), id="an empty list"),
        pytest.param(protocols(b""), id="an empty protocol"),
        pytest.param(protocols(b"h2", b""), id="a protocol and an empty one"),
        pytest.param(extension(16, vector(2, b"\3h2")), id="a protocol longer than its list"),
        pytest.param(extension(16, b"\0\5\2h2"), id="a list longer than its extension"),
        pytest.param(extension(16, vector(2, b"\2h2") + b"x"), id="bytes after the list"),
    ],
)
def test_a_malformed_list_of_protocols_is_a_decode_error(alpn: bytes) -> None:
    assert answer_to(record(message(host_names(b"a.example") + alpn))) == DECODE_ERROR


# The rest of the hello


def test_a_hello_without_extensions_has_no_name() -> None:
    size = len(record(message(None)))
    assert parse_client_hello(record(message(None))) == ClientHello(None, (), size)


def test_a_hello_with_an_empty_block_of_extensions_has_no_name() -> None:
    assert name_in(read(b"")) is None


def test_extensions_that_nobody_knows_are_skipped() -> None:
    grease, ech = extension(0x2A2A, b"\0"), extension(0xFE0D, bytes(200))
    assert name_in(read(grease + ech + host_names(b"a.example"))) == "a.example"


NAMED = host_names(b"a.example")


@pytest.mark.parametrize(
    ("malformed", "answer"),
    [
        pytest.param(message(NAMED, version=b"\2\0"), PROTOCOL_VERSION, id="SSL 2"),
        pytest.param(message(NAMED, session_id=bytes(33)), DECODE_ERROR, id="long session id"),
        pytest.param(message(NAMED, cipher_suites=b""), DECODE_ERROR, id="no cipher suite"),
        pytest.param(message(NAMED, cipher_suites=b"\x13"), DECODE_ERROR, id="half a suite"),
        pytest.param(message(NAMED, compression=b""), DECODE_ERROR, id="no compression method"),
        pytest.param(b"\1" + vector(3, b""), DECODE_ERROR, id="an empty hello"),
        pytest.param(b"\1" + vector(3, b"\3\3" + bytes(31)), DECODE_ERROR, id="short random"),
        pytest.param(b"\1" + vector(3, message(None)[4:] + b"\0"), DECODE_ERROR, id="half a block"),
        pytest.param(
            b"\1" + vector(3, message(NAMED)[4:] + b"x"), DECODE_ERROR, id="bytes after the block"
        ),
        pytest.param(
            message(NAMED + b"\0\x0a\0\2x"), DECODE_ERROR, id="an extension longer than its block"
        ),
        pytest.param(message(NAMED + b"\0\x0a\0"), DECODE_ERROR, id="half an extension header"),
        pytest.param(b"\2" + message(NAMED)[1:], UNEXPECTED_MESSAGE, id="a ServerHello"),
    ],
)
def test_a_malformed_hello_is_refused(malformed: bytes, answer: bytes) -> None:
    assert answer_to(record(malformed)) == answer


# Records


@pytest.mark.parametrize("version", [b"\2\0", b"\3\5", b"\4\3", b"\xfe\xfd"])
def test_a_record_of_another_protocol_version_is_refused(version: bytes) -> None:
    assert answer_to(record(message(NAMED), version=version)) == PROTOCOL_VERSION


def test_an_empty_record_is_refused() -> None:
    assert answer_to(record(b"") + record(message(NAMED))) == UNEXPECTED_MESSAGE


def test_a_record_over_its_limit_is_refused_by_its_header() -> None:
    assert answer_to(b"\x16\3\1\x40\1") == RECORD_OVERFLOW


@pytest.mark.parametrize("kind", [20, 21, 23, 24, 0])
def test_another_record_within_a_hello_is_refused(kind: int) -> None:
    whole = message(NAMED)
    assert answer_to(record(whole[:20]) + record(whole[20:], kind=kind)) == UNEXPECTED_MESSAGE


def test_another_message_in_the_record_of_the_hello_is_refused() -> None:
    assert answer_to(record(message(NAMED) + b"\0")) == UNEXPECTED_MESSAGE


def test_another_message_in_the_last_of_several_records_is_refused_by_its_header() -> None:
    whole = message(NAMED)
    assert answer_to(record(whole[:20]) + record(whole[20:] + b"\0")[:5]) == UNEXPECTED_MESSAGE


def hello_of(raw_bytes: int) -> bytes:
    """Return a hello in one record that takes `raw_bytes` on the wire."""
    empty = len(record(message(NAMED + extension(21, b""))))
    return record(message(NAMED + extension(21, bytes(raw_bytes - empty))))


def test_a_hello_may_fill_the_limit() -> None:
    hello = parse_client_hello(hello_of(MAX_HELLO_BYTES))
    assert hello == ClientHello("a.example", (), MAX_HELLO_BYTES)


def test_a_hello_over_the_limit_is_refused_by_the_header_of_its_record() -> None:
    assert answer_to(hello_of(MAX_HELLO_BYTES + 1)[:5]) == ILLEGAL_PARAMETER


@pytest.mark.parametrize("length", [MAX_HELLO_BYTES - 8, 1 << 16, (1 << 24) - 1])
def test_a_hello_over_the_limit_is_refused_by_its_length_field(length: int) -> None:
    assert answer_to(record(b"\1" + length.to_bytes(3) + bytes(60))[:9]) == ILLEGAL_PARAMETER


def test_the_headers_of_many_small_records_count_towards_the_limit() -> None:
    framed = reframe(handshake(hello_of(3_000)), 1)
    assert len(framed) > MAX_HELLO_BYTES
    assert answer_to(framed[:MAX_HELLO_BYTES]) == ILLEGAL_PARAMETER


# No wait for more bytes


@pytest.mark.parametrize(
    ("beginning", "answer"),
    [
        (b"\0", UNEXPECTED_MESSAGE),
        (b"\x80\x2e\1", UNEXPECTED_MESSAGE),  # SSL 2
        (b"\x15", UNEXPECTED_MESSAGE),
        (b"S", UNEXPECTED_MESSAGE),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", UNEXPECTED_MESSAGE),
        (b"EHLO mail.example\r\n", UNEXPECTED_MESSAGE),
        (b"GETTING", UNEXPECTED_MESSAGE),
        (b"get / HTTP/1.1", UNEXPECTED_MESSAGE),
        (b"\x03\x00\x00\x13\x0e\xe0", UNEXPECTED_MESSAGE),  # RDP
        (b"\x16\2\0", PROTOCOL_VERSION),
        (b"\x16\3\1\0\0", UNEXPECTED_MESSAGE),
        (b"\x16\3\1\0\x40\2", UNEXPECTED_MESSAGE),
        (record(message(NAMED, version=b"\2\0"))[:11], PROTOCOL_VERSION),
        (record(message(extension(0, bytes(300))))[:56], UNRECOGNIZED_NAME),
        (record(message(host_names(b"a_b") + extension(21, bytes(900))))[:64], UNRECOGNIZED_NAME),
    ],
)
def test_a_beginning_that_cannot_become_a_hello_is_refused(beginning: bytes, answer: bytes) -> None:
    assert answer_to(beginning) == answer


@pytest.mark.parametrize(
    "method",
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "PROPFIND"],
)
def test_a_request_in_plain_http_is_told_so_once_its_method_is_whole(method: str) -> None:
    request = f"{method} / HTTP/1.1\r\nHost: a.example\r\n\r\n".encode()
    assert answer_to(request) == NOT_HTTPS
    assert answer_to(request[: len(method) + 1]) == NOT_HTTPS
    assert parse_client_hello(request[: len(method)]) is None


def test_the_answer_to_plain_http_is_a_whole_response() -> None:
    head, _, body = NOT_HTTPS.partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    assert status == "HTTP/1.1 400 Bad Request"
    assert f"Content-Length: {len(body)}" in fields
    assert "Connection: close" in fields
    assert body == b"this port speaks HTTPS\n"


def test_nothing_at_all_asks_for_more() -> None:
    assert parse_client_hello(b"") is None


# Readers and alerts


def test_a_reader_is_not_fed_after_the_hello() -> None:
    reader = HelloReader()
    reader.receive(CORPUS["java17"])
    with pytest.raises(LocalProtocolError, match="after its answer"):
        reader.receive(b"")


def test_a_reader_is_not_fed_after_a_refusal() -> None:
    reader = HelloReader()
    with pytest.raises(HelloRefused):
        reader.receive(b"\0")
    with pytest.raises(LocalProtocolError, match="after its answer"):
        reader.receive(b"")


def test_an_alert_is_fatal_and_one_record() -> None:
    assert alert(80) == bytes.fromhex("15 0303 0002 02 50")
    assert UNRECOGNIZED_NAME_ALERT == UNRECOGNIZED_NAME
