"""Reaching a relay through a proxy: what is said, and what its answers mean."""

import asyncio
import socket

import pytest

from tests.unit.transport.loops import on_both_loops, run_on
from tunnel.errors import DialFailed
from tunnel.stream import Address
from tunnel.transport.accepting import TcpListener
from tunnel.transport.proxy import Proxy, Step, connect_through

RELAY = Address("relay.example.org", 443)
ENDS_HEAD = b"\r\n\r\n"


def converse(proxy: Proxy, target: Address, *answers: bytes) -> list[Step]:
    """Return what is said to a proxy that answers like this, and stop where it is content."""
    dialogue = proxy.dialogue(target)
    said = [next(dialogue)]
    said.extend(dialogue.send(answer) for answer in answers[:-1])
    with pytest.raises(StopIteration):
        dialogue.send(answers[-1])
    return said


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://proxy:8080", Proxy("http", Address("proxy", 8080))),
        ("http://[2001:db8::1]", Proxy("http", Address("2001:db8::1", 3128))),
        ("socks5://10.0.0.1", Proxy("socks5", Address("10.0.0.1", 1080))),
        ("socks5://me:p%40ss@host:9", Proxy("socks5", Address("host", 9), "me", "p@ss")),
    ],
)
def test_a_proxy_is_named_by_its_url(url: str, expected: Proxy) -> None:
    assert Proxy.parse(url) == expected


@pytest.mark.parametrize("url", ["https://proxy:1", "proxy:8080", "http://", "http://host:port"])
def test_any_other_url_is_refused(url: str) -> None:
    with pytest.raises(DialFailed, match="proxy URL"):
        Proxy.parse(url)


def test_a_password_is_never_shown() -> None:
    assert "secret" not in repr(Proxy.parse("http://me:secret@proxy"))


def test_http_asks_for_a_tunnel_to_the_name() -> None:
    said = converse(Proxy.parse("http://proxy"), RELAY, b"HTTP/1.1 200 OK\r\n\r\n")
    assert said == [
        Step(
            b"CONNECT relay.example.org:443 HTTP/1.1\r\nHost: relay.example.org:443\r\n\r\n",
            ENDS_HEAD,
        )
    ]


def test_http_logs_in_with_basic_credentials() -> None:
    proxy = Proxy.parse("http://Aladdin:open%20sesame@proxy")
    [said] = converse(proxy, RELAY, b"HTTP/1.0 200\r\n\r\n")
    assert b"\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n" in said.send


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407 Proxy Authentication"),
        (b"HTTP/1.1 502 Bad Gateway\r\nx: y\r\n\r\n", "502 Bad Gateway"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "instead of HTTP"),
    ],
)
def test_what_an_http_proxy_refuses_with_is_said(answer: bytes, says: str) -> None:
    dialogue = Proxy.parse("http://proxy").dialogue(RELAY)
    next(dialogue)
    with pytest.raises(DialFailed, match=says):
        dialogue.send(answer)


def test_socks_lets_the_proxy_resolve_the_name() -> None:
    name = b"\x05\x01\x00\x03\x11relay.example.org\x01\xbb"
    said = converse(Proxy.parse("socks5://proxy"), RELAY, b"\5\0", b"\5\0\0\1\x7f", b"\0\0\1\0\0")
    assert said == [Step(b"\5\1\0", 2), Step(name, 5), Step(b"", 5)]


@pytest.mark.parametrize(
    ("host", "encoded"),
    [("192.0.2.1", b"\1\xc0\0\2\1"), ("2001:db8::1", b"\4\x20\1\x0d\xb8" + bytes(11) + b"\1")],
)
def test_socks_sends_addresses_as_such(host: str, encoded: bytes) -> None:
    said = converse(
        Proxy.parse("socks5://proxy"), Address(host, 443), b"\5\0", b"\5\0\0\1\0", b"\0\0\0\0\0"
    )
    assert said[1].send == b"\5\1\0" + encoded + b"\1\xbb"


