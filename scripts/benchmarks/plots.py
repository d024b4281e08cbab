"""The plots of docs/performance.md, as SVG; needs matplotlib (`pip install '.[bench]'`)."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.benchmarks.figures import Row
from scripts.benchmarks.goals import QUEUES_MS, Rounds, Stored

OWN, OTHER = "#1f6f8b", "#b8b8b8"
LINE_INCHES = 0.24  # height of a contender's bar


def draw(stored: Stored, folder: Path) -> None:
    """Write the plots of what is stored."""
    mpl.rcParams.update({"svg.hashsalt": "tunnel", "font.size": 8, "axes.spines.top": False})
    mpl.rcParams["axes.spines.right"] = False
    if rounds := stored.get("loopback"):
        _bars(rounds, ["down 1, MiB/s", "up 1, MiB/s"], folder / "throughput.svg")
        keys = [f"down 1, {role} CPU-s/GiB" for role in ("relay", "client")]
        _bars(rounds, keys, folder / "cpu.svg")
        _bars(rounds, ["new visitors/s", "new visitor, relay ms"], folder / "new-visitors.svg")
        keys = [f"keep-alive {count}, p50 ms" for count in (1, 32)]
        _bars(rounds, keys, folder / "keep-alive.svg")
    if rounds := stored.get("loss"):
        _lines(rounds, ["MiB/s", "p99 ms"], folder / "loss.svg")
    if rounds := stored.get("idle"):
        _idle(rounds, folder / "idle.svg")
    if rounds := stored.get("fairness"):
        _shares(rounds, folder / "fairness.svg")


def _bars(rounds: Rounds, keys: Sequence[str], file: Path) -> None:
    """Draw a panel for each key: medians as bars, all rounds as points."""
    names = [name for name, rows in rounds.items() if keys[0] in rows[0]][::-1]
    figure = _figure(len(names))
    for axes, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        for place, name in enumerate(names):
            _bar(axes, place, name, [row[key] for row in rounds[name] if key in row])
        axes.set_yticks(range(len(names)), names)
        axes.set_title(key)
    _save(figure, file)


def _bar(axes: Axes, place: int, name: str, values: Sequence[float]) -> None:
    if values:
        colour = OWN if name.startswith("ours") else OTHER
        axes.barh(place, statistics.median(values), color=colour)
        axes.plot(values, [place] * len(values), "|", color="black", markersize=5)


def _lines(rounds: Rounds, units: Sequence[str], file: Path) -> None:
    """Draw a panel for each unit: medians over the loss."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    for axes, unit in zip(figure.subplots(1, len(units)), units, strict=True):
        for name, rows in rounds.items():
            points = _over_loss(rows, unit)
            axes.plot(list(points), list(points.values()), marker="o", label=name)
        axes.set_xlabel("loss, %")
        axes.set_title(unit)
        axes.set_ylim(bottom=0)
    axes.legend()
    _save(figure, file)


def _over_loss(rows: Sequence[Row], unit: str) -> dict[float, float]:
    keys = [key for key in rows[0] if key.endswith(f", {unit}")]
    return {float(key.split()[1]): statistics.median(row[key] for row in rows) for key in keys}


def _idle(rounds: Rounds, file: Path) -> None:
    """Draw one visitor's throughput alone and beside idle streams."""
    rows, keys = rounds["idle streams"], ("alone MiB/s", "beside idle MiB/s")
    figure = _figure(len(keys))
    axes = figure.subplots()
    for place, key in enumerate(reversed(keys)):
        _bar(axes, place, "ours", [row[key] for row in rows])
    axes.set_yticks(range(len(keys)), [key.removesuffix(" MiB/s") for key in reversed(keys)])
    axes.set_title("MiB/s of one visitor")
    _save(figure, file)


def _shares(rounds: Rounds, file: Path) -> None:
    """Draw a panel for each queue: what both flows of a pair got, one behind the other."""
    names = list(rounds)[::-1]
    figure = _figure(len(names))
    for axes, queue in zip(figure.subplots(1, len(QUEUES_MS)), QUEUES_MS, strict=True):
        for place, name in enumerate(names):
            parts = [f"queue {queue} ms, {flow} Mbit/s" for flow in ("one's", "the other's")]
            one, other = (statistics.median(row[part] for row in rounds[name]) for part in parts)
            first, second = (OWN if flow == "ours" else OTHER for flow in name.split(" beside "))
            axes.barh(place, one, color=first, edgecolor="white")
            axes.barh(place, other, left=one, color=second, edgecolor="white")
        axes.set_yticks(range(len(names)), names)
        axes.set_title(f"Mbit/s of both, queue {queue} ms")
    _save(figure, file)


def _figure(bars: int) -> Figure:
    return Figure(figsize=(8, 0.9 + LINE_INCHES * bars), layout="constrained")


def _save(figure: Figure, file: Path) -> None:
    figure.savefig(file, metadata={"Date": None})
