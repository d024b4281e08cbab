"""Readers that do not read: what they cost, what they cost others, and who is cut for them."""

import ssl
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

import pytest

from tests.e2e.stalls import (
    Downloader,
    Service,
    Uploader,
    Visitor,
    enter,
    read_exactly,
    service,
)
from tests.e2e.targets import pattern
from tests.e2e.visitors import tls
from tests.e2e.world import WAYS, Client, Process, Relay, World
from tests.variants import ASKED, OTHER, Variant, slow

KIB, MIB = 1 << 10, 1 << 20
ONE_CONNECTION = WAYS | {"h2": WAYS["h2"] + "\npool_size = 1"}  # on which streams are parked
BESIDES = Variant(OTHER)  # with whose engines the slow half does the same again
STALLED = 64
STALLED_MAX_BYTES = 256 * KIB + 240 * KIB + 80 * KIB  # stream_window, a chunk in hand, the rest
HOLD_TIME = 15.0  # seconds
ROUNDS = 5
ROUND_BYTES = {"quic": 2 * MIB, "h2": 8 * MIB, "direct": 8 * MIB}
SPEED_KEPT = 0.8
STALLED_IN_TURN = 8
LOOKS, LOOK_INTERVAL = 10, 0.1  # in which nothing moves: all wait for a reader, none for its turn
APPETITE = 1 * MIB  # read before stalling, so that windows have grown
VERBOSE = '[log]\nlevel = "debug"\n'
# A stream's window is twice what its reader takes at once: whoever stalls has bytes parked, too.
SMALL_LOT = """
[flow]
stream_window = "512KiB"
stream_window_max = "1MiB"
connection_window = "1MiB"
parked_max = "1MiB"
"""
QUICK = '[timeouts]\nheartbeat = "1s"\n'  # fifteen pings in HOLD_TIME

pytestmark = [
    pytest.mark.timeout(120),  # the hold alone takes 15 seconds
    pytest.mark.alone,  # memory and speed are measured
]


@dataclass(frozen=True)
class Tunnel:
    """A relay and a client with one connection, and who uses them."""

    relay: Relay
    client: Client
    trust: ssl.SSLContext

    @property
    def processes(self) -> tuple[Process, Process]:
        """Both processes under test."""
        return self.relay.process, self.client.process

    def rss_bytes(self) -> list[int]:
        """Return the resident memory of both."""
        return [process.rss_bytes() for process in self.processes]

    def enter(self, line: str) -> ssl.SSLSocket:
        """Return a visitor's connection with a first line to the service."""
        return enter(self.relay, self.client, line, self.trust)


def tunnel(
    world: World, transport: str, target: str, name: str = "", relay: str = "", client: str = ""
) -> Tunnel:
    """Start a relay and a client; the last two are more TOML of each."""
    a_relay = world.relay(f"relay{name}", extra=relay)
    a_client = world.client(
        a_relay,
        target=target,
        name=f"client{name}",
        options=ONE_CONNECTION[transport],
        extra=client,
    )
    assert a_client.host
    return Tunnel(a_relay, a_client, a_client.trust())


class Runner:
    """A visitor who measures how long `size` bytes take there and then back again."""

    def __init__(self, used: Tunnel, size: int) -> None:
        # One thread does both in turn: an SSLSocket must not be read and written by two.
        self._sock = tls(used.relay, used.client, context=used.trust, timeout=60)
        self._sock.sendall(f"mirror {size}\n".encode())
        self._sent = pattern(size)

    def run(self) -> float:
        """Return the seconds that it took once more."""
        start = time.monotonic()
        self._sock.sendall(self._sent)
        assert read_exactly(self._sock, len(self._sent)) == self._sent
        return time.monotonic() - start

    def close(self) -> None:
        """Leave."""
        self._sock.close()


@contextmanager
def race(world: World, raced: Tunnel, transport: str, target: str) -> Iterator[Callable[[], float]]:
    """Yield what measures the speed of a neighbour, as a share of one in a tunnel of its own.

    The two take turns, so that what else this machine is doing befalls both.
    """
    alone = tunnel(world, transport, target, "-alone")
    with ExitStack() as open_:
        neighbour, yardstick = (Runner(each, ROUND_BYTES[transport]) for each in (raced, alone))
        open_.callback(neighbour.close)
        open_.callback(yardstick.close)
        neighbour.run(), yardstick.run()  # windows grow
        yield lambda: yardstick.run() / neighbour.run()


