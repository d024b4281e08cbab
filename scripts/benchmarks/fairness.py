"""How two flows share a path of 40 ms and 100 Mbit/s (tests/tunem.py; needs root).

Flows are downloads, from the client's end to the relay's: through a tunnel of ours over QUIC, or
over a bare TCP connection with a congestion control of the kernel's. Both begin at once; what they
get while they find their shares does not count.
"""

import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from scripts.benchmarks.contenders import Bench, ours, start
from scripts.benchmarks.figures import Row
from scripts.benchmarks.goals import QUEUES_MS
from scripts.benchmarks.visitors import Way
from tests.system.network import CLIENT_HOST, Path, inside

PAIRINGS = (("ours", "ours"), ("ours", "cubic"), ("ours", "bbr"), ("bbr", "cubic"))
SETTLING_SHARE = 0.25  # of the seconds that count, before them
PAUSE = 2.0  # seconds until the last pair is off the path
READ_BYTES = 1 << 18
BLOCK = bytes(1 << 16)

Download = Callable[[], socket.socket]


def compare(bench: Bench, path: Path, seconds: float, rounds: int) -> dict[str, list[Row]]:
    """Return every round's figures of each pair, measured for so many seconds each."""
    rows: dict[str, list[Row]] = {}
    with ExitStack() as stack:
        downloads = {
            "ours": [tunnel(bench, ""), tunnel(bench, "fast")],  # two names, two connections
            **{name: [kernel(path, name, stack)] for name in ("cubic", "bbr") if has(name)},
        }
        pairs = [pair for pair in PAIRINGS if all(name in downloads for name in pair)]
        for number in range(rounds):
            for one, other in pairs:
                both = [downloads[one][0], downloads[other][-1]]
                row = measure(path, both, seconds)
                rows.setdefault(f"{one} beside {other}", []).append(row)
            sys.stderr.write(f"round {number + 1} of {rounds}\n")
    return rows


def has(congestion: str) -> bool:
    """Say whether the kernel has a congestion control, and on stderr if it has not."""
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        except OSError as error:
            sys.stderr.write(f"left out, as this kernel has no {congestion}: {error}\n")
            return False
    return True


def tunnel(bench: Bench, engine: str) -> Download:
    """Return what begins a download through a new relay and client."""
    contender = start(bench, ours("quic", ends_tls=False, engine=engine))

    def begin() -> socket.socket:
        with bench.site.near():
            return Way.of("raw", contender.port, contender.host).connect(b"get")

    return begin


def kernel(path: Path, congestion: str, stack: ExitStack) -> Download:
    """Return what begins a download over a bare connection."""
    port = stack.enter_context(source(path, congestion))

    def begin() -> socket.socket:
        with inside(path.relay):
            return socket.create_connection((CLIENT_HOST, port), 10)

    return begin


@contextmanager
def source(path: Path, congestion: str) -> Iterator[int]:
    """Send to everyone who connects, from the client's end; yields the port."""
    with inside(path.client):
        listener = socket.create_server((CLIENT_HOST, 0))
    # Those that are accepted inherit it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
    threading.Thread(target=_serve, args=(listener,), daemon=True).start()
    with listener:
        yield listener.getsockname()[1]


def _serve(listener: socket.socket) -> None:
    with suppress(OSError):  # it is closed at the end
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=_send, args=(sock,), daemon=True).start()


def _send(sock: socket.socket) -> None:
    with suppress(OSError), sock:  # until the reader has seen enough
        while True:
            sock.sendall(BLOCK)


def measure(path: Path, downloads: list[Download], seconds: float) -> Row:
    """Return what two downloads get of the path with each queue."""
    row: Row = {}
    for queue in QUEUES_MS:
        path.command(f"queue {queue}")
        one, other = rates(downloads, seconds)
        row |= {
            f"queue {queue} ms, one's Mbit/s": one,
            f"queue {queue} ms, the other's Mbit/s": other,
            f"queue {queue} ms, the other's share %": other / (one + other) * 100,
            f"queue {queue} ms, the smaller share %": min(one, other) / (one + other) * 100,
        }
        time.sleep(PAUSE)
    return row


def rates(downloads: list[Download], seconds: float) -> list[float]:
    """Return the Mbit/s of downloads that run at the same time."""
    with ExitStack() as stack:
        socks = [stack.enter_context(begin()) for begin in downloads]
        received(socks, SETTLING_SHARE * seconds)
        return [count * 8 / 1e6 / seconds for count in received(socks, seconds)]


def received(socks: list[socket.socket], seconds: float) -> list[int]:
    """Return how many bytes come within some seconds."""
    counts = dict.fromkeys(socks, 0)
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        for sock in select.select(socks, [], [], left)[0]:
            counts[sock] += len(sock.recv(READ_BYTES))
    return list(counts.values())
