"""From a merged tree to values by a schema: every fault is collected, none stops the rest."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tunnel.errors import SettingsError
from tunnel.settings.kinds import Expanded, Misfit, shown
from tunnel.settings.schema import ANY, REQUIRED, UNSET, Computed, Key, Schema, Section
from tunnel.settings.tree import (
    KeyPath,
    Leaf,
    Node,
    Table,
    Where,
    dotted,
    header,
    is_masked,
    quote_key,
    where_is,
)

_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\{")


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What settings are read in besides their text.

    With `is_check`, files that this user may not reach are left to the service's user.
    """

    environment: Mapping[str, str]
    is_check: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong at a key."""

    where: Where
    path: KeyPath
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {dotted(self.path)}: {self.message}"

    @property
    def order(self) -> tuple[int, int, str]:
        """How faults are sorted: by file as read, by line, by text."""
        return (self.where.rank, self.where.line or 0, str(self))


class Reading:
    """One pass over a tree.

    `values` has, nested like the sections, what was understood: no masked tables, no faulty
    keys, no unset ones. Rules that look at several keys add their faults with `fault`.
    """

    def __init__(self, schema: Schema, tree: Table, circumstances: Circumstances) -> None:
        self.tree = tree
        self.masked: dict[KeyPath, Where] = {}
        self.schema = schema
        self._circumstances = circumstances
        self._faults: list[Fault] = []
        self.values = self._read_table((), (), tree)  # last: it fills the others

    def fault(self, path: KeyPath, message: str) -> None:
        """Note what is wrong at `path`, or at the nearest table that was written."""
        self._faults.append(Fault(where_is(self.tree, path), path, message))

    def raise_faults(self) -> None:
        """Raise SettingsError if anything was wrong."""
        if self._faults:
            ordered = sorted(self._faults, key=lambda fault: fault.order)
            raise SettingsError([str(fault) for fault in ordered])

    def _read_table(self, pattern: KeyPath, path: KeyPath, table: Table) -> dict[str, Any]:
        """Return the values of one table, defaults and tables below it included."""
        section = self.schema.section(pattern)
        values: dict[str, Any] = {}
        if section is not None:
            values |= self._read_keys(section, path, table)
        for name in self.schema.children(pattern):
            if name == ANY:
                values |= self._read_named((*pattern, ANY), path, table)
            else:
                below = self._subtable((*path, name), table.entries.get(name), table.where)
                values[name] = self._read_table((*pattern, name), (*path, name), below)
        if ANY not in self.schema.children(pattern):
            self._refuse_unknown(pattern, section, path, table)
        return values

    def _subtable(self, path: KeyPath, node: Node | None, where: Where) -> Table:
        if isinstance(node, Table):
            return node
        if node is not None:
            example = (*path, "NAME") if self.schema.section((*path, ANY)) else path
            self.fault(path, f"{_found(node)} is not a table (expected {header(example)})")
        return Table(where)

    def _read_named(self, pattern: KeyPath, path: KeyPath, table: Table) -> dict[str, Any]:
        """Return the tables whose names the operator chose, masked ones left out."""
        section = self.schema.section(pattern)
        if section is None:
            raise LookupError(pattern)
        result: dict[str, Any] = {}
        for name, node in table.entries.items():
            here = (*path, name)
            if is_masked(node):
                self.masked[here] = where_is(self.tree, (*here, "enabled"))
                result |= self._read_withdrawn(section, here, node)
            elif self._is_sound(section, here, node):
                below = self._subtable(here, node, table.where)
                result[name] = self._read_table(pattern, here, below)
        return result

    def _read_withdrawn(self, section: Section, path: KeyPath, node: Node) -> dict[str, Any]:
        """Return what a masked table leaves behind: revoking needs the key it revokes."""
        key = section.key(section.kept_when_masked)
        leaf = node.entries.get(section.kept_when_masked) if isinstance(node, Table) else None
        if key is None or not isinstance(leaf, Leaf):
            return {}
        values = self._convert(key, (*path, key.name), leaf)
        return {path[-1]: {"enabled": False, **values}} if values else {}

    def _is_sound(self, section: Section, path: KeyPath, node: Node) -> bool:
        """Say whether a named table can be read; fault its name or its shape otherwise."""
        if not isinstance(node, Table):
            example = dotted((*path[:-1], "NAME"))
            self.fault(path, f"{_found(node)} is not a table (expected [{example}])")
            return False
        unquoted = list(_unquoted_names(self._known(section), node, path[-1:]))
        for parts in unquoted:
            quoted = f"{dotted(path[:-1])}.{quote_key('.'.join(parts))}"
            self.fault((*path[:-1], *parts), f"unknown table (quote the name: [{quoted}])")
        if unquoted:
            return False
        try:
            if section.names is not None:
                section.names.convert(path[-1], self.tree.where.folder)
        except Misfit as misfit:
            self.fault(path, f"the name {misfit}")
            return False
        return True

    def _known(self, section: Section) -> list[str]:
        """Return the names that may stand in a section's table."""
        return [*(key.name for key in section.keys), *self.schema.children(section.path)]

    def _read_keys(self, section: Section, path: KeyPath, table: Table) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key in section.keys:
            node = table.entries.get(key.name)
            here = (*path, key.name)
            if node is None:
                values |= self._read_default(key, here)
            elif isinstance(node, Table):
                self.fault(here, f"a table is not {key.kind.noun} (expected {key.kind.expected})")
            else:
                values |= self._convert(key, here, node)
        return values

    def _read_default(self, key: Key, path: KeyPath) -> dict[str, Any]:
        """Return the default as the only pair, or nothing where there is none."""
        default = key.default
        if default is REQUIRED:
            self.fault(path, f"missing (expected {key.kind.expected})")
        try:
            if isinstance(default, Computed):
                default = default.compute(self._circumstances.environment)
            if default in (REQUIRED, UNSET, None):
                return {}
            return {key.name: key.kind.convert(default, self.tree.where.folder)}
        except Misfit as misfit:
            self.fault(path, str(misfit))
            return {}

    def _convert(self, key: Key, path: KeyPath, leaf: Leaf) -> dict[str, Any]:
        """Return key and value as the only pair, or nothing after a fault."""
        try:
            value = expand(leaf.value, self._circumstances.environment)
            result = key.kind.convert(value, leaf.where.folder)
            if key.kind.inspect is not None and isinstance(result, Path):
                key.kind.inspect(result, is_check=self._circumstances.is_check)
        except Misfit as misfit:
            self.fault(path, str(misfit))
            return {}
        return {key.name: result}

    def _refuse_unknown(
        self, pattern: KeyPath, section: Section | None, path: KeyPath, table: Table
    ) -> None:
        known = self._known(section) if section else [*self.schema.children(pattern)]
        for name, node in table.entries.items():
            if name not in known:
                sort = "table" if isinstance(node, Table) else "key"
                self.fault((*path, name), f"unknown {sort}{suggest(name, known)}")


