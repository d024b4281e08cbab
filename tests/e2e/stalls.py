"""Visitors who stop reading, and a service that does; both know what they should have got.

A visitor's first line says what the service does: `download N` sends pattern N until it is
enough, `upload N` takes pattern N once the service reads, `mirror N` takes N bytes and sends them
back, again and again.
"""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from tests.e2e.targets import pattern, sockets
from tests.e2e.visitors import tcp
from tests.e2e.world import Client, Relay

PIECE_BYTES = 1 << 16
PERIOD_BYTES = 65_521  # of a pattern: a prime, so that no whole piece can be missed or doubled
SOCKET_BUFFER_BYTES = 1 << 16  # of the test's own sockets: what the kernel holds is no subject
TIMEOUT = 60.0  # seconds that somebody may be stalled


def send_pattern(sock: socket.socket, number: int, note: Callable[[int], bool]) -> None:
    """Send the pattern as long as `note` of the bytes sent so far agrees."""
    period, sent = pattern(PERIOD_BYTES, number), 0
    while note(sent):
        sock.sendall(period)
        sent += PERIOD_BYTES


def receive_pattern(
    sock: socket.socket, number: int, note: Callable[[int], bool], start: int = 0
) -> None:
    """Read to the end as long as `note` of the bytes received agrees; compare with the pattern."""
    twice, received = 3 * pattern(PERIOD_BYTES, number), start
    while note(received) and (part := sock.recv(PIECE_BYTES)):
        at = received % PERIOD_BYTES
        if part != twice[at : at + len(part)]:
            raise AssertionError(f"stream {number} differs after byte {received}")
        received += len(part)


@dataclass
class Service:
    """What is behind the client, and what it has sent and received, by number of visitor."""

    port: int = 0  # where it listens
    enough: threading.Event = field(default_factory=threading.Event)
    reads: threading.Event = field(default_factory=threading.Event)
    sent: dict[int, int] = field(default_factory=dict)
    received: dict[int, int] = field(default_factory=dict)
    cut: set[int] = field(default_factory=set)  # whose connection was reset at this end

    def serve(self, sock: socket.socket) -> None:
        """Do what the visitor's first line asks for."""
        sock.settimeout(TIMEOUT)
        word, number = _read_line(sock).split()
        work = {"download": self._send, "upload": self._receive, "mirror": _mirror}[word]
        try:
            work(sock, int(number))
        except ConnectionError:
            self.cut.add(int(number))
            raise

    def _send(self, sock: socket.socket, number: int) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)

        def note(size: int) -> bool:
            self.sent[number] = size
            return not self.enough.is_set()

        send_pattern(sock, number, note)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)  # the visitor has finished too

    def _receive(self, sock: socket.socket, number: int) -> None:
        self.reads.wait(TIMEOUT)

        def note(size: int) -> bool:
            self.received[number] = size
            return True

        receive_pattern(sock, number, note)


def _mirror(sock: socket.socket, size: int) -> None:
    while taken := read_exactly(sock, size):
        sock.sendall(taken)


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """Return so many bytes, fewer at the end only."""
    parts = []
    while size and (part := sock.recv(min(size, PIECE_BYTES))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _read_line(sock: socket.socket) -> str:
    """Return the first line, byte by byte: what follows it is for somebody else."""
    line = b""
    while not line.endswith(b"\n"):
        line += sock.recv(1) or b"\n"
    return line.decode()


@contextmanager
def service() -> Iterator[tuple[Service, str]]:
    """Run a service; yields it and its address."""
    made = Service()
    with sockets(made.serve) as address:
        made.port = int(address.rpartition(":")[2])
        try:
            yield made, address
        finally:
            made.enough.set()
            made.reads.set()


def enter(relay: Relay, client: Client, line: str, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Return a visitor's connection over which the service was told what to do."""
    plain = tcp(relay, TIMEOUT)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    sock = context.wrap_socket(plain, server_hostname=client.host, suppress_ragged_eofs=False)
    sock.sendall(f"{line}\n".encode())
    return sock


class Visitor:
    """Somebody whose connection stalls, until `finish`, for want of a reader at either end."""

    def __init__(self, sock: ssl.SSLSocket, number: int) -> None:
        self.sock = sock
        self.number = number
        self.moved = 0  # bytes that this end has sent or received
        self.fault: OSError | AssertionError | None = None
        self._thread = threading.Thread()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def finish(self) -> None:
        """Stall no longer: come to an end."""
        raise NotImplementedError

    def start(self, work: Callable[[], None]) -> None:
        """Run `work` in a thread."""

        def run() -> None:
            try:
                work()
            except (OSError, AssertionError) as fault:
                self.fault = fault

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until the thread has ended."""
        if self._thread.ident is not None:
            self._thread.join(TIMEOUT)

    @property
    def was_cut(self) -> bool:
        """Whether the connection was reset; raises any other fault."""
        # OpenSSL sometimes tells of a reset as of an end without close_notify.
        if self.fault is None or isinstance(self.fault, ConnectionError | ssl.SSLEOFError):
            return self.fault is not None
        raise self.fault


class Downloader(Visitor):
    """Reads `appetite` bytes and then nothing, until `finish`."""

    def __init__(self, sock: ssl.SSLSocket, number: int, appetite: int = 0) -> None:
        super().__init__(sock, number)
        self._appetite = appetite
        self.start(self._read)

    def finish(self) -> None:
        """Read all the rest."""
        self.join()
        if self.fault is None:
            self._appetite = 1 << 62
            self.start(self._read)

    def _read(self) -> None:
        def note(size: int) -> bool:
            self.moved = size
            return size < self._appetite

        receive_pattern(self.sock, self.number, note, self.moved)
        if self._appetite == 1 << 62:
            self.sock.unwrap().close()


class Uploader(Visitor):
    """Sends for as long as it is let, until `finish`."""

    def __init__(self, sock: ssl.SSLSocket, number: int) -> None:
        super().__init__(sock, number)
        self._is_finishing = False
        self.start(self._write)

    def finish(self) -> None:
        """Send no more."""
        self._is_finishing = True

    def _write(self) -> None:
        def note(size: int) -> bool:
            self.moved = size
            return not self._is_finishing

        send_pattern(self.sock, self.number, note)
        self.sock.unwrap().close()
