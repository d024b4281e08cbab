"""How each end of a tunnelled connection learns that the other has ended (docs/protocol.md §5).

Every test runs over both transports and over direct connections, in both directions, with the
visitor's TLS ended at the client and passed through to the target, and in the slow half with every
other pair of QUIC engines: `near` is the end that something happens at, `far` the other one.
"""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import trustme

from tests.e2e.ends import Ending, PlainEnd, TlsEnd
from tests.e2e.targets import pattern
from tests.e2e.visitors import TIMEOUT, tcp
from tests.e2e.world import WAYS, Client, Relay, new_world
from tests.variants import ASKED, OTHER, Variant, others, slow

pytestmark = pytest.mark.timeout(60)  # a program that does not start says so after 20 s

ENDED, PASSED = "self-signed", "passthrough"  # what happens to the visitor's TLS at the client
FLOW = '[flow]\nstream_window = "64KiB"\nstream_window_max = "64KiB"\n'
STALLED_BYTES = 256 << 20  # more than windows and socket buffers hold together
PERIOD_BYTES = (1 << 20) - 3
QUIET = 0.5  # seconds in which a sender gets nothing more away: it is blocked


@dataclass
class Passage:
    """A relay and a client that bring visitors to a listener of the test."""

    relay: Relay
    client: Client
    certificate: str
    listener: socket.socket
    authority: trustme.CA

    @contextmanager
    def pair(self) -> Iterator[tuple[PlainEnd, PlainEnd]]:
        """Return the visitor's and the target's end of a new connection, in use both ways."""
        host = self.client.host
        visitor = TlsEnd(tcp(self.relay), self._trust(), host)
        with closing(visitor), ThreadPoolExecutor(1) as pool:
            answered = pool.submit(self._answer, host)
            visitor.shake_hands()
            with closing(answered.result()) as target:
                for source, sink in ((visitor, target), (target, visitor)):
                    source.send(b"hello")
                    assert sink.receive_exactly(5) == b"hello"
                yield visitor, target

    def _trust(self) -> ssl.SSLContext:
        if self.certificate == ENDED:
            return self.client.trust()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.authority.configure_trust(context)
        return context

    def _answer(self, host: str) -> PlainEnd:
        sock, _ = self.listener.accept()
        sock.settimeout(TIMEOUT)
        if self.certificate == ENDED:
            return PlainEnd(sock)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(host).configure_cert(context)
        target = TlsEnd(sock, context)
        target.shake_hands()
        return target


BESIDES = {  # engines, in the slow half
    ("quic", ENDED): (OTHER,),
    ("quic", PASSED): tuple(others()),
    ("direct", ENDED): (OTHER,),
    ("direct", PASSED): (OTHER,),
}


def passages() -> Iterator[Any]:
    """Yield what makes each passage: the way, what becomes of TLS, and both engines."""
    for way, certificate in product(WAYS, (ENDED, PASSED)):
        yield pytest.param((way, certificate, ASKED.engines), id=f"{way}-{certificate}")
        for engines in BESIDES.get((way, certificate), ()):
            yield slow((way, certificate, engines), name=f"{way}-{certificate}-{engines}")


@pytest.fixture(scope="module", params=passages(), autouse=True)
def passage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Passage]:
    way, certificate, engines = request.param
    folder = tmp_path_factory.mktemp("passage")
    variant = Variant(engines, ASKED.direct)
    with (
        new_world(folder, variant=variant) as world,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        listener.settimeout(TIMEOUT)
        target = f"127.0.0.1:{listener.getsockname()[1]}"
        relay = world.relay(extra=FLOW)
        client = world.client(
            relay,
            target=target,
            options=WAYS[way],
            endpoint=f'certificate = "{certificate}"',
            extra=FLOW,
        )
        yield Passage(relay, client, certificate, listener, trustme.CA())
        visitors = world.ask("relay", "status", "-c", str(relay.settings))["visitors"]
        is_direct = visitors["direct"]["total"] == visitors["total"] > 0
        assert is_direct if way == "direct" else not visitors["direct"]["total"]
        world.report()


@pytest.fixture(params=["visitor to target", "target to visitor"])
def ends(request: pytest.FixtureRequest, passage: Passage) -> Iterator[tuple[PlainEnd, PlainEnd]]:
    with passage.pair() as (visitor, target):
        yield (visitor, target) if request.param == "visitor to target" else (target, visitor)


@pytest.fixture
def near(ends: tuple[PlainEnd, PlainEnd]) -> PlainEnd:
    return ends[0]


@pytest.fixture
def far(ends: tuple[PlainEnd, PlainEnd]) -> PlainEnd:
    return ends[1]


def test_a_finish_ends_one_direction_only(near: PlainEnd, far: PlainEnd) -> None:
    near.send(pattern(100_000))
    near.finish()
    assert far.receive_exactly(100_000) == pattern(100_000)
    assert far.ending() is Ending.FINISHED
    far.send(pattern(100_000, seed=1))
    far.finish()
    assert near.receive_exactly(100_000) == pattern(100_000, seed=1)
    assert near.ending() is Ending.FINISHED


def test_a_fin_without_close_notify(passage: Passage, near: PlainEnd, far: PlainEnd) -> None:
    near.truncate()
    if passage.certificate == PASSED:
        assert far.ending() is Ending.TRUNCATED
        far.sock.sendall(b"still here")  # TLS is over, the connection is not
        assert near.sock.recv(10) == b"still here"
    elif isinstance(near, TlsEnd):
        assert (far.ending(), near.ending()) == (Ending.CUT, Ending.CUT)
    else:  # a target without TLS has no other way to finish
        assert far.ending() is Ending.FINISHED
        far.send(b"still here")
        assert near.receive_exactly(10) == b"still here"


def test_a_reset_resets_the_other_end(near: PlainEnd, far: PlainEnd) -> None:
    near.reset()
    assert far.ending() is Ending.CUT


def test_a_reset_after_a_finish_is_no_clean_end(near: PlainEnd, far: PlainEnd) -> None:
    near.finish()
    assert far.ending() is Ending.FINISHED
    far.reset()
    assert near.ending() is Ending.CUT


@pytest.mark.slow
def test_nothing_is_lost_when_a_reader_stalls_and_resumes(near: PlainEnd, far: PlainEnd) -> None:
    near.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    far.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    sending = Sending(near)
    sending.start()
    sending.wait_until_blocked()
    sending.is_enough.set()
    assert far.receive_exactly(STALLED_BYTES) == sending.content()
    assert far.ending() is Ending.FINISHED


class Sending(threading.Thread):
    """Sends a pattern again and again until that is enough, and finishes."""

    def __init__(self, end: PlainEnd) -> None:
        super().__init__()
        self._end = end
        self._pattern = pattern(PERIOD_BYTES)
        self.is_enough = threading.Event()
        self.sent = 0

    def run(self) -> None:
        while self.sent < STALLED_BYTES and not self.is_enough.is_set():
            start = self.sent % PERIOD_BYTES
            piece = self._pattern[start : start + (1 << 14)]
            self._end.send(piece)
            self.sent += len(piece)
        self._end.finish()

    def content(self) -> bytes:
        """Return all that was sent, once it has finished."""
        self.join()
        return (self._pattern * (self.sent // PERIOD_BYTES + 1))[: self.sent]

    def wait_until_blocked(self) -> None:
        """Return once nothing more has got away for a while; fails if everything did."""
        before = -1
        while before < self.sent:
            before = self.sent
            time.sleep(QUIET)
        assert self.sent < STALLED_BYTES, "the reader's stall has not held up the sender"
