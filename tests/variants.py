"""Which QUIC engines the programs under test run, and what else they are told.

Tests do what is asked by the environment: whole suites can be run on each variant.
TUNNEL_ENGINE is `fast` or `stock`, or the relay's and the client's, such as `fast-stock`; without
it no settings name an engine. With TUNNEL_DIRECT=1 clients keep direct connections wherever a test
does not say whether they do, without it they keep none. TUNNEL_WORKERS is how many processes relays
are, where a test does not say so.
"""

import os
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import pytest

from tunnel.settings.values import QuicSettings

KINDS = ("fast", "stock")


class Engines(NamedTuple):
    """The relay's and the client's; None is what is the default."""

    relay: str | None = None
    client: str | None = None

    def __str__(self) -> str:
        return "-".join(map(str, self)) if any(self) else "default"


class Variant(NamedTuple):
    """One way to run the tunnel."""

    engines: Engines = Engines()
    direct: bool = False

    def __str__(self) -> str:
        return f"{self.engines}-direct" if self.direct else str(self.engines)


def parsed(engine: str) -> Engines:
    """Return the engines that a word asks for; raises ValueError."""
    relay, _, client = engine.partition("-")
    engines = Engines(relay or None, client or relay or None)
    if not {*engines} <= {None, *KINDS}:
        raise ValueError(f"TUNNEL_ENGINE is {engine!r}, not fast, stock, fast-stock or stock-fast")
    return engines


ASKED = Variant(
    parsed(os.environ.get("TUNNEL_ENGINE", "")), bool(int(os.environ.get("TUNNEL_DIRECT") or "0"))
)
WORKERS = int(os.environ.get("TUNNEL_WORKERS") or "1")
PAIRS = [Engines(*pair) for pair in product(KINDS, repeat=2)]
RUNNING = Engines(*(engine or QuicSettings().engine for engine in ASKED.engines))
OTHER = Engines(*(KINDS[engine == "fast"] for engine in RUNNING))


def others() -> Iterator[Engines]:
    """Yield the pairs of engines that are not what runs anyway."""
    return (pair for pair in PAIRS if pair != RUNNING)


def other_variants() -> Iterator[Variant]:
    """Yield the variants besides ASKED: its engines or the others, direct connections or none."""
    for engines, direct in product((ASKED.engines, OTHER), (False, True)):
        if (engines, direct) != ASKED:
            yield Variant(engines, direct)


def quic(engine: str | None, **changes: Any) -> QuicSettings:
    """Return settings that ask for an engine."""
    return QuicSettings(**({} if engine is None else {"engine": engine}), **changes)


def table(engine: str | None) -> str:
    """Return the same as TOML."""
    return "" if engine is None else f'[quic]\nengine = "{engine}"\n'


def slow(*values: Any, name: object) -> Any:
    """Return what parametrises tests that the slow half runs besides."""
    return pytest.param(*values, marks=pytest.mark.slow, id=str(name))
