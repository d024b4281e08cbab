"""Visitors, a process of their own: `python -m scripts.benchmarks.visitors WAY PORT HOST KIND …`.

WAY is `raw` (bare bytes behind a ClientHello, for tunnels that pass TLS through) or `tls`. KIND is
`get`, `put`, `echo`, `come` or `ask`, with VISITORS and SECONDS, or `fetch` with VISITORS and MIB.
Prints a JSON object.
"""

import json
import select
import socket
import ssl
import statistics
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from scripts.benchmarks.hello import raw_hello

MIB = 1 << 20
MESSAGE = b"x" * 100
READ_BYTES = 1 << 18
TIMEOUT = 60.0  # seconds without a byte
INTERVAL = 0.1  # seconds between requests of one who asks

Figures = dict[str, float]


@dataclass(frozen=True)
class Way:
    """How visitors come in."""

    port: int
    host: str
    context: ssl.SSLContext | None
    hello: bytes

    @classmethod
    def of(cls, kind: str, port: int, host: str) -> "Way":
        """Return the way by its name."""
        if kind == "raw":
            return cls(port, host, None, raw_hello(host))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return cls(port, host, context, b"")

    def connect(self, first: bytes = b"") -> socket.socket:
        """Return a connection on which `first` has been sent."""
        sock = socket.create_connection(("127.0.0.1", self.port), TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.context is not None:
            sock = self.context.wrap_socket(sock, server_hostname=self.host)
        sock.sendall(self.hello + first)
        return sock


def together(count: int, visit: Callable[[], float]) -> tuple[float, float]:
    """Let so many visit at once; return the sum of what each says, and the seconds that it took."""
    results: list[float] = []
    threads = [threading.Thread(target=lambda: results.append(visit())) for _ in range(count)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(results) < count:
        raise SystemExit("a visitor has failed")
    return sum(results), time.perf_counter() - start


def get(way: Way, count: int, seconds: float) -> Figures:
    """Download for some seconds."""

    def visit() -> float:
        total, buffer = 0, bytearray(READ_BYTES)
        with way.connect(b"get") as sock:
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                got = sock.recv_into(buffer)
                if not got:
                    raise SystemExit("a visitor was cut")
                total += got
        return total

    total, elapsed = together(count, visit)
    return {"MiB": total / MIB, "MiB/s": total / MIB / elapsed}


def put(way: Way, count: int, seconds: float) -> Figures:
    """Upload for some seconds; what counts is what the target has got."""
    block = bytes(READ_BYTES)

    def visit() -> float:
        with way.connect(b"put") as sock:
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                sock.sendall(block)
            if isinstance(sock, ssl.SSLSocket):
                end_writing(sock)
            else:
                sock.shutdown(socket.SHUT_WR)
            return float(sock.recv(100))

    total, elapsed = together(count, visit)
    return {"MiB": total / MIB, "MiB/s": total / MIB / elapsed}


def end_writing(sock: ssl.SSLSocket) -> None:
    """Send close_notify and go on reading."""
    sock.settimeout(0)
    with suppress(ssl.SSLError):  # it wants to read the other's
        sock.unwrap()
    sock.settimeout(TIMEOUT)


def echo(way: Way, count: int, seconds: float) -> Figures:
    """Ask again as soon as an answer is there, over connections that are kept."""
    poll = select.epoll()
    visitors = {sock.fileno(): sock for sock in (way.connect(MESSAGE) for _ in range(count))}
    for sock in visitors.values():
        read_message(sock)
        poll.register(sock, select.EPOLLIN)
    asked: dict[int, float] = {}
    times: list[float] = []
    for number, sock in visitors.items():
        asked[number] = time.perf_counter()
        sock.sendall(MESSAGE)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for number, _ in poll.poll(TIMEOUT):
            read_message(visitors[number])
            now = time.perf_counter()
            times.append((now - asked[number]) * 1000)
            asked[number] = now
            visitors[number].sendall(MESSAGE)
    cuts = statistics.quantiles(times, n=100)
    return {"requests": len(times), "p50 ms": cuts[49], "p99 ms": cuts[98]}


def fetch(way: Way, count: int, mebibytes: float) -> Figures:
    """Download so much."""

    def visit() -> float:
        left, buffer = int(mebibytes * MIB), bytearray(READ_BYTES)
        with way.connect(b"get") as sock:
            while left > 0:
                got = sock.recv_into(buffer)
                if not got:
                    raise SystemExit("a visitor was cut")
                left -= got
        return mebibytes

    total, elapsed = together(count, visit)
    return {"MiB/s": total / elapsed}


def ask(way: Way, count: int, seconds: float) -> Figures:
    """Ask ten times a second over connections that are kept."""
    times: list[float] = []
    start = time.perf_counter()

    def visit() -> float:
        with way.connect(MESSAGE) as sock:
            read_message(sock)
            for number in range(int(seconds / INTERVAL)):
                due = start + number * INTERVAL
                time.sleep(max(0.0, due - time.perf_counter()))
                asked = time.perf_counter()
                sock.sendall(MESSAGE)
                read_message(sock)
                times.append((time.perf_counter() - asked) * 1000)
        return 0.0

    together(count, visit)
    cuts = statistics.quantiles(times, n=100)
    return {"p50 ms": cuts[49], "p90 ms": cuts[89], "p99 ms": cuts[98]}


def read_message(sock: socket.socket) -> None:
    """Read one answer."""
    left = len(MESSAGE)
    while left:
        got = len(sock.recv(left))
        if not got:
            raise SystemExit("a visitor was cut")
        left -= got


def come(way: Way, count: int, seconds: float) -> Figures:
    """Connect, shake hands, ask once, leave: again and again, so many at a time."""
    end = time.perf_counter() + seconds

    def visit() -> float:
        visits = 0
        while time.perf_counter() < end:
            with way.connect(MESSAGE) as sock:
                read_message(sock)
            visits += 1
        return visits

    total, elapsed = together(count, visit)
    return {"visitors": total, "visitors/s": total / elapsed}


def main() -> None:
    """Visit as the command line says."""
    kind, port, host, what, count, seconds = sys.argv[1:]
    visit = {"get": get, "put": put, "echo": echo, "come": come, "fetch": fetch, "ask": ask}[what]
    way = Way.of(kind, int(port), host)
    sys.stdout.write(json.dumps(visit(way, int(count), float(seconds))))


if __name__ == "__main__":
    main()
