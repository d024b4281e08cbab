"""Rules over several keys that hold in both programs' settings."""

import itertools
from collections.abc import Mapping
from typing import Any

from tunnel.settings.kinds import say_bytes, shown
from tunnel.settings.reader import Reading, suggest
from tunnel.settings.schema import instances
from tunnel.settings.tree import KeyPath, Leaf, dotted, find

FILES = ("chain_file", "key_file")  # what a certificate from files needs

_RISING = (
    ("flow", "stream_window"),
    ("flow", "stream_window_max"),
    ("flow", "connection_window"),
    ("flow", "parked_max"),
    ("limits", "buffer_total"),
)


def check_flow(reading: Reading) -> None:
    """Each of the sizes must be at least the one before it."""
    for lower, upper in itertools.pairwise(_RISING):
        small = reading.values.get(lower[0], {}).get(lower[1])
        large = reading.values.get(upper[0], {}).get(upper[1])
        if small is not None and large is not None and small > large:
            written = upper if find(reading.tree, upper) else lower
            reading.fault(
                written,
                f"{dotted(upper)} ({say_bytes(large)}) is below {dotted(lower)} "
                f"({say_bytes(small)})",
            )


def check_switches(reading: Reading) -> None:
    """Fault each key that is written while another key gives it no meaning."""
    for section in reading.schema.sections:
        for key in section.keys:
            for table in instances(section.path, reading.tree) if key.only_with else ():
                _check_switch(reading, (*table, key.name), *(key.only_with or ("", ())))


def _check_switch(reading: Reading, path: KeyPath, switch: str, allowed: tuple[str, ...]) -> None:
    chosen = value_at(reading, (*path[:-1], switch))
    if chosen is None or chosen in allowed or find(reading.tree, path) is None:
        return
    node = find(reading.tree, (*path[:-1], switch))
    said = f"{switch} = {shown(chosen)}"
    place = f"{node.where} says {said}" if isinstance(node, Leaf) else f"the default is {said}"
    wanted = " or ".join(f'"{word}"' for word in allowed)
    reading.fault(path, f"belongs to {switch} = {wanted}, but {place}")


def check_needs(
    reading: Reading, table: KeyPath, switch: str, needs: Mapping[str, tuple[str, ...]]
) -> None:
    """Fault each key that the word of `switch` needs and that is not written."""
    word = value_at(reading, (*table, switch))
    for key in needs.get(word, ()):
        if find(reading.tree, (*table, key)) is None:
            reading.fault((*table, key), f'missing ({switch} = "{word}" needs it)')


def check_references(reading: Reading, key: KeyPath, wanted: tuple[str, ...], group: str) -> None:
    """Fault each of `wanted` that is not a table of `group` in force."""
    known = _names(reading, group)
    for name in wanted:
        if mask := reading.masked.get((group, name)):
            reading.fault(key, f"{shown(name)} is masked at {mask}")
        elif name not in known:
            reading.fault(key, f"{shown(name)} is not one of [{group}.*]{suggest(name, known)}")


def _names(reading: Reading, group: str) -> list[str]:
    """Return the names of a group's tables, also of those that have faults of their own."""
    node = find(reading.tree, (group,))
    written = list(getattr(node, "entries", ()))
    return [name for name in written if (group, name) not in reading.masked]


def value_at(reading: Reading, path: KeyPath) -> Any:
    """Return the value understood at `path`, or None."""
    value: Any = reading.values
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def in_force(reading: Reading, group: str) -> dict[str, dict[str, Any]]:
    """Return the tables of a group that are in force, by name."""
    tables = reading.values.get(group, {})
    return {name: table for name, table in tables.items() if table.get("enabled", True)}
