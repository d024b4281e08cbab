"""Somebody's proxies on the way to a relay: HTTP CONNECT (RFC 9110 §9.3.6), SOCKS5 (RFC 1928)."""

import base64
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tests.e2e.targets import sockets

Credentials = tuple[str, str] | None
Negotiate = Callable[[socket.socket, Credentials], str]


@contextmanager
def proxy(scheme: str, login: Credentials, asked: list[str]) -> Iterator[str]:
    """Run a proxy that wants `login`; `asked` gets each `host:port` that it was asked for."""
    negotiate = {"http": _negotiate_http, "socks5": _negotiate_socks}[scheme]

    def serve(near: socket.socket) -> None:
        where = negotiate(near, login)
        asked.append(where)
        host, _, port = where.rpartition(":")
        with socket.create_connection((host, int(port))) as far:
            _join(near, far)

    with sockets(serve) as address:
        yield address


def _negotiate_http(sock: socket.socket, login: Credentials) -> str:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += _exactly(sock, 1)
    request, *fields = head.decode().split("\r\n")
    if login is not None:
        proof = base64.b64encode(":".join(login).encode()).decode()
        if f"Proxy-Authorization: Basic {proof}" not in fields:
            sock.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            raise ConnectionRefusedError("not logged in")
    method, where, _ = request.split(" ")
    assert method == "CONNECT"
    sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
    return where


def _negotiate_socks(sock: socket.socket, login: Credentials) -> str:
    _, count = _exactly(sock, 2)
    method = 0 if login is None else 2
    if method not in _exactly(sock, count):
        sock.sendall(b"\x05\xff")
        raise ConnectionRefusedError("not logged in")
    sock.sendall(bytes((5, method)))
    if login is not None:
        _exactly(sock, 1)
        given = tuple(_counted(sock) for _ in login)
        sock.sendall(bytes((1, given != login)))
    _, _, _, kind = _exactly(sock, 4)
    host = socket.inet_ntoa(_exactly(sock, 4)) if kind == 1 else _counted(sock)
    port = int.from_bytes(_exactly(sock, 2))
    sock.sendall(b"\x05\x00\x00\x01" + bytes(6))
    return f"{host}:{port}"


def _counted(sock: socket.socket) -> str:
    return _exactly(sock, _exactly(sock, 1)[0]).decode()


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise ConnectionResetError("the client has gone")
        data += part
    return data


def _join(near: socket.socket, far: socket.socket) -> None:
    there = threading.Thread(target=_copy, args=(near, far))
    there.start()
    _copy(far, near)
    there.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while part := source.recv(1 << 16):
            sink.sendall(part)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
