"""Figures over a path of 40 ms and 100 Mbit/s that loses packets (tests/tunem.py; needs root).

The relay and its visitors are at one end, the client and its target at the other: what is lost
is lost between relay and client.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from scripts.benchmarks.contenders import Bench, Contender, Site, Starter, start
from scripts.benchmarks.figures import Row, all_by_its_way, visit
from tests.system.network import RELAY_HOST, Path, inside, new_path

DELAY_MS = 20  # one way
RATE_MBIT = 100
QUEUE_MS = 40  # one bandwidth-delay product
FETCHED_MIB = 8
ASKING, ASKING_SECONDS = 16, 10.0
PAUSE = 1.0  # seconds until what a measurement has left behind is off the path


@contextmanager
def lossy_path() -> Iterator[Path]:
    """Yield the path; its loss is changed by a command."""
    with new_path(DELAY_MS, RATE_MBIT) as path:
        path.command(f"queue {QUEUE_MS}")
        yield path


def site(path: Path) -> Site:
    """Return the two ends of the path."""
    return Site(RELAY_HOST, partial(inside, path.relay), partial(inside, path.client))


def compare(
    bench: Bench, path: Path, starters: dict[str, Starter], losses: list[float], rounds: int
) -> dict[str, list[Row]]:
    """Return every round's figures of each contender; `losses` in per cent."""
    contenders = [start(bench, starter) for starter in starters.values()]
    rows: dict[str, list[Row]] = {each.name: [] for each in contenders}
    for number in range(rounds):
        for each in contenders[::-1] if number % 2 else contenders:
            with all_by_its_way(each):
                rows[each.name].append(measure(bench, path, each, losses))
        sys.stderr.write(f"round {number + 1} of {rounds}\n")
    return rows


def measure(bench: Bench, path: Path, contender: Contender, losses: list[float]) -> Row:
    """Return one round of one contender at every loss."""
    row: Row = {}
    for loss in losses:
        path.command(f"loss {loss:g}")
        with bench.site.near():
            fetched = visit(contender, contender.way, "fetch", 1, FETCHED_MIB)
            time.sleep(PAUSE)
            asked = visit(contender, contender.way, "ask", ASKING, ASKING_SECONDS)
        row[f"loss {loss:g} %, MiB/s"] = fetched["MiB/s"]
        row |= {f"loss {loss:g} %, {key}": value for key, value in asked.items()}
    return row