def stalling(direction: str, used: Tunnel, number: int, appetite: int = 0) -> Visitor:
    """Return a visitor whose connection is about to stall."""
    sock = used.enter(f"{direction} {number}")
    if direction == "download":
        return Downloader(sock, number, appetite)
    return Uploader(sock, number)


def until_still(used: Tunnel, behind: Service, visitors: Sequence[Visitor]) -> None:
    """Wait until nothing moves any more, neither at both ends nor in the kernel between them.

    What counts is how often one looks: a machine that is busy elsewhere looks less often.
    """

    def moved() -> object:
        ports = {used.relay.public_port, behind.port}
        here = [(each.moved, each.fault) for each in visitors]
        return here, dict(behind.sent), set(behind.cut), held_by_kernel(ports)

    before, looks = moved(), 0
    while looks < LOOKS:
        time.sleep(LOOK_INTERVAL)
        now = moved()
        before, looks = now, looks + 1 if now == before else 0


def held_by_kernel(ports: set[int]) -> list[tuple[str, ...]]:
    """Return the addresses and queues of each TCP connection from or to one of these ports."""
    rows = [line.split()[1:5] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sorted(
        (local, remote, queues)
        for local, remote, _, queues in rows
        if ports & {int(each.rpartition(":")[2], 16) for each in (local, remote)}
    )


def resume(visitors: Sequence[Visitor], behind: Service) -> None:
    """Let all read again and send no more, and wait until all have come to their end."""
    behind.enough.set()
    behind.reads.set()
    for visitor in visitors:
        visitor.finish()
    for visitor in visitors:
        visitor.join()


def assert_whole(visitors: Sequence[Visitor], behind: Service) -> None:
    """Fail unless each visitor, and there are some, got or sent as much as the service."""
    assert visitors
    assert [visitor.number for visitor in visitors if visitor.was_cut] == []
    there = behind.sent or behind.received
    here = {visitor.number: visitor.moved for visitor in visitors}
    assert {number: there[number] for number in here} == here


def assert_undisturbed(used: Tunnel) -> None:
    """Fail if a heartbeat was missed or the connection replaced."""
    relay, client = (process.logged() for process in used.processes)
    assert relay.count(" registered ") == 1
    assert "out of rotation" not in relay
    assert "disconnected" not in client
    assert "heartbeat is missing" not in client


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "transport", "direction"),
    [
        *product((ASKED,), ("quic", "h2"), ("upload", "download")),
        *product((BESIDES,), ("quic",), ("upload", "download")),
        *product((ASKED, BESIDES), ("direct",), ("upload", "download")),
    ],
    indirect=["world"],
    ids=str,
)
def test_stalled_visitors_cost_little_and_slow_nobody_down(
    world: World, transport: str, direction: str
) -> None:
    with service() as (behind, target), ExitStack() as entered:
        used = tunnel(world, transport, target, relay=QUICK, client=QUICK)
        speed = entered.enter_context(race(world, used, transport, target))
        before = [speed() for _ in range(ROUNDS)]
        resting = used.rss_bytes()
        visitors = [
            entered.enter_context(stalling(direction, used, number)) for number in range(STALLED)
        ]
        since = time.monotonic()
        until_still(used, behind, visitors)
        during: list[float] = []
        while len(during) < ROUNDS or time.monotonic() < since + HOLD_TIME:
            during.append(speed())
        costs = [now - then for now, then in zip(used.rss_bytes(), resting, strict=True)]
        record_figures(transport, direction, costs, before, during)
        assert max(costs) <= STALLED * STALLED_MAX_BYTES
        assert_way(used, transport)
        assert_undisturbed(used)
        # The two tunnels are alike: a neighbour that was faster before was only lucky.
        assert median(during) >= SPEED_KEPT * min(median(before), 1.0)
        resume(visitors, behind)
        assert_whole(visitors, behind)


def assert_way(used: Tunnel, way: str) -> None:
    """Fail unless all visitors have come this way: by streams, or by connections of their own."""
    asked = used.relay.world.ask("relay", "status", "-c", str(used.relay.settings))["visitors"]
    assert asked["direct"]["total"] == (asked["total"] if way == "direct" else 0), asked


