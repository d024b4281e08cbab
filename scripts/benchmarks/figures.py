"""One round's figures of one contender."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from scripts.benchmarks.contenders import Contender
from tests.e2e.world import ROOT, Process

Row = dict[str, float]
MIB = 1 << 20
COMING = 16  # visitors at a time, each of whom comes again and again
STRAYS_MAX, STRAYS_SHARE = 32, 0.02  # a crowd's first visitors outrun the spares


def visit(contender: Contender, way: str, what: str, count: int, seconds: float) -> Row:
    """Let visitors do something; returns what they measured."""
    command = [
        *(sys.executable, "-m", "scripts.benchmarks.visitors", way, str(contender.port)),
        *(contender.host, what, str(count), str(seconds)),
    ]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=600)
    if ran.returncode:
        raise SystemExit(f"bench: {contender.name}: {what}: {ran.stderr.decode()}")
    row: Row = json.loads(ran.stdout)
    return row


@contextmanager
def cpu_of(contender: Contender) -> Iterator[Callable[[], Row]]:
    """Yield a function that returns the CPU seconds of relay and client since."""
    ends = {"relay": contender.relay, "client": contender.client}
    running: dict[str, Process] = {role: end for role, end in ends.items() if end is not None}
    before = {role: process.cpu_seconds() for role, process in running.items()}
    yield lambda: {role: process.cpu_seconds() - before[role] for role, process in running.items()}


@contextmanager
def all_by_its_way(contender: Contender) -> Iterator[None]:
    """Fail if not nearly all visitors meanwhile came by the way that the contender stands for."""
    if contender.went is None:
        yield
        return
    before = contender.went()
    yield
    total, right = (now - then for now, then in zip(contender.went(), before, strict=True))
    if not total or total - right > STRAYS_MAX + total * STRAYS_SHARE:
        raise SystemExit(f"bench: {contender.name}: only {right} of {total} visitors went its way")


def bulk(contender: Contender, what: str, label: str, count: int, seconds: float) -> Row:
    """Return throughput, and CPU-seconds per GiB at both ends."""
    with cpu_of(contender) as used:
        seen = visit(contender, contender.way, what, count, seconds)
        spent = used()
    costs = {f"{label}, {role} CPU-s/GiB": cpu / seen["MiB"] * 1024 for role, cpu in spent.items()}
    return {f"{label}, MiB/s": seen["MiB/s"], **costs}


def arrivals(contender: Contender, seconds: float) -> Row:
    """Return how many TLS visitors come in a second, and what each costs in ms of CPU."""
    with cpu_of(contender) as used:
        seen = visit(contender, "tls", "come", COMING, seconds)
        spent = used()
    costs = {f"new visitor, {role} ms": cpu / seen["visitors"] * 1e3 for role, cpu in spent.items()}
    return {"new visitors/s": seen["visitors/s"], **costs}


def staying(contender: Contender, count: int, seconds: float) -> Row:
    """Return how long visitors wait for an answer who ask again and again."""
    seen = visit(contender, contender.way, "echo", count, seconds)
    return {f"keep-alive {count}, {key}": seen[key] for key in ("p50 ms", "p99 ms")}


def memory(contender: Contender, seconds: float) -> Row:
    """Return what the relay holds by now; that takes no time."""
    del seconds
    return {"relay RSS MiB": contender.relay.rss_bytes() / MIB}


MEASUREMENTS: tuple[Callable[..., Row], ...] = (  # of a round: (contender, seconds=…) each
    *(
        partial(bulk, what=what, label=f"{label} {count}", count=count)
        for what, label in (("get", "down"), ("put", "up"))
        for count in (1, 4)
    ),
    arrivals,
    *(partial(staying, count=count) for count in (1, 32)),
    memory,
)
