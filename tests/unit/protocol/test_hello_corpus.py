"""What real programs send, however the network and the records cut it."""

import pytest

from tests.hello import CORPUS, handshake, record, reframe
from tunnel.protocol.hello import ClientHello, HelloReader, parse_client_hello

NAME = "a1b2c3d4e5f60718.t.example.org"
BROWSER = (b"h2", b"http/1.1")
EXPECTED: dict[str, tuple[str | None, tuple[bytes, ...]]] = {
    "chromium156": (NAME, BROWSER),
    "curl-openssl3-h2": (NAME, BROWSER),
    "curl-tls12-only": (NAME, (b"http/1.1",)),
    "gnutls-cli": (NAME, ()),
    "go1.26": (NAME, BROWSER),
    "java17": (NAME, ()),
    "node20": (NAME, ()),
    "openssl-acme": (NAME, (b"acme-tls/1",)),
    "openssl-no-sni": (None, ()),
    "python-ssl": (NAME, ()),
}

every_program = pytest.mark.parametrize("program", CORPUS)


def expected(program: str, size: int | None = None) -> ClientHello:
    server_name, alpn = EXPECTED[program]
    return ClientHello(server_name, alpn, len(CORPUS[program]) if size is None else size)


def test_every_file_of_the_corpus_has_an_expectation() -> None:
    assert CORPUS.keys() == EXPECTED.keys()


@every_program
def test_name_and_alpn_are_those_the_program_was_told_to_send(program: str) -> None:
    assert parse_client_hello(CORPUS[program]) == expected(program)


@every_program
def test_every_beginning_of_a_hello_asks_for_more(program: str) -> None:
    hello = CORPUS[program]
    assert [end for end in range(len(hello)) if parse_client_hello(hello[:end])] == []


@every_program
def test_a_hello_cut_anywhere_is_read_alike(program: str) -> None:
    hello = CORPUS[program]
    for cut in range(len(hello)):
        reader = HelloReader()
        assert reader.receive(hello[:cut]) is None
        assert reader.receive(hello[cut:]) == expected(program)


@every_program
def test_a_hello_that_comes_byte_by_byte_is_read_alike(program: str) -> None:
    hello, reader = CORPUS[program], HelloReader()
    answers = [reader.receive(hello[at : at + 1]) for at in range(len(hello))]
    assert answers == [*([None] * (len(hello) - 1)), expected(program)]


@every_program
def test_a_hello_that_is_peeked_at_again_and_again_is_read_alike(program: str) -> None:
    hello, reader = CORPUS[program], HelloReader()
    answers = [reader.receive_beginning(hello[:end]) for end in range(1, len(hello) + 1)]
    assert answers == [*([None] * (len(hello) - 1)), expected(program)]


@every_program
@pytest.mark.parametrize(
    "rest", [b"\0", b"\x14\x03\x03\0\1\1", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 20_000]
)
def test_what_follows_a_hello_changes_nothing(program: str, rest: bytes) -> None:
    assert parse_client_hello(CORPUS[program] + rest) == expected(program)


@every_program
@pytest.mark.parametrize(
    "sizes", [(1,), (2,), (3,), (7,), (64,), (255,), (512,), (1, 300), (5, 1, 1, 90), (4, 16_384)]
)
def test_a_hello_in_small_records_is_read_alike(program: str, sizes: tuple[int, ...]) -> None:
    framed = reframe(handshake(CORPUS[program]), *sizes)
    assert parse_client_hello(framed) == expected(program, len(framed))


@every_program
def test_a_hello_in_two_records_is_read_alike_wherever_they_meet(program: str) -> None:
    message = handshake(CORPUS[program])
    size = len(message) + 10
    for cut in range(1, len(message)):
        framed = record(message[:cut]) + record(message[cut:])
        assert parse_client_hello(framed) == expected(program, size)


@every_program
@pytest.mark.parametrize("minor", range(5))
def test_the_version_of_the_record_does_not_matter(program: str, minor: int) -> None:
    hello = record(handshake(CORPUS[program]), version=bytes((3, minor)))
    assert parse_client_hello(hello) == expected(program)