def record_figures(
    transport: str, direction: str, costs: list[int], before: list[float], during: list[float]
) -> None:
    """Print what was measured: pytest shows it where the test fails, and with -s."""
    each = ", ".join(f"{cost / STALLED / KIB:.0f} KiB" for cost in costs)
    sys.stdout.write(
        f"{transport} {direction}: a stalled visitor costs relay, client {each}; "
        f"speed {median(before):.2f} before, {median(during):.2f} during\n"
    )


@pytest.mark.parametrize(
    ("world", "transport", "direction"),
    [
        pytest.param(ASKED, "quic", "download", id="quic-download"),
        slow(ASKED, "h2", "upload", name="h2-upload"),
        slow(ASKED, "quic", "upload", name="quic-upload"),
        slow(ASKED, "h2", "download", name="h2-download"),
        slow(BESIDES, "quic", "upload", name=f"{BESIDES}-quic-upload"),
        slow(BESIDES, "quic", "download", name=f"{BESIDES}-quic-download"),
    ],
    indirect=["world"],
)
def test_above_parked_max_the_longest_stalled_is_cut_and_the_rest_live(
    world: World, transport: str, direction: str
) -> None:
    flow = SMALL_LOT + VERBOSE
    side = {"relay": flow, "client": VERBOSE}
    if direction == "upload":  # the end that receives is the one that parks
        side = {"relay": VERBOSE, "client": flow}
    with service() as (behind, target), ExitStack() as entered:
        used = tunnel(world, transport, target, **side)
        visitors = stall_in_turn(entered, [used], direction, behind)
        assert_longest_stalled_were_cut(visitors, behind)
        resume(visitors, behind)
        assert_whole([visitor for visitor in visitors if not visitor.was_cut], behind)
        assert "busy" in used.client.process.logged()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "direction"),
    list(product((ASKED, BESIDES), ("upload", "download"))),
    indirect=["world"],
    ids=str,
)
def test_above_parked_max_nobody_is_cut_who_has_a_connection_of_their_own(
    world: World, direction: str
) -> None:
    with service() as (behind, target), ExitStack() as entered:
        used = tunnel(world, "direct", target, relay=SMALL_LOT, client=SMALL_LOT)
        visitors = stall_in_turn(entered, [used], direction, behind)
        assert_way(used, "direct")
        resume(visitors, behind)
        assert_whole(visitors, behind)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "transport"),
    [(ASKED, "quic"), (ASKED, "h2"), (BESIDES, "quic")],
    indirect=["world"],
    ids=str,
)
def test_above_buffer_total_the_longest_stalled_of_all_connections_is_cut(
    world: World, transport: str
) -> None:
    limits = '[limits]\nbuffer_total = "1MiB"\n' + SMALL_LOT + VERBOSE
    with service() as (behind, target), ExitStack() as entered:
        one = tunnel(world, transport, target, relay=limits, client=VERBOSE)
        other = another(world, one, transport, target)
        visitors = stall_in_turn(entered, [one, other], "download", behind)
        assert_longest_stalled_were_cut(visitors, behind)
        resume(visitors, behind)
        assert_whole([visitor for visitor in visitors if not visitor.was_cut], behind)
        assert all("busy" in each.client.process.logged() for each in (one, other))


def another(world: World, used: Tunnel, transport: str, target: str) -> Tunnel:
    """Return a second client of the same relay."""
    client = world.client(
        used.relay,
        target=target,
        name="other",
        options=ONE_CONNECTION[transport],
        extra=VERBOSE,
    )
    assert client.host
    return Tunnel(used.relay, client, client.trust())


def stall_in_turn(
    entered: ExitStack, tunnels: Sequence[Tunnel], direction: str, behind: Service
) -> list[Visitor]:
    """Return visitors in the order in which they stalled, once their windows had grown."""
    visitors: list[Visitor] = []
    for number in range(STALLED_IN_TURN):
        used = tunnels[number % len(tunnels)]
        visitors.append(entered.enter_context(stalling(direction, used, number, APPETITE)))
        if direction == "download":
            visitors[-1].join()  # it has had its fill
        until_still(used, behind, visitors)
    return visitors


def assert_longest_stalled_were_cut(visitors: Sequence[Visitor], behind: Service) -> None:
    """Fail unless some are cut by now, and exactly those who came first.

    Once all read again, others may follow: those who read later have stalled longer.
    """
    cut = behind.cut | {visitor.number for visitor in visitors if visitor.fault is not None}
    assert 0 < len(cut) < len(visitors)
    assert cut == set(range(len(cut)))