def suggest(wrong: str, known: Iterable[str]) -> str:
    """Return `` (did you mean "…"?)`` with the nearest known word, or nothing."""
    near = get_close_matches(wrong, list(known), n=1, cutoff=0.6)
    return f' (did you mean "{near[0]}"?)' if near else ""


def expand(value: object, environment: Mapping[str, str]) -> object:
    """Return a value with ``${VAR}`` filled in and ``$${`` as ``${``; raises Misfit."""
    if isinstance(value, list):
        return [expand(item, environment) for item in value]
    if not isinstance(value, str) or "${" not in value:
        return value

    def fill(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        if match[1] is None:
            raise Misfit(f"{shown(value)} has ${{ without a variable's name (a literal is $${{)")
        if match[1] not in environment:
            raise Misfit(f"the environment variable {match[1]} is not set")
        return environment[match[1]]

    return Expanded(_VARIABLE.sub(fill, value), value)


def _unquoted_names(known: list[str], table: Table, path: KeyPath) -> Iterator[KeyPath]:
    """Yield the parts of each dotted name below `table` that TOML took for nested tables.

    Such a table holds nothing but what its section knows, or further parts of a name.
    """
    for name, node in table.entries.items():
        if name in known or not isinstance(node, Table):
            continue
        here = (*path, name)
        deeper = list(_unquoted_names(known, node, here))
        if deeper:
            yield from deeper
        elif all(entry in known for entry in node.entries):
            yield here


def _found(leaf: Leaf) -> str:
    return "an array of tables" if _is_table_array(leaf) else shown(leaf.value)


def _is_table_array(leaf: Leaf) -> bool:
    return isinstance(leaf.value, list) and any(isinstance(item, dict) for item in leaf.value)
