"""Visitors: blocking sockets and whole requests, through a relay's public port."""

import socket
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass

from tests.e2e.world import Client, Relay

TIMEOUT = 15.0  # seconds without a byte


@dataclass(frozen=True)
class Answer:
    """An HTTP/1.1 answer, whole."""

    status: int
    headers: dict[str, str]
    body: bytes


def tcp(relay: Relay, timeout: float = TIMEOUT, source: str = "127.0.0.1") -> socket.socket:
    """Return a plain connection to the relay's public port."""
    return socket.create_connection(("127.0.0.1", relay.public_port), timeout, (source, 0))


def tls(
    relay: Relay,
    client: Client,
    host: str | None = None,
    *,
    context: ssl.SSLContext | None = None,
    alpn: tuple[str, ...] = (),
    timeout: float = TIMEOUT,
    source: str = "127.0.0.1",
) -> ssl.SSLSocket:
    """Return a TLS connection to the client's first endpoint, its certificate verified."""
    host = host or client.host  # a client that serves has its certificates
    context = context or client.trust()
    if alpn:
        context.set_alpn_protocols(list(alpn))
    sock = tcp(relay, timeout, source)
    try:
        return context.wrap_socket(sock, server_hostname=host, suppress_ragged_eofs=False)
    except BaseException:
        sock.close()
        raise


def get(relay: Relay, client: Client, path: str = "/", *, host: str | None = None) -> Answer:
    """Fetch one page over a connection of its own."""
    with tls(relay, client, host) as sock:
        return request(sock, path, host or client.host)


def post(relay: Relay, client: Client, body: Iterable[bytes], size: int) -> Answer:
    """Send a body of `size` bytes over a connection of its own, piece by piece."""
    with tls(relay, client) as sock:
        head = f"POST / HTTP/1.1\r\nHost: {client.host}\r\nConnection: close\r\n"
        sock.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode())
        for piece in body:
            sock.sendall(piece)
        return parse(read_all(sock))


def request(sock: ssl.SSLSocket, path: str, host: str = "test") -> Answer:
    """Send a GET that ends the connection, and return the answer."""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    return parse(read_all(sock))


def read_all(sock: socket.socket) -> bytes:
    """Return everything until the other end finishes."""
    parts = []
    while part := sock.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def parse(raw: bytes) -> Answer:
    """Return the answer that these bytes are."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in rest)
    return Answer(int(first.split()[1]), headers, body)


def served_again(relay: Relay, client: Client, within: float, host: str | None = None) -> float:
    """Return the seconds until a visitor is served; fails if they are more than `within`."""
    start = time.monotonic()
    host = host or client.host
    while (failure := _failure(relay, client, host)) is not None:
        if time.monotonic() - start > within:
            raise AssertionError(f"nobody served within {within:g} s: {failure}")
        time.sleep(0.05)
    seconds = time.monotonic() - start
    assert seconds <= within, f"served after {seconds:.1f} s, not within {within:g} s"
    return seconds


def _failure(relay: Relay, client: Client, host: str) -> str | None:
    """Return why a visitor is not served; None if it is."""
    try:
        with tls(relay, client, host, timeout=2.0) as sock:
            status = request(sock, "/", host).status
    except OSError as error:
        return repr(error)
    return None if status == 200 else f"status {status}"
