"""Settings before they mean anything: tables and leaves that remember where they were written."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

KeyPath = tuple[str, ...]  # the tables' names from the outermost, then the key's
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Where:
    """The origin of a value: a file as the operator named it and a line, or a flag.

    `rank` is the place of the file in reading order; relative paths start from `folder`.
    """

    source: str
    folder: Path
    line: int | None = None
    rank: int = 0

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A scalar or an array, as tomli gave it."""

    value: object
    where: Where


@dataclass(frozen=True, slots=True)
class Table:
    """A table; `where` is its header or the first key that implied it."""

    where: Where
    entries: Mapping[str, "Node"] = field(default_factory=dict)


Node = Leaf | Table


def merge(base: Table, over: Table) -> Table:
    """Return both tables as one: tables merge deeply, anything else is replaced by `over`."""
    entries = dict(base.entries)
    for name, node in over.entries.items():
        below = entries.get(name)
        if isinstance(below, Table) and isinstance(node, Table):
            entries[name] = merge(below, node)
        else:
            entries[name] = node
    return Table(base.where, entries)


def find(table: Table, path: KeyPath) -> Node | None:
    """Return the node at `path`, or None."""
    node: Node | None = table
    for name in path:
        if not isinstance(node, Table):
            return None
        node = node.entries.get(name)
    return node


def where_is(table: Table, path: KeyPath) -> Where:
    """Return where `path` was written, or else the nearest table around it.

    What stands nowhere at all is the whole file's matter: its `Where` has no line.
    """
    for depth in range(len(path), 0, -1):
        node = find(table, path[:depth])
        if node is not None:
            return node.where
    return table.where


def is_masked(node: Node) -> bool:
    """Say whether a named table has `enabled = false`."""
    if not isinstance(node, Table):
        return False
    switch = node.entries.get("enabled")
    return isinstance(switch, Leaf) and switch.value is False


def dotted(path: KeyPath) -> str:
    """Return a path as TOML writes it: ``suffixes."t.example.org".access``."""
    return ".".join(quote_key(part) for part in path)


def header(path: KeyPath) -> str:
    """Return the header of the table at a path, as TOML writes it: ``[servers.eu]``."""
    return f"[{dotted(path)}]"


def quote_key(part: str) -> str:
    """Return one part of a key, quoted where TOML wants it."""
    if _BARE_KEY.fullmatch(part):
        return part
    return quote(part)


def quote(text: str) -> str:
    """Return a TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'


def leaves(table: Table, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Leaf]]:
    """Yield every leaf with its path, in the order of writing."""
    for name, node in table.entries.items():
        if isinstance(node, Table):
            yield from leaves(node, (*path, name))
        else:
            yield (*path, name), node
