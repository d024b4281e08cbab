"""Relays and clients that are killed or asked to stop, and what their visitors notice of it."""

import re
import shutil
import signal
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

import pytest

from tests.e2e.ends import Ending, TlsEnd
from tests.e2e.targets import SLOW_RATE, pattern
from tests.e2e.visitors import get, parse, request, served_again, tcp, tls
from tests.e2e.world import Client, Process, Relay, World
from tests.system.conftest import Record

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]  # a grace time of 30 s may be due

both_transports = pytest.mark.parametrize("transport", ["quic", "h2"])
both_signals = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])

CROWD = 50
GREETING = b"hello through the tunnel\n"


def crowd(world: World, relay: Relay, target: str, transport: str) -> Process:
    """Start many clients of a relay, and return once all of them serve."""
    command = [sys.executable, "-m", "tests.e2e.crowd", str(CROWD), str(relay.agents_port)]
    process = Process([*command, relay.pin, target, transport], world.folder, "crowd")
    world.processes.append(process)
    process.wait_for(f"serving {CROWD}\n")
    return process


class Download:
    """A page that comes slowly to a visitor, from its beginning on until it is whole or cut."""

    def __init__(self, visitor: TlsEnd, size: int) -> None:
        self._visitor = visitor
        self._size = size
        visitor.send(f"GET /slow/{size} HTTP/1.0\r\nHost: test\r\n\r\n".encode())
        self._first = visitor.receive()
        assert self._first

    def assert_complete(self) -> None:
        """Receive the rest, and compare every byte."""
        parts = [self._first, *iter(self._visitor.receive, b"")]
        assert parse(b"".join(parts)).body == pattern(self._size)
        assert self._visitor.seen is Ending.FINISHED

    def assert_cut(self) -> None:
        """Receive until the connection is cut."""
        assert self._visitor.ending() is Ending.CUT


@contextmanager
def downloading(relay: Relay, client: Client, seconds: float) -> Iterator[Download]:
    """Return a download that has begun, and would take `seconds`."""
    host = client.host
    with closing(TlsEnd(tcp(relay), client.trust(), host)) as visitor:
        visitor.shake_hands()
        yield Download(visitor, int(seconds * SLOW_RATE))


def second_instance(world: World, relay: Relay, first: Client, target: str) -> Client:
    """Start another client that has the key of the first, and its own certificate."""
    shutil.copy(world.folder / f"{first.name}.key", world.folder / "second.key")
    return world.client(relay, target=target, name="second")


def seconds_to_end(process: Process) -> float:
    """Wait for a process to end with status 0; return the seconds that it took."""
    start = time.monotonic()
    assert process.wait() == 0
    return time.monotonic() - start


@dataclass(frozen=True)
class Visit:
    """When a visitor came (monotonic), how long it took, and what went wrong, if anything did."""

    began_at: float
    seconds: float
    fault: OSError | None


def visit(relay: Relay, client: Client, context: ssl.SSLContext, host: str) -> Visit:
    """Fetch the greeting, and say how that went."""
    began_at = time.monotonic()
    fault = None
    try:
        with tls(relay, client, host, context=context) as sock:
            assert request(sock, "/").body == GREETING
    except OSError as error:
        fault = error
    return Visit(began_at, time.monotonic() - began_at, fault)


@contextmanager
def visitors(relay: Relay, client: Client) -> Iterator[list["Future[Visit]"]]:
    """Send a visitor every 50 ms as long as the block lasts, waiting for none of them."""
    context, host = client.trust(), client.host
    visits: list[Future[Visit]] = []
    enough = threading.Event()
    with ThreadPoolExecutor(100) as pool:

        def send() -> None:
            while not enough.wait(0.05):
                visits.append(pool.submit(visit, relay, client, context, host))

        sender = threading.Thread(target=send)
        sender.start()
        try:
            yield visits
        finally:
            enough.set()
            sender.join()


@pytest.mark.parametrize("transport", ["auto", "h2"])
def test_all_clients_are_back_soon_after_a_relay_was_killed_but_not_all_at_once(
    world: World, target: str, transport: str, record: Record
) -> None:
    relay = world.relay()
    many = crowd(world, relay, target, transport)
    relay.process.kill()
    time.sleep(1)
    start = time.monotonic()
    relay.restart()
    many.wait_for(rf"again {CROWD} ", timeout=15)
    returns = [float(at) - start for at in re.findall(r"again \d+ at (\S+)", many.printed())]
    busiest = max(Counter(int(10 * at) for at in returns).values())  # within 100 ms
    record("last one back after", max(returns))
    record("most within 100 ms", busiest)
    assert max(returns) <= 10
    assert busiest <= CROWD / 2


def test_clients_learn_from_a_restarted_relay_itself_that_it_knows_them_no_more(
    world: World, target: str, record: Record
) -> None:
    relay = world.relay()
    many = crowd(world, relay, target, "quic")
    relay.process.kill()
    start = time.monotonic()
    relay.restart()
    many.wait_for(rf"again {CROWD} ", timeout=15)
    lost = re.findall(r"lost at (\S+): (.+)", many.printed())
    # Each is told when it pings; a ping into the gap is repeated after 3 s.
    record("last one told after", max(float(at) for at, _ in lost) - start)
    assert {cause for _, cause in lost} == {
        "aborted: the relay does not know this connection any more"
    }


