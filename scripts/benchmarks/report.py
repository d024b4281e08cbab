"""docs/performance.md from the rounds that are stored beside it: `scripts/bench --report`.

Tables stand between `<!-- table: NAME -->` and `<!-- end -->`; all else is written by hand.
"""

import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from scripts.benchmarks.goals import GOALS, QUEUES_MS, Goal, Rounds, Stored, amount
from tests.e2e.world import ROOT

PAGE = ROOT / "docs/performance.md"
FOLDER = ROOT / "docs/performance"
ANEW = ("realtime", "slow")  # the goals of loopback, measured once more in another way
RUNS = ("loopback", *(f"loopback-{how}" for how in ANEW), "loss", "idle", "fairness")
_MARKED = re.compile(r"(<!-- table: ([\w -]+) -->\n).*?(<!-- end -->)", re.DOTALL)
MOVES = tuple(f"{way} {count}" for way in ("down", "up") for count in (1, 4))


def load(folder: Path) -> dict[str, dict[str, Any]]:
    """Return each kind of run that is stored: where and when it was, and its rounds."""
    files = {run: folder / f"{run}.json" for run in RUNS}
    return {run: json.loads(file.read_text()) for run, file in files.items() if file.exists()}


def fill(page: str, runs: dict[str, dict[str, Any]]) -> str:
    """Return the page with its tables written anew; raises KeyError for an unknown one."""
    tables = {f"run {run}": partial(_source, each) for run, each in runs.items()}
    tables |= {name: partial(write, _rounds(runs)) for name, write in TABLES.items()}

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}{tables[match[2]]()}\n{match[3]}"

    return _MARKED.sub(table, page)


def _rounds(runs: dict[str, dict[str, Any]]) -> Stored:
    return {run: each["rounds"] for run, each in runs.items()}


def _source(run: dict[str, Any]) -> str:
    machine = run["machine"]
    rounds = max(map(len, run["rounds"].values()))
    taken = f" ({machine['commit']})" if "commit" in machine else ""
    steal = f"steal time: {machine['steal']:.1f} %; " if "steal" in machine else ""
    command = f"{machine.get('scheduling', '')} {machine['command']}".strip()
    return (
        f"{machine['date'][:10]}{taken}, {machine['cores']} cores, Linux {machine['kernel']}, "
        f"Python {machine['python']}, {machine['openssl']}; TCP's congestion control: "
        f"{machine['tcp']}; rounds: {rounds}; {steal}`{command}`."
    )


def grid(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table of Markdown, its first column to the left."""
    rule = ["---"] + ["--:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def _median(rounds: Rounds, contender: str, key: str) -> str:
    values = [row[key] for row in rounds[contender] if key in row]
    return amount(statistics.median(values)) if values else ""


def _by_contender(run: str, columns: dict[str, str]) -> Callable[[Stored], str]:
    """Return what writes a table with a line for each contender; `columns` are head to key."""

    def write(stored: Stored) -> str:
        rounds = stored[run]
        names = [name for name, rows in rounds.items() if columns.values() & rows[0].keys()]
        lines = [
            [name, *(_median(rounds, name, key) for key in columns.values())] for name in names
        ]
        return grid(["", *columns], lines)

    return write


def _goals(goals: Sequence[Goal]) -> Callable[[Stored], str]:
    head = ["figure", "median", "rounds", "must", "aim", ""]
    return lambda stored: grid(head, [goal.line(stored) for goal in goals])


def _anew(how: str) -> Callable[[Stored], str]:
    return _goals(
        [replace(goal, run=f"loopback-{how}") for goal in GOALS if goal.run == "loopback"]
    )


def _losses(unit: str) -> Callable[[Stored], str]:
    def write(stored: Stored) -> str:
        rows = next(iter(stored["loss"].values()))
        columns = {key.partition(",")[0]: key for key in rows[0] if key.endswith(f" {unit}")}
        return _by_contender("loss", columns)(stored)

    return write


def _costs(role: str) -> Callable[[Stored], str]:
    return _by_contender("loopback", {each: f"{each}, {role} CPU-s/GiB" for each in MOVES})


TABLES: dict[str, Callable[[Stored], str]] = {
    "goals": _goals(GOALS),
    **{f"goals {how}": _anew(how) for how in ANEW},
    "start": _by_contender(
        "loopback",
        {"--version, s": "--version s", "until a visitor is served, s": "exec to first visitor s"},
    ),
    "throughput": _by_contender("loopback", {each: f"{each}, MiB/s" for each in MOVES}),
    "relay cpu": _costs("relay"),
    "client cpu": _costs("client"),
    "new visitors": _by_contender(
        "loopback",
        {
            "visitors/s": "new visitors/s",
            "relay ms": "new visitor, relay ms",
            "client ms": "new visitor, client ms",
        },
    ),
    "keep-alive": _by_contender(
        "loopback",
        {
            "1, p50 ms": "keep-alive 1, p50 ms",
            "1, p99 ms": "keep-alive 1, p99 ms",
            "32, p50 ms": "keep-alive 32, p50 ms",
            "32, p99 ms": "keep-alive 32, p99 ms",
            "relay's RSS, MiB": "relay RSS MiB",
        },
    ),
    "loss goodput": _losses("MiB/s"),
    "loss p50": _losses("p50 ms"),
    "loss p90": _losses("p90 ms"),
    "loss p99": _losses("p99 ms"),
    "fairness": _by_contender(
        "fairness",
        {
            f"{queue} ms, {order}": f"queue {queue} ms, {part}"
            for queue in QUEUES_MS
            for order, part in (("first", "one's Mbit/s"), ("second", "the other's Mbit/s"))
        },
    ),
    "idle clients": _by_contender(
        "idle",
        {"relay alone, MiB": "relay RSS MiB", "each client, KiB": "relay KiB per idle client"},
    ),
    "idle streams": _by_contender(
        "idle", {name: name for name in ("alone MiB/s", "beside idle MiB/s", "change %")}
    ),
}


def write_report() -> None:
    """Write the tables of docs/performance.md anew, and a plot of each; raises SystemExit."""
    runs = load(FOLDER)
    PAGE.write_text(fill(PAGE.read_text(), runs))
    try:
        from scripts.benchmarks import plots  # noqa: PLC0415 - needs matplotlib
    except ModuleNotFoundError as error:
        raise SystemExit(f"bench: plots need {error.name}: pip install '.[bench]'") from None
    plots.draw(_rounds(runs), FOLDER)
