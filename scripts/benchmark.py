"""Figures of relay.pyz and client.pyz, beside those of whatever other tunnel is on PATH.

Contenders take turns at each measurement of a round, in an order that changes, so that a machine
that changes its speed changes it for all: compare within a row of one run. What is printed are
medians; the JSON file has every round. TCP's congestion control is set to cubic meanwhile (root
only), as the machine's own choice would decide the loss table.
"""

import argparse
import json
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from scripts.benchmarks import fairness, idle, loss, starting
from scripts.benchmarks.contenders import Bench, Contender, Site, missing, start, starters, target
from scripts.benchmarks.figures import MEASUREMENTS, Row, all_by_its_way
from scripts.benchmarks.machine import describe, watch_steal
from scripts.benchmarks.report import write_report
from tests.e2e.world import ROOT, new_world
from tunnel.tls.certificates import self_signed

CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")


@contextmanager
def cubic() -> Iterator[str]:
    """Have TCP's congestion control be cubic; yields what it is."""
    usual = CONGESTION.read_text()
    try:
        CONGESTION.write_text("cubic")
    except OSError:
        yield usual.strip()
        return
    try:
        yield "cubic"
    finally:
        CONGESTION.write_text(usual)


@contextmanager
def bench_on(site: Site, folder: Path) -> Iterator[Bench]:
    """Yield an empty bench with a target behind it."""
    certificate = self_signed(["target.test"], now=datetime.now(UTC))
    pem = folder / "target.pem"
    pem.write_bytes(certificate.key_pem + certificate.chain_pem)
    with target(pem, site.far) as port, new_world(folder, site.relay_host) as world:
        yield Bench(world, port, site)


def compare(bench: Bench, wanted: list[str], rounds: int, seconds: float) -> dict[str, list[Row]]:
    """Return every round's figures of each contender."""
    contenders = [start(bench, starter) for starter in starters(wanted).values()]
    rows: dict[str, list[Row]] = {each.name: [{} for _ in range(rounds)] for each in contenders}
    for number in range(rounds):
        with ExitStack() as ways:
            for each in contenders:
                ways.enter_context(all_by_its_way(each))
            for take in MEASUREMENTS:  # one of all of them, then the next: seconds are between two
                for each in in_turn(contenders, number):
                    rows[each.name][number] |= take(each, seconds=seconds)
        sys.stderr.write(f"round {number + 1} of {rounds}\n")
    return rows


def in_turn(contenders: list[Contender], number: int) -> list[Contender]:
    """Return the order of a round: each begins once, and every second one goes backwards."""
    first = number % len(contenders)
    order = contenders[first:] + contenders[:first]
    return order[::-1] if number % 2 else order


def medians(rows: dict[str, list[Row]]) -> dict[str, Row]:
    """Return the median of each figure."""
    return {
        name: {key: statistics.median(row[key] for row in each) for key in each[0]}
        for name, each in rows.items()
        if each
    }


def show(table: dict[str, Row]) -> None:
    """Print the medians: a line for each contender, columns that have something to say."""
    keys = list(dict.fromkeys(key for row in table.values() for key in row))
    width = max(map(len, table))
    for key in keys:
        sys.stdout.write(f"\n{key}\n")
        for name, row in table.items():
            if key in row:
                sys.stdout.write(f"  {name:{width}} {row[key]:12.3f}\n")


def parse() -> argparse.Namespace:
    """Return what is asked for."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    add = parser.add_argument
    add("contenders", nargs="*", metavar="CONTENDER", help="ours-quic, haproxy, …: all there are")
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=1.5, help="of each measurement")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--loss",
        nargs="?",
        const="0,1,3,5",
        metavar="PERCENT,…",
        help="over a path of 40 ms and 100 Mbit/s that loses packets (0,1,3,5)",
    )
    kind.add_argument(
        "--fair",
        nargs="?",
        const=20.0,
        type=float,
        metavar="SECONDS",
        help="how two flows share that path, ours and the kernel's: each pair for so long (20)",
    )
    kind.add_argument("--idle", type=int, metavar="N", help="N idle clients, then N idle streams")
    kind.add_argument(
        "--report", action="store_true", help="measure nothing; write docs/performance.md anew"
    )
    add("--json", type=Path, default=ROOT / ".cache/bench.json", help="store every round here")
    return parser.parse_args()


def measure_all(arguments: argparse.Namespace, folder: Path) -> dict[str, list[Row]]:
    """Return every round's figures of what was asked for."""
    names, rounds = arguments.contenders, arguments.rounds
    if arguments.loss is not None:
        losses = [float(each) for each in arguments.loss.split(",")]
        with loss.lossy_path() as path, bench_on(loss.site(path), folder) as bench:
            return loss.compare(bench, path, starters(names), losses, rounds)
    if arguments.fair is not None:
        with loss.lossy_path() as path, bench_on(loss.site(path), folder) as bench:
            return fairness.compare(bench, path, arguments.fair, rounds)
    with bench_on(Site(), folder) as bench:
        if arguments.idle is not None:
            return idle.measure(bench, arguments.idle, rounds)
        rows = compare(bench, names, rounds, arguments.seconds)
        return rows | {"start": [starting.measure(bench, number) for number in range(rounds)]}


def leave(number: int, _frame: object) -> NoReturn:
    """End as by Ctrl-C: whatever was started is stopped, what was set is set back."""
    raise SystemExit(128 + number)


def main() -> None:
    """Measure, print, store."""
    arguments = parse()
    signal.signal(signal.SIGTERM, leave)
    if arguments.report:
        write_report()
        return
    try:
        starters(arguments.contenders)
    except KeyError as error:
        raise SystemExit(f"bench: {error} is not known, or not on PATH") from None
    if missing() and not arguments.contenders:
        sys.stderr.write(f"not on PATH, left out: {', '.join(missing())}\n")
    about, steal = describe(), watch_steal()  # before hours in which more may be committed
    with cubic() as congestion, tempfile.TemporaryDirectory() as name:
        rows = measure_all(arguments, Path(name))
    about |= {"tcp": congestion, "steal": round(steal(), 2)}
    table = medians(rows)
    show(table)
    text = json.dumps({"machine": about, "medians": table, "rounds": rows}, indent=1)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(text + "\n")
    sys.stdout.write(f"\nevery round: {arguments.json}\n")


if __name__ == "__main__":
    main()
