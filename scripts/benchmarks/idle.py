"""What those cost who do nothing: clients in the relay's memory, streams in a neighbour's speed."""

import sys
import time
from contextlib import ExitStack

from scripts.benchmarks.contenders import Bench, Contender, ours, start
from scripts.benchmarks.figures import MIB, Row, bulk
from scripts.benchmarks.visitors import MESSAGE, Way, read_message
from tests.e2e.world import Process

SETTLING = 10.0  # seconds: what a storm of dials has left half-open is gone by then
SECONDS = 2.0  # of each measurement
STREAMS_MAX = 990  # of a connection's 1000: others are for who downloads, and who has just left


def measure(bench: Bench, count: int, rounds: int) -> dict[str, list[Row]]:
    """Return the memory of idle clients, and what idle streams take of QUIC's throughput."""
    rows: dict[str, list[Row]] = {"idle clients": [], "idle streams": []}
    limits = f"[limits]\nvisitors_per_address = {2 * count}\n"
    contender = start(bench, ours("quic", ends_tls=False, limits=limits))
    for number in range(rounds):
        rows["idle clients"].append(clients(bench, count, number))
        rows["idle streams"].append(streams(contender, count))
        sys.stderr.write(f"round {number + 1} of {rounds}\n")
    return rows


def clients(bench: Bench, count: int, number: int) -> Row:
    """Return the relay's memory without clients, and what each idle QUIC client adds."""
    relay = bench.world.relay(f"idle-relay-{number}", extra="[limits]\nhalf_open = 1000\n")
    time.sleep(SETTLING)
    alone = relay.process.rss_bytes()
    command = [
        *(sys.executable, "-m", "tests.e2e.crowd", str(count)),
        *(str(relay.agents_port), relay.pin, f"127.0.0.1:{bench.target}"),
    ]
    crowd = Process(command, bench.world.folder, f"crowd-{number}")
    bench.world.processes.append(crowd)
    crowd.wait_for(f"serving {count}\n", timeout=120)
    time.sleep(SETTLING)
    each = (relay.process.rss_bytes() - alone) / count
    crowd.stop()
    relay.process.stop()
    return {"relay RSS MiB": alone / MIB, "relay KiB per idle client": each / 1024}


def streams(contender: Contender, count: int) -> Row:
    """Return the throughput of one visitor beside idle ones, and without them before and after."""

    def throughput() -> float:
        return bulk(contender, "get", "get", 1, SECONDS)["get, MiB/s"]

    before = throughput()
    way = Way.of(contender.way, contender.port, contender.host)
    with ExitStack() as stack:
        for _ in range(min(count, STREAMS_MAX)):
            visitor = stack.enter_context(way.connect(MESSAGE))
            read_message(visitor)
        beside = throughput()
    alone = (before + throughput()) / 2
    return {
        "alone MiB/s": alone,
        "beside idle MiB/s": beside,
        "change %": (beside / alone - 1) * 100,
    }
