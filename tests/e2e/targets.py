"""Services behind the client, in threads of the test's own process."""

import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from queue import Queue

SLOW_RATE = 100_000  # bytes per second of what is slow
SLOW_PIECE = 5_000
GREETING = b"hello through the tunnel\n"


@cache
def pattern(size: int, seed: int = 0) -> bytes:
    """Return `size` bytes that look random and are the same every time."""
    return hashlib.shake_128(str(seed).encode()).digest(size)


def slow_pieces() -> Iterator[bytes]:
    """Yield pieces without end, each of them another one."""
    return (pattern(SLOW_PIECE, number) for number in count())


class _Pages(BaseHTTPRequestHandler):
    """`/` a greeting, `/bytes/N` and `/slow/N` N bytes of the pattern, POST the body's hash.

    `/until/WORD` is slow pieces until somebody asks for `/enough/WORD`.
    """

    server: "_Server"
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # heads and bodies are written apart

    def do_GET(self) -> None:
        kind, _, rest = self.path.strip("/").partition("/")
        if kind == "enough":
            self.server.enough.add(rest)
        if kind == "slow":
            self._trickle(pattern(int(rest)))
        elif kind == "until":
            self._trickle_until(rest)
        else:
            self._answer(pattern(int(rest)) if kind == "bytes" else GREETING)

    def do_POST(self) -> None:
        left, digest = int(self.headers["Content-Length"]), hashlib.sha256()
        while left:
            part = self.rfile.read(min(left, 1 << 16))
            if not part:
                return
            digest.update(part)
            left -= len(part)
        self._answer(digest.hexdigest().encode())

    def _answer(self, body: bytes) -> None:
        self._begin(body)
        self.wfile.write(body)

    def _trickle(self, body: bytes) -> None:
        self._begin(body)
        for start in range(0, len(body), SLOW_PIECE):
            self.wfile.write(body[start : start + SLOW_PIECE])
            time.sleep(SLOW_PIECE / SLOW_RATE)

    def _trickle_until(self, word: str) -> None:
        self.close_connection = True
        self.send_response(200)
        self.end_headers()
        for piece in slow_pieces():
            if word in self.server.enough:
                return
            self.wfile.write(piece)
            time.sleep(SLOW_PIECE / SLOW_RATE)

    def _begin(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its signature
        """Stay silent."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, _Pages)
        self.enough: set[str] = set()

    def handle_error(self, request: object, client_address: object) -> None:
        """A visitor that went away is no news."""


@contextmanager
def pages(port: int = 0) -> Iterator[str]:
    """Serve pages, on any port that is free unless it is given; yields the target's address."""
    with serving(_Server(("127.0.0.1", port))) as address:
        yield address


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    """Run a server in a thread of its own; yields its address."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _listen(path: Path | None) -> tuple[socket.socket, str]:
    """Return a listening socket and its address as a target, on loopback or at `path`."""
    if path is None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        return listener, f"127.0.0.1:{listener.getsockname()[1]}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener, f"unix:{path}"


@contextmanager
def sockets(serve: Callable[[socket.socket], None], path: Path | None = None) -> Iterator[str]:
    """Call `serve` with each accepted socket, in a thread of its own; yields the address.

    The socket is one of TCP on loopback, or a Unix socket at `path`.
    """
    listener, address = _listen(path)
    listener.settimeout(0.1)
    stopping = threading.Event()

    def handle(sock: socket.socket) -> None:
        with sock, suppress(OSError):  # what the test looks at is the other end
            serve(sock)

    def accept() -> None:
        while not stopping.is_set():
            try:
                sock, _ = listener.accept()
            except TimeoutError:
                continue
            sock.settimeout(60)
            threading.Thread(target=handle, args=(sock,), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield address
    finally:
        stopping.set()
        thread.join()
        listener.close()


def echo(sock: socket.socket) -> None:
    """Send back what comes, and finish when the other end does."""
    while part := sock.recv(1 << 16):
        sock.sendall(part)
    sock.shutdown(socket.SHUT_WR)


def greet(text: str, heard: Queue[bytes] | None = None) -> Callable[[socket.socket], None]:
    """Return what answers one request with `text`; what came before it goes into `heard`."""
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}"

    def serve(sock: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head.rpartition(b"GET ")[2]:
            part = sock.recv(1 << 16)
            if not part:
                return
            head += part
        if heard is not None:
            heard.put(head.partition(b"GET ")[0])
        sock.sendall(answer.encode())
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(1 << 16):
            pass

    return serve


def greet_over_tls(text: str, context: ssl.SSLContext) -> Callable[[socket.socket], None]:
    """Return what ends TLS itself and answers one request with `text`."""

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as secured:
            secured.recv(1 << 16)
            secured.sendall(f"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{text}".encode())
            secured.unwrap()

    return serve
