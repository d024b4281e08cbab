"""Servers that never come to an end: each is left after a bounded time, with a clear line."""

import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.pebble import LOOPBACK, certify
from tunnel.acme import network
from tunnel.acme.network import REDIRECTS_MAX, Network
from tunnel.errors import IssueFailed

TIMEOUT = 0.5
DRIP_INTERVAL = 0.05  # seconds: shorter than any silence that is borne
ENDLESS = 120.0  # seconds: far longer than a test may take
PART = b"x" * (1 << 20)

Answering = Callable[[ssl.SSLSocket, str], None]


class Server:
    """Answers each connection with whatever `answering` sends, until the other end goes."""

    def __init__(self, folder: Path) -> None:
        self.answering: Answering = lambda _socket, _path: None
        self.asked: list[str] = []
        self.root_file = folder / "endless-root.pem"
        certify(folder, "endless")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "endless.pem", folder / "endless.key")
        self._listener = socket.create_server((LOOPBACK, 0))
        self.url = f"https://{LOOPBACK}:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), self._context.wrap_socket(connection, server_side=True) as tls:
            request = b""
            while b"\r\n\r\n" not in request:
                request += tls.recv(4096)
            path = request.split()[1].decode()
            self.asked.append(path)
            self.answering(tls, path)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(network, "TIMEOUT", TIMEOUT)
    one = Server(tmp_path)
    yield one
    one.close()


def dripping(first: bytes, drop: bytes) -> Answering:
    """Return what sends `drop` for ever."""

    def answer(tls: ssl.SSLSocket, _path: str) -> None:
        tls.sendall(first)
        until = time.monotonic() + ENDLESS
        while time.monotonic() < until:
            tls.sendall(drop)
            time.sleep(DRIP_INTERVAL)

    return answer


def fault_of(server: Server) -> str:
    """Return why nothing came, having seen that it took no longer than it may."""
    begun = time.monotonic()
    with pytest.raises(IssueFailed) as caught:
        Network(str(server.root_file)).fetch(f"{server.url}/1")
    assert time.monotonic() - begun < 10 * TIMEOUT
    return str(caught.value)


@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"x"),
        (b"HTTP/1.1 302 Found\r\nLocation: /2\r\nConnection: close\r\n\r\n", b"x"),
    ],
    ids=["header", "headers", "100 Continue", "body", "redirection"],
)
def test_what_drips_is_left_after_a_while(server: Server, first: bytes, drop: bytes) -> None:
    server.answering = dripping(first, drop)
    assert fault_of(server).endswith(f" took more than {2 * TIMEOUT} s to answer")
    assert server.asked == ["/1"]


def pouring(head: str) -> Answering:
    """Return what sends far more than anybody should keep."""

    def answer(tls: ssl.SSLSocket, _path: str) -> None:
        tls.sendall(f"HTTP/1.1 {head}\r\nConnection: close\r\n\r\n".encode())
        for _ in range(256):
            tls.sendall(PART)

    return answer


@pytest.mark.parametrize("head", ["200 OK", "302 Found\r\nLocation: /2"])
def test_an_endless_body_is_not_read_to_its_end(server: Server, head: str) -> None:
    server.answering = pouring(head)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert fault_of(server).endswith(" answered more than 1048576 bytes")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_a_redirection_of_what_is_signed_is_not_read_to_its_end_either(server: Server) -> None:
    pour = pouring("302 Found\r\nLocation: /2")

    def answer(tls: ssl.SSLSocket, path: str) -> None:
        if path == "/nonce":
            tls.sendall(b"HTTP/1.1 200 OK\r\nReplay-Nonce: abcd\r\nConnection: close\r\n\r\n")
        else:
            pour(tls, path)

    server.answering = answer
    one = Network(str(server.root_file))
    one.nonce_url = f"{server.url}/nonce"
    one.identify(ec.generate_private_key(ec.SECP256R1()), None)
    with pytest.raises(IssueFailed, match="more than 1048576 bytes"):
        one.send(f"{server.url}/1", {})
    assert server.asked == ["/nonce", "/1"]


def redirecting(to: Callable[[str], str | None]) -> Answering:
    def answer(tls: ssl.SSLSocket, path: str) -> None:
        where = to(path)
        head = "200 OK" if where is None else f"302 Found\r\nLocation: {where}"
        tls.sendall(f"HTTP/1.1 {head}\r\nContent-Length: 2\r\n\r\n{{}}".encode())

    return answer


def test_redirections_are_followed_up_to_a_limit(server: Server) -> None:
    last = f"/{1 + REDIRECTS_MAX}"
    server.answering = redirecting(lambda path: None if path == last else f"{int(path[1:]) + 1}")
    assert Network(str(server.root_file)).fetch(f"{server.url}/1").content == b"{}"
    assert server.asked[-1] == last


def test_redirections_in_a_ring_come_to_an_end(server: Server) -> None:
    server.answering = redirecting(lambda path: path)
    assert fault_of(server).endswith(f" redirected more than {REDIRECTS_MAX} times")
    assert len(server.asked) == 1 + REDIRECTS_MAX


def test_no_redirection_leads_out_of_tls(server: Server) -> None:
    server.answering = redirecting(lambda _path: server.url.replace("https", "http"))
    assert "No connection adapters" in fault_of(server)


@pytest.mark.parametrize("where", ["https://[", "//", "https://*.a/", "\\\\"])
def test_a_redirection_to_nowhere_is_told(server: Server, where: str) -> None:
    server.answering = redirecting(lambda path: where if path == "/1" else "")
    assert fault_of(server).startswith(("cannot reach", LOOPBACK))
