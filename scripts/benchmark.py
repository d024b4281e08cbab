"""Throughput, CPU, latency, start-up and memory of relay.pyz and client.pyz over loopback.

The transports take turns within each round, so that a machine that changes its speed changes it
for both. What is printed are medians; the JSON file has every round.
"""

import argparse
import json
import os
import platform
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from tests.e2e.visitors import tls
from tests.e2e.world import ROOT, Client, Process, Relay, World, new_world, program

MIB = 1 << 20
TRANSPORTS = ("h2", "quic", "quic-stock")  # the last with aioquic's own hot path at both ends
BULK_MIB = {"h2": 256, "quic": 192, "quic-stock": 32}
REQUESTS = 2000
REQUEST_BYTES = 100
IDLE_CLIENTS = 200
BLOCK = bytes(MIB)

Row = dict[str, float]


class Service(threading.Thread):
    """A target that echoes small messages, and answers `get N` with N bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = ("127.0.0.1", self.listener.getsockname()[1])

    def run(self) -> None:
        """Accept for ever."""
        while True:
            sock, _ = self.listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    @staticmethod
    def _serve(sock: socket.socket) -> None:
        with sock, suppress(ConnectionResetError):  # a visitor that has seen enough
            while message := sock.recv(65536):
                if not message.startswith(b"get "):
                    sock.sendall(message)
                    continue
                for _ in range(int(message[4:])):
                    sock.sendall(BLOCK)


def download(sock: socket.socket, mebibytes: int) -> float:
    """Return the seconds that it takes to fetch so much."""
    start = time.perf_counter()
    sock.sendall(f"get {mebibytes}".encode())
    left, buffer = mebibytes * MIB, bytearray(1 << 18)
    while left:
        got = sock.recv_into(buffer)
        if not got:
            raise SystemExit(f"bench: cut with {left} bytes to come")
        left -= got
    return time.perf_counter() - start


def round_trips(sock: socket.socket) -> list[float]:
    """Return the milliseconds of each of many small requests in a row."""
    times = []
    message = b"x" * REQUEST_BYTES
    for _ in range(REQUESTS):
        start = time.perf_counter()
        sock.sendall(message)
        got = 0
        while got < REQUEST_BYTES:
            got += len(sock.recv(65536))
        times.append((time.perf_counter() - start) * 1000)
    return times


def percentiles(times: list[float]) -> tuple[float, float]:
    """Return p50 and p99."""
    cuts = statistics.quantiles(times, n=100)
    return cuts[49], cuts[98]


@contextmanager
def cpu_of(*processes: Process) -> Iterator[Callable[[], list[float]]]:
    """Yield a function that returns the CPU seconds each process has used since."""
    before = [process.cpu_seconds() for process in processes]
    yield lambda: [
        process.cpu_seconds() - used for process, used in zip(processes, before, strict=True)
    ]


def measure(relay: Relay, client: Client, transport: str) -> Row:
    """Return one round's figures of one transport."""
    with tls(relay, client) as sock, cpu_of(relay.process, client.process) as used:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        seconds = download(sock, BULK_MIB[transport])
        relay_cpu, client_cpu = (each / BULK_MIB[transport] * 1024 for each in used())
        p50, p99 = percentiles(round_trips(sock))
    return {
        "MiB/s": BULK_MIB[transport] / seconds,
        "relay CPU-s/GiB": relay_cpu,
        "client CPU-s/GiB": client_cpu,
        "keep-alive p50 ms": p50,
        "keep-alive p99 ms": p99,
    }


def measure_direct(service: Service) -> Row:
    """Return what the same requests take without any tunnel."""
    with socket.create_connection(service.address) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        p50, p99 = percentiles(round_trips(sock))
    return {"keep-alive p50 ms": p50, "keep-alive p99 ms": p99}


def measure_start() -> Row:
    """Return how long `relay.pyz --version` takes, warm."""
    start = time.perf_counter()
    subprocess.run([*program("relay"), "--version"], check=True, capture_output=True)
    return {"--version s": time.perf_counter() - start}


def measure_idle(world: World, service: Service, clients: int) -> Row:
    """Return the relay's memory without clients, and what each idle QUIC client adds."""
    extra = "[limits]\nhalf_open = 1000\n"
    relay = world.relay("idle-relay", extra=extra)
    time.sleep(1)
    alone = relay.process.rss_bytes()
    command = [
        *(sys.executable, "-m", "tests.e2e.crowd", str(clients)),
        *(str(relay.agents_port), relay.pin, f"{service.address[0]}:{service.address[1]}"),
    ]
    crowd = Process(command, world.folder, "crowd")
    world.processes.append(crowd)
    crowd.wait_for(f"serving {clients}\n", timeout=120)
    time.sleep(2)
    per_client = (relay.process.rss_bytes() - alone) / clients
    crowd.stop()
    return {"relay RSS MiB": alone / MIB, "relay KiB per idle client": per_client / 1024}


def run(rounds: int, idle: int) -> dict[str, list[Row]]:
    """Return every round's figures, by what was measured."""
    rows: dict[str, list[Row]] = {name: [] for name in (*TRANSPORTS, "direct", "start", "idle")}
    service = Service()
    service.start()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        world = stack.enter_context(new_world(folder))
        pairs = {}
        for transport in TRANSPORTS:
            wanted, _, engine = transport.partition("-")
            extra = f'[quic]\nengine = "{engine or "fast"}"\n'
            relay = world.relay(f"relay-{transport}", extra=extra)
            client = world.client(
                relay,
                target="{}:{}".format(*service.address),
                name=f"client-{transport}",
                options=f'transport = "{wanted}"',
                extra=extra,
            )
            pairs[transport] = (relay, client)
            _ = client.host  # waits until the client serves
        measure_start()
        for number in range(rounds):
            for transport, (relay, client) in pairs.items():
                rows[transport].append(measure(relay, client, transport))
            rows["direct"].append(measure_direct(service))
            rows["start"].append(measure_start())
            sys.stderr.write(f"round {number + 1} of {rounds}\n")
        rows["idle"].append(measure_idle(world, service, idle))
    return rows


def medians(rows: dict[str, list[Row]]) -> dict[str, Row]:
    """Return the median of each figure."""
    return {
        name: {key: statistics.median(row[key] for row in each) for key in each[0]}
        for name, each in rows.items()
    }


def show(table: dict[str, Row]) -> None:
    """Print the medians."""
    for name, row in table.items():
        for key, value in row.items():
            sys.stdout.write(f"{name:10} {key:28} {value:10.3f}\n")
    for transport in TRANSPORTS:
        added = table[transport]["keep-alive p50 ms"] - table["direct"]["keep-alive p50 ms"]
        sys.stdout.write(f"{transport:10} {'added at p50 ms':28} {added:10.3f}\n")


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle", type=int, default=IDLE_CLIENTS, help="idle clients to add")
    parser.add_argument(
        "--json", type=Path, default=ROOT / ".cache/bench.json", help="store every round here"
    )
    arguments = parser.parse_args()
    rows = run(arguments.rounds, arguments.idle)
    table = medians(rows)
    show(table)
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "openssl": ssl.OPENSSL_VERSION,
        "cores": os.cpu_count(),
        "command": "scripts/bench " + " ".join(sys.argv[1:]),
    }
    text = json.dumps({"machine": about, "medians": table, "rounds": rows}, indent=1)
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(text + "\n")
    sys.stdout.write(f"every round: {arguments.json}\n")


if __name__ == "__main__":
    main()
