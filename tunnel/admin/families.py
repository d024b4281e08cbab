"""Figures as plain values: what a program tells of itself, in the terms of Prometheus.

Names follow prometheus.io/docs/practices/naming: base units, `_total` for what only grows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

Samples = Mapping[tuple[str, ...], float]
"""The values by those of the labels."""


class Kind(Enum):
    """Whether a figure only grows."""

    COUNTER = auto()
    GAUGE = auto()


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with all its samples; `name` is without the `_total` of a counter."""

    kind: Kind
    name: str
    words: str
    labels: tuple[str, ...]
    samples: Samples


def gauge(name: str, words: str, value: float) -> Family:
    """Return a figure that goes up and down."""
    return Family(Kind.GAUGE, name, words, (), {(): value})


def gauges(name: str, words: str, labels: tuple[str, ...], samples: Samples) -> Family:
    """Return figures that go up and down, one for each combination of labels."""
    return Family(Kind.GAUGE, name, words, labels, samples)


def counter(name: str, words: str, value: float) -> Family:
    """Return a figure that only grows, until the process ends."""
    return Family(Kind.COUNTER, name, words, (), {(): value})


def counters(name: str, words: str, labels: tuple[str, ...], samples: Samples) -> Family:
    """Return figures that only grow, one for each combination of labels."""
    return Family(Kind.COUNTER, name, words, labels, samples)
