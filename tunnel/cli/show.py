"""--show-config: what is in force, key by key, and where each value was written."""

from collections.abc import Iterator, Mapping

from tunnel.settings.kinds import written
from tunnel.settings.schema import REQUIRED, UNSET, Computed, Key, Schema, Section, instances
from tunnel.settings.tree import (
    KeyPath,
    Leaf,
    Node,
    Table,
    dotted,
    find,
    header,
    is_masked,
    leaves,
    quote_key,
)


def show_config(schema: Schema, tree: Table, environment: Mapping[str, str]) -> str:
    """Return the merged settings as TOML, each value with its origin; variables stay unfilled."""
    shown: set[KeyPath] = set()
    blocks: list[str] = []
    for section in schema.sections:
        for path in instances(section.path, tree):
            lines = list(_lines(section, path, tree, environment))
            shown |= {(*path, key.name) for key in section.keys}
            if lines:
                blocks.append("\n".join([header(path), *lines]))
    rest = [(path, leaf) for path, leaf in leaves(tree) if path not in shown]
    blocks += [f"{dotted(path)} = {_with_origin(leaf)}" for path, leaf in rest]
    return "\n\n".join(blocks) + "\n"


def _lines(
    section: Section, path: KeyPath, tree: Table, environment: Mapping[str, str]
) -> Iterator[str]:
    table = find(tree, path)
    masked = table is not None and is_masked(table)
    for key in section.keys:
        leaf = find(tree, (*path, key.name))
        if isinstance(leaf, Leaf):
            yield f"{key.name} = {_with_origin(leaf)}"
        elif not masked and _applies(key, section, table):
            yield from _default_line(key, environment)


def _applies(key: Key, section: Section, table: Node | None) -> bool:
    """Say whether a key has a meaning besides the others of its table."""
    if key.only_with is None:
        return True
    switch, allowed = key.only_with
    leaf = table.entries.get(switch) if isinstance(table, Table) else None
    known = section.key(switch)
    chosen = leaf.value if isinstance(leaf, Leaf) else known and known.default
    return chosen in allowed


def _default_line(key: Key, environment: Mapping[str, str]) -> Iterator[str]:
    default = key.default
    if isinstance(default, Computed):
        default = default.compute(environment)
    if default not in (REQUIRED, UNSET, None):
        yield f"{quote_key(key.name)} = {written(default)}  # default"


def _with_origin(leaf: Leaf) -> str:
    return f"{written(leaf.value)}  # {leaf.where}"
