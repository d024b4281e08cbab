"""What a value may be: one Kind per sort of value, which turns TOML into Python or says why not.

A Kind knows nothing of keys, sections or programs.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Protocol

from tunnel.settings.tree import quote

_SHOWN_LIMIT = 80  # characters of a wrong value that a fault repeats


class Misfit(ValueError):  # noqa: N818 - what is caught is a value that does not fit
    """A value that its key cannot take; without a text the Kind's own words are used."""


class Expanded(str):
    """A string with environment variables filled in; `written` is what the file says.

    Faults repeat only `written`, so that no secret from the environment reaches a log.
    """

    __slots__ = ("written",)

    def __new__(cls, value: str, written: str) -> "Expanded":
        """Return `value` that remembers `written`."""
        self = super().__new__(cls, value)
        self.written = written
        return self

    written: str


class Inspect(Protocol):
    """Looks at a file without reading it."""

    def __call__(self, path: Path, *, is_check: bool) -> None:
        """Raise Misfit if the file cannot serve.

        With `is_check` a file that this user may not reach is left to the service's user.
        """


@dataclass(frozen=True, slots=True)
class Kind:
    """A sort of value.

    `read(value, folder)` gets what TOML (after the environment) says and the folder that relative
    paths start from; it raises Misfit. `words` name the sort in the docs, `noun` and `expected`
    complete the fault `"x" is not <noun> (expected <expected>)`.
    `inspect` looks at the file that a value names.
    """

    words: str
    noun: str
    expected: str
    read: Callable[[object, Path], object]
    inspect: Inspect | None = None

    def convert(self, value: object, folder: Path) -> object:
        """Return the Python value; raises Misfit with a complete text."""
        try:
            return self.read(value, folder)
        except Misfit as misfit:
            if misfit.args:
                raise
            raise self.misfit(value) from None

    def misfit(self, value: object) -> Misfit:
        """Return the ordinary fault of a value."""
        return Misfit(f"{shown(value)} is not {self.noun} (expected {self.expected})")


def shown(value: object) -> str:
    """Return a value as TOML writes it, shortened, without what came from the environment."""
    text = written(value)
    return text if len(text) <= _SHOWN_LIMIT else f"{text[: _SHOWN_LIMIT - 1]}…"


def written(value: object) -> str:
    """Return a value as TOML writes it on one line, environment variables unfilled."""
    if isinstance(value, Expanded):
        return quote(value.written)
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(written(item) for item in value)}]"
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{key} = {written(item)}" for key, item in value.items())
        return f"{{ {pairs} }}"
    return str(value)


def as_text(value: object) -> str:
    """Return a string that is neither empty nor multi-line; raises Misfit."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise Misfit
    return value


def text(limit: int, expected: str) -> Kind:
    """Any one-line string of at most `limit` characters."""

    def read(value: object, _folder: Path) -> object:
        plain = as_text(value)
        if len(plain) > limit:
            raise Misfit(f"{shown(value)} is longer than {limit} characters")
        return str(plain)

    return Kind("string", "a line of text", expected, read)


def whole(minimum: int, maximum: int) -> Kind:
    """A whole number within both limits."""

    def read(value: object, _folder: Path) -> object:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Misfit
        return within(value, minimum, maximum, str)

    return Kind("whole number", "a whole number", f"{minimum} to {maximum}", read)


def within(
    value: float, minimum: float, maximum: float, say: Callable[[float], str]
) -> int | float:
    """Return `value` if it keeps both limits; raises Misfit naming them."""
    if not minimum <= value <= maximum:
        limits = (
            f"at least {say(minimum)}" if maximum == inf else f"{say(minimum)} to {say(maximum)}"
        )
        raise Misfit(f"{say(value)} is out of range (expected {limits})")
    return value


def _read_flag(value: object, _folder: Path) -> object:
    if not isinstance(value, bool):
        raise Misfit
    return value


FLAG = Kind("true or false", "true or false", "true or false", _read_flag)


def choice(*words: str) -> Kind:
    """One of some words."""
    listed = ", ".join(f'"{word}"' for word in words)
    expected = f"one of {listed}" if len(words) > 1 else listed

    def read(value: object, _folder: Path) -> object:
        if not isinstance(value, str) or value not in words:
            raise Misfit(f"{shown(value)} is not known here (expected {expected})")
        return str(value)

    return Kind(" \\| ".join(f'"{word}"' for word in words), "known here", expected, read)


def array(item: Kind, minimum: int = 0, maximum: int = 1000) -> Kind:
    """An array of `item`, without doubles, as a tuple."""

    def read(value: object, folder: Path) -> object:
        if not isinstance(value, list):
            raise Misfit
        if not minimum <= len(value) <= maximum:
            raise Misfit(f"has {len(value)} entries (expected {minimum} to {maximum})")
        result = tuple(item.convert(entry, folder) for entry in value)
        for position, entry in enumerate(result):
            if entry in result[:position]:
                raise Misfit(f"{shown(value[position])} is listed twice")
        return result

    return Kind(f"array of {item.words}", "an array", f"[{item.expected}, …]", read)


_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SECONDS_LIMIT = 1e15


def duration(minimum: float, maximum: float, *, may_be_off: bool = False) -> Kind:
    """Seconds, or a number with ms, s, m, h or d; None for "off" where that has a meaning."""

    def read(value: object, _folder: Path) -> object:
        if value == "off" and may_be_off:
            return None
        return within(_seconds(value), minimum, maximum, _say_seconds)

    examples = 'seconds, "30s", "5m" or "24h"'
    expected = f'{examples}, or "off"' if may_be_off else examples
    return Kind('duration or "off"' if may_be_off else "duration", "a duration", expected, read)


def _seconds(value: object) -> float:
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        return float(match[1]) * _SECONDS[match[2]]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Misfit
    if not abs(value) < _SECONDS_LIMIT:  # NaN, and what no float can hold
        raise Misfit
    return float(value)


def _say_seconds(value: float) -> str:
    return f"{value:.10g}s"


_SIZE = re.compile(r"([0-9]{1,15})(B|KiB|MiB|GiB)")
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def size(minimum: int, maximum: int) -> Kind:
    """Bytes, or a whole number with B, KiB, MiB or GiB."""

    def read(value: object, _folder: Path) -> object:
        return within(_as_bytes(value), minimum, maximum, say_bytes)

    return Kind("size", "a size", 'bytes, "256KiB" or "8MiB"', read)


def _as_bytes(value: object) -> int:
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        return int(match[1]) * _BYTES[match[2]]
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise Misfit


def say_bytes(value: float) -> str:
    """Return a number of bytes in the largest unit that divides it."""
    number = int(value)
    for unit in ("GiB", "MiB", "KiB"):
        if number and number % _BYTES[unit] == 0:
            return f"{number // _BYTES[unit]}{unit}"
    return f"{number}B"


def _read_rate(value: object, _folder: Path) -> object:
    if isinstance(value, str):
        amount, slash, unit = value.partition("/")
        if not slash or unit != "s":
            raise Misfit
        value = amount
    return within(_as_bytes(value), 1024, inf, lambda number: f"{say_bytes(number)}/s")


RATE = Kind("rate", "a rate", 'bytes per second, or "20MiB/s"', _read_rate)