def test_socks_logs_in() -> None:
    said = converse(
        Proxy.parse("socks5://me:pass@proxy"),
        RELAY,
        *(b"\5\2", b"\1\0", b"\5\0\0\3\4", b"host\0\0"),
    )
    assert said[:2] == [Step(b"\5\1\2", 2), Step(b"\1\2me\4pass", 2)]
    assert said[3].read == 4 + 2


@pytest.mark.parametrize(
    ("url", "answers", "says"),
    [
        ("socks5://proxy", [b"HT"], "does not speak SOCKS5"),
        ("socks5://proxy", [b"\5\xff"], "another way to log in"),
        ("socks5://a:b@proxy", [b"\5\2", b"\1\1"], "refused the username"),
        ("socks5://proxy", [b"\5\0", b"\5\5\0\1\0"], "connection refused"),
        ("socks5://proxy", [b"\5\0", b"\5\x63\0\1\0"], "reply 99"),
        ("socks5://proxy", [b"\5\0", b"\5\0\0\7\0"], "unknown address type"),
        (f"socks5://{'a' * 256}:b@proxy", [b"\5\2"], "255 bytes"),
    ],
)
def test_what_a_socks_proxy_refuses_with_is_said(url: str, answers: list[bytes], says: str) -> None:
    dialogue = Proxy.parse(url).dialogue(RELAY)
    next(dialogue)
    for answer in answers[:-1]:
        dialogue.send(answer)
    with pytest.raises(DialFailed, match=says):
        dialogue.send(answers[-1])


def test_a_name_that_socks_cannot_carry_is_said() -> None:
    dialogue = Proxy.parse("socks5://proxy").dialogue(Address("x" * 64 + ".test", 443))
    next(dialogue)
    with pytest.raises(DialFailed, match="not a host name"):
        dialogue.send(b"\x05\x00")


async def through(answer: bytes, timeout: float = 5) -> tuple[socket.socket, socket.socket]:
    """Connect through a proxy that says `answer` at once; return both ends of the socket."""
    listener = TcpListener(Address("127.0.0.1", 0))
    proxy = Proxy("http", listener.address)
    async with asyncio.TaskGroup() as group:
        accepting = group.create_task(listener.accept())
        connecting = group.create_task(_connect(proxy, timeout))
        far = await accepting
        await asyncio.get_running_loop().sock_sendall(far, answer)
        if not answer.endswith(ENDS_HEAD) and timeout > 1:
            far.shutdown(socket.SHUT_WR)
    listener.close()
    result = connecting.result()
    if isinstance(result, DialFailed):
        far.close()
        raise result
    return result, far


async def _connect(proxy: Proxy, timeout: float) -> socket.socket | DialFailed:
    try:
        return await connect_through(proxy, RELAY, timeout)
    except DialFailed as error:
        return error


@on_both_loops
def test_no_byte_after_the_answer_is_taken(loop: str) -> None:
    async def body() -> None:
        near, far = await through(b"HTTP/1.1 200 OK\r\n\r\n")
        far.sendall(b"\x16")
        assert await asyncio.get_running_loop().sock_recv(near, 100) == b"\x16"
        near.close()
        far.close()

    run_on(loop, body())


@on_both_loops
@pytest.mark.parametrize(
    ("answer", "timeout", "says"),
    [
        (b"HTTP/1.1 403 No\r\n\r\n", 5, "answered '403 No'"),
        (b"HTTP/1.1 200", 5, "closed the connection instead of answering"),
        (b"HTTP/1.1 200", 0.05, r"no answer within 0\.05 s"),
        (b"HTTP/1.1 200 " + b"x" * 17000, 5, "more than 16384 bytes"),
    ],
)
def test_why_a_proxy_is_of_no_use_is_said(
    loop: str, answer: bytes, timeout: float, says: str
) -> None:
    async def body() -> None:
        with pytest.raises(DialFailed, match=rf"proxy 127\.0\.0\.1:\d+: .*{says}"):
            await through(answer, timeout)

    run_on(loop, body())
