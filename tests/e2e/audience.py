"""Visitors who never stop coming, and some who stay: what any of them missed is kept."""

import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from cryptography import x509

from tests.e2e.targets import SLOW_PIECE, pattern, slow_pieces
from tests.e2e.visitors import request, tls
from tests.e2e.world import Client, Relay
from tunnel.transport.options import ALPN_HTTP2

PAGE = 2_000  # bytes
PAUSE = 0.1  # seconds between two visits, so that the machine has time for others
LEAVE_TIMEOUT = 30.0


@dataclass
class Audience:
    """What the visitors of one client have seen so far; `context` says whom they trust."""

    relay: Relay
    client: Client
    context: ssl.SSLContext
    failures: list[str] = field(default_factory=list)
    newcomers: int = 0
    pages: int = 0  # over the connection that is kept
    leaves: list[list[str]] = field(default_factory=list)  # serial numbers that each newcomer saw
    is_downloaded: bool = False
    leaving: threading.Event = field(default_factory=threading.Event)
    word: str = field(default_factory=lambda: secrets.token_hex(8))  # of the download

    def come(self) -> None:
        """Visit over a connection of one's own, again and again, and once more at the end."""
        leaves: list[str] = []
        self.leaves.append(leaves)
        is_last = False
        while not is_last:
            is_last = self.leaving.wait(PAUSE)
            with tls(self.relay, self.client, context=self.context) as sock:
                leaf = _serial_number(sock)
                assert request(sock, f"/bytes/{PAGE}").body == pattern(PAGE)
            if leaf not in leaves[-1:]:
                leaves.append(leaf)
            self.newcomers += 1

    def stay(self) -> None:
        """Ask for one page after the other over the same connection."""
        with tls(self.relay, self.client, context=self.context) as sock:
            while not self.leaving.wait(PAUSE):
                _keep_asking(sock)
                self.pages += 1

    def download(self) -> None:
        """Fetch one body that takes until `end_download`."""
        with tls(self.relay, self.client, context=self.context) as sock:
            body = request(sock, f"/until/{self.word}").body
        assert body == b"".join(islice(slow_pieces(), len(body) // SLOW_PIECE))
        self.is_downloaded = True

    def end_download(self) -> None:
        """Let the service come to the end of that body."""
        with tls(self.relay, self.client, context=self.context) as sock:
            assert request(sock, f"/enough/{self.word}").status == 200

    def check_content(self, certificates: int) -> None:
        """Fail unless all were served, by at least so many certificates, one after another."""
        assert not self.failures
        assert self.is_downloaded
        assert min(self.newcomers, self.pages) > certificates
        for leaves in self.leaves:
            assert len(leaves) >= certificates
            assert len(leaves) == len(set(leaves)), "an old certificate came back"

    def note(self, visit: Callable[[], None]) -> None:
        """Be a visitor; if it goes wrong, the audience knows."""
        try:
            visit()
        except (OSError, AssertionError, ValueError) as error:
            self.failures.append(f"{visit}: {error!r}"[:500])


def dial(relay: Relay, trust: ssl.SSLContext, name: str) -> x509.Certificate:
    """Return the certificate that a client is shown which trusts the relay by its name."""
    trust.set_alpn_protocols([ALPN_HTTP2])
    with (
        socket.create_connection(("127.0.0.1", relay.agents_port), 15) as plain,
        trust.wrap_socket(plain, server_hostname=name) as sock,
    ):
        shown = sock.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown)


def _serial_number(sock: ssl.SSLSocket) -> str:
    shown = sock.getpeercert()
    assert shown is not None
    return str(shown["serialNumber"])


def _keep_asking(sock: ssl.SSLSocket) -> None:
    sock.sendall(f"GET /bytes/{PAGE} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    received = b""
    while len(received.partition(b"\r\n\r\n")[2]) < PAGE:
        part = sock.recv(1 << 16)
        assert part, "a connection that was to be kept has ended"
        received += part
    assert received.endswith(pattern(PAGE))


@contextmanager
def audience(relay: Relay, client: Client, context: ssl.SSLContext) -> Iterator[Audience]:
    """Have visitors in threads as long as the block takes; one of them downloads all the time."""
    made = Audience(relay, client, context)
    visits = (made.download, made.come, made.come, made.stay)
    threads = [threading.Thread(target=made.note, args=(visit,)) for visit in visits]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        made.note(made.end_download)
        threads[0].join(LEAVE_TIMEOUT)
        made.leaving.set()
        for thread in threads:
            thread.join(LEAVE_TIMEOUT)
