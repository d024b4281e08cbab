"""How long it takes to begin."""

import subprocess
import time

from scripts.benchmarks.contenders import Bench
from scripts.benchmarks.figures import Row
from tests.e2e.visitors import tls
from tests.e2e.world import program


def measure(bench: Bench, number: int) -> Row:
    """Return the seconds of `--version`, warm, and from a client's start to its first visitor."""
    relay = bench.world.relay(f"start-{number}")
    _ = relay.pin  # it listens
    start = time.perf_counter()
    client = bench.world.client(relay, target=f"127.0.0.1:{bench.target}", name=f"start-c{number}")
    _ = client.host
    with tls(relay, client) as sock:
        sock.sendall(b"x")
        sock.recv(1)
    served = time.perf_counter() - start
    client.process.stop()
    relay.process.stop()
    start = time.perf_counter()
    subprocess.run([*program("relay"), "--version"], check=True, capture_output=True)
    return {"--version s": time.perf_counter() - start, "exec to first visitor s": served}