def test_what_runs_through_one_relay_does_not_notice_that_another_is_killed(
    world: World, target: str
) -> None:
    one, two = world.relay("one"), world.relay("two")
    client = world.client(one, two, target=target)
    for relay in (one, two):
        served_again(relay, client, within=5)
    with downloading(two, client, 3) as download:
        one.process.kill()
        assert get(two, client).body == GREETING
        download.assert_complete()


@both_transports
def test_a_second_after_its_url_no_visitor_goes_to_the_client_that_was_killed(
    world: World, target: str, transport: str, record: Record
) -> None:
    relay = world.relay()
    client = world.client(relay, target=target, options=f'transport = "{transport}"')
    served_again(relay, client, within=5)
    with visitors(relay, client) as visits, ExitStack() as downloads:
        client.process.kill()
        client.restart()
        client.process.wait_for("URL:")
        begin = time.monotonic() + 1
        time.sleep(1)
        # They make the newer one the busier one, so that only what is known keeps visitors to it.
        busy = [downloads.enter_context(downloading(relay, client, 5)) for _ in range(40)]
        for download in busy:
            download.assert_complete()
    later = [each for each in (future.result() for future in visits) if each.began_at >= begin]
    record("slowest visitor", max(each.seconds for each in later))
    assert len(later) >= 50
    assert [each for each in later if each.fault or each.seconds > 2] == []


def test_an_old_instance_that_lives_on_leaves_the_name_to_the_newer_one(
    world: World, target: str
) -> None:
    relay = world.relay()
    first = world.client(relay, target=target, name="first")
    assert get(relay, first).body == GREETING
    second = second_instance(world, relay, first, target)
    second.process.wait_for("URL:")
    first.process.wait_for("code=superseded")
    known = relay.process.logged().count(" registered ")
    # Only the second one has the certificate that is trusted here.
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        assert get(relay, second, host=first.host).body == GREETING
        time.sleep(0.1)
    assert relay.process.logged().count(" registered ") == known
    assert "refused a client" not in relay.process.logged()


@both_transports
@both_signals
def test_a_relay_asked_to_stop_finishes_downloads_and_takes_no_new_visitors(
    world: World, target: str, transport: str, number: signal.Signals, record: Record
) -> None:
    one, two = world.relay("one"), world.relay("two")
    client = world.client(one, two, target=target, options=f'transport = "{transport}"')
    for relay in (one, two):
        served_again(relay, client, within=5)
    with downloading(one, client, 3) as download:
        one.process.signal(number)
        one.process.wait_for("draining")
        with pytest.raises(ConnectionRefusedError):
            tcp(one)
        assert get(two, client).body == GREETING
        download.assert_complete()
    seconds = seconds_to_end(one.process)
    record("ended after the download within", seconds)
    assert seconds < 1


@both_transports
@both_signals
def test_a_client_asked_to_stop_finishes_downloads_and_leaves_new_visitors_to_its_successor(
    world: World, target: str, transport: str, number: signal.Signals, record: Record
) -> None:
    relay = world.relay()
    first = world.client(relay, target=target, name="first", options=f'transport = "{transport}"')
    with downloading(relay, first, 4) as download:
        first.process.signal(number)
        first.process.wait_for("not serving")
        second = second_instance(world, relay, first, target)
        second.process.wait_for("URL:")
        assert get(relay, second, host=first.host).body == GREETING
        assert first.process.popen.poll() is None
        download.assert_complete()
    seconds = seconds_to_end(first.process)
    record("ended after the download within", seconds)
    assert seconds < 1


@both_transports
@both_signals
@pytest.mark.parametrize("who", ["relay", "client"])
def test_who_is_idle_ends_at_once(
    world: World,
    target: str,
    transport: str,
    number: signal.Signals,
    who: str,
    record: Record,
) -> None:
    relay = world.relay()
    client = world.client(relay, target=target, options=f'transport = "{transport}"')
    assert get(relay, client).body == GREETING
    process = {"relay": relay.process, "client": client.process}[who]
    process.signal(number)
    seconds = seconds_to_end(process)
    record("ended within", seconds)
    assert seconds < 1


@both_signals
@pytest.mark.parametrize("who", ["relay", "client"])
def test_a_second_signal_ends_it_at_once(
    world: World, target: str, number: signal.Signals, who: str, record: Record
) -> None:
    relay = world.relay()
    client = world.client(relay, target=target)
    process = {"relay": relay.process, "client": client.process}[who]
    with downloading(relay, client, 20):
        process.signal(number)
        process.wait_for("asked to stop")
        start = time.monotonic()
        process.signal(number)
        assert process.wait(timeout=5) == 128 + number
        seconds = time.monotonic() - start
    record("ended within", seconds)
    assert seconds < 0.5


@both_transports
@pytest.mark.parametrize("who", ["relay", "client"])
def test_a_download_that_outlasts_the_grace_time_is_cut_and_the_end_is_still_a_good_one(
    world: World, target: str, transport: str, who: str, record: Record
) -> None:
    (world.folder / "relay.toml.d").mkdir()
    (world.folder / "relay.toml.d" / "drain.toml").write_text("[relay]\ndrain_timeout = 2\n")
    relay = world.relay()
    client = world.client(
        relay, target=target, options=f'transport = "{transport}"\ndrain_timeout = 2'
    )
    process = {"relay": relay.process, "client": client.process}[who]
    with downloading(relay, client, 10) as download:
        start = time.monotonic()
        process.signal(signal.SIGTERM)
        download.assert_cut()
    seconds = time.monotonic() - start
    record("cut after", seconds)
    assert 1.9 <= seconds <= 3
    assert seconds_to_end(process) < 1.5
