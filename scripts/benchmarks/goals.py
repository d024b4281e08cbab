"""What the figures are held against: each goal names one, and what it must be."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scripts.benchmarks.figures import Row

Rounds = dict[str, list[Row]]  # of each contender, in the same order
QUEUES_MS = (40, 160)  # of the path that two flows share: one and four bandwidth-delay products
SMALLER = "queue 40 ms, the smaller share %"
Stored = dict[str, Rounds]  # by the kind of run


@dataclass(frozen=True)
class Goal:
    """A figure of a contender, alone or beside the same one of another, round by round."""

    what: str
    run: str
    contender: str
    key: str
    must: float | None
    aim: float | None = None
    beside: str | None = None
    more_is_better: bool = False

    def rounds(self, stored: Stored) -> list[float]:
        """Return the figure of each round; none if it was not measured."""
        rounds = stored.get(self.run, {})
        own = _column(rounds, self.contender, self.key)
        if self.beside is None:
            return own
        others = _column(rounds, self.beside, self.key)
        return [mine / theirs for mine, theirs in zip(own, others, strict=False)]

    def is_met(self, value: float, bound: float) -> bool:
        """Return whether a value is as good as a bound."""
        return value >= bound if self.more_is_better else value <= bound

    def line(self, stored: Stored) -> list[str]:
        """Return its cells: figure, measured, lowest and highest, must, aim, verdict."""
        rounds, bounds = self.rounds(stored), [self._bound(self.must), self._bound(self.aim)]
        if not rounds:
            return [self.what, "", "", *bounds, "not measured"]
        value = statistics.median(rounds)
        spread = f"{amount(min(rounds))} … {amount(max(rounds))}"
        return [self.what, amount(value) + self._unit, spread, *bounds, self._verdict(value)]

    def _verdict(self, value: float) -> str:
        if self.aim is not None and self.is_met(value, self.aim):
            return "aim met"
        if self.must is None:
            return "aim missed"
        return "met" if self.is_met(value, self.must) else "**missed**"

    @property
    def _unit(self) -> str:
        return "" if self.beside is None else f" of {self.beside}"

    def _bound(self, bound: float | None) -> str:
        return "" if bound is None else f"{'≥' if self.more_is_better else '≤'} {bound:g}"


def _column(rounds: Rounds, contender: str, key: str) -> list[float]:
    return [row[key] for row in rounds.get(contender, ()) if key in row]


def amount(value: float) -> str:
    """Return a figure with three digits that say something."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _direct() -> Sequence[Goal]:
    def goal(what: str, key: str, must: float, beside: str, *, more: bool = False) -> Goal:
        return Goal(f"direct, {what}", "loopback", "ours-direct", key, must, None, beside, more)

    return [
        goal("relay CPU, 1 visitor", "down 1, relay CPU-s/GiB", 0.75, "haproxy"),
        goal("relay CPU, 4 visitors", "down 4, relay CPU-s/GiB", 0.75, "haproxy"),
        goal("one visitor's throughput", "down 1, MiB/s", 1.0, "rathole", more=True),
        goal("client CPU, passed through", "down 1, client CPU-s/GiB", 0.75, "rathole"),
        Goal(
            "direct, client CPU-s/GiB, ending TLS",
            "loopback",
            "ours-direct-tls",
            "down 1, client CPU-s/GiB",
            2.2,
        ),
        goal("new visitors/s", "new visitors/s", 0.95, "rathole", more=True),
        Goal(
            "direct, relay CPU of a new visitor",
            "loopback",
            "ours-direct",
            "new visitor, relay ms",
            must=None,
            aim=1.0,
            beside="haproxy",
        ),
        goal("keep-alive p50, 1 visitor", "keep-alive 1, p50 ms", 1.15, "rathole"),
        goal("keep-alive p99, 1 visitor", "keep-alive 1, p99 ms", 1.15, "rathole"),
        goal("keep-alive p50, 32 visitors", "keep-alive 32, p50 ms", 1.3, "rathole"),
        goal("keep-alive p99, 32 visitors", "keep-alive 32, p99 ms", 1.3, "rathole"),
    ]


def _streams() -> Sequence[Goal]:
    def goal(
        what: str, name: str, key: str, bounds: tuple[float, float], beside: str | None = None
    ) -> Goal:
        return Goal(what, "loopback", name, key, *bounds, beside, not key.endswith("GiB"))

    quic, down = "ours-quic-tls", "down 1, MiB/s"
    return [
        goal("QUIC, one visitor's MiB/s, client ending TLS", quic, down, (120, 200)),
        goal("QUIC, the same", quic, down, (5, 8), "ours-quic-stock-tls"),
        goal("QUIC, relay CPU-s/GiB", quic, "down 1, relay CPU-s/GiB", (5, 3.5)),
        goal("QUIC, new visitors/s, client ending TLS", quic, "new visitors/s", (500, 700)),
        goal("HTTP/2, one visitor's MiB/s, client ending TLS", "ours-h2-tls", down, (120, 200)),
    ]


def _lossy() -> Sequence[Goal]:
    def goal(what: str, key: str, bounds: tuple[float, float], *, more: bool) -> Goal:
        return Goal(what, "loss", "ours-quic", key, *bounds, None, more)

    return [
        goal("QUIC, 8 MiB at 1 % loss, MiB/s", "loss 1 %, MiB/s", (6, 8), more=True),
        goal("QUIC, 8 MiB at 3 % loss, MiB/s", "loss 3 %, MiB/s", (5, 8), more=True),
        goal(
            "QUIC, small requests at 3 % loss, p99 ms", "loss 3 %, p99 ms", (130, 100), more=False
        ),
    ]


def _fair() -> Sequence[Goal]:
    def goal(what: str, pair: str, key: str, must: float) -> Goal:
        return Goal(what, "fairness", pair, key, must, more_is_better=True)

    other = "queue 160 ms, the other's share %"
    return [
        goal("QUIC, two flows, share of the smaller, %", "ours beside ours", SMALLER, 40),
        goal("QUIC beside TCP's cubic, share of TCP, %", "ours beside cubic", other, 30),
        goal("QUIC beside TCP's BBR, share of TCP, %", "ours beside bbr", other, 30),
    ]


def _idle() -> Sequence[Goal]:
    def goal(what: str, run: str, name: str, key: str, must: float) -> Goal:
        return Goal(what, run, name, key, must, more_is_better=key == "change %")

    clients, first = "idle clients", "exec to first visitor s"
    return [
        goal("QUIC beside idle streams, change in %", "idle", "idle streams", "change %", -10),
        goal("relay without clients, RSS MiB", "idle", clients, "relay RSS MiB", 60),
        goal("each idle client, KiB", "idle", clients, "relay KiB per idle client", 100),
        goal("`--version`, s", "loopback", "start", "--version s", 0.15),
        goal("start until the first visitor is served, s", "loopback", "start", first, 1.5),
    ]


GOALS = (*_direct(), *_streams(), *_lossy(), *_fair(), *_idle())
