"""--show-config: what is in force, key by key, and where each value was written."""

from collections.abc import Iterator, Mapping

from tunnel.settings.kinds import written
from tunnel.settings.schema import ANY, REQUIRED, UNSET, Computed, Key, Schema, Section
from tunnel.settings.tree import Leaf, Table, dotted, find, is_masked, leaves, quote_key

Path = tuple[str, ...]


def show_config(schema: Schema, tree: Table, environment: Mapping[str, str]) -> str:
    """Return the merged settings as TOML, each value with its origin; variables stay unfilled."""
    shown: set[Path] = set()
    blocks: list[str] = []
    for section in schema.sections:
        for path in _instances(section.path, tree):
            lines = list(_lines(section, path, tree, environment))
            shown |= {(*path, key.name) for key in section.keys}
            if lines:
                blocks.append("\n".join([f"[{dotted(path)}]", *lines]))
    rest = [(path, leaf) for path, leaf in leaves(tree) if path not in shown]
    blocks += [f"{dotted(path)} = {_with_origin(leaf)}" for path, leaf in rest]
    return "\n\n".join(blocks) + "\n"


def _instances(pattern: Path, tree: Table, done: Path = ()) -> Iterator[Path]:
    """Yield the paths that a section's pattern stands for in this tree."""
    if not pattern:
        yield done
    elif pattern[0] != ANY:
        yield from _instances(pattern[1:], tree, (*done, pattern[0]))
    else:
        node = find(tree, done)
        for name, below in node.entries.items() if isinstance(node, Table) else ():
            if isinstance(below, Table) and not (is_masked(below) and pattern[1:]):
                yield from _instances(pattern[1:], tree, (*done, name))


def _lines(
    section: Section, path: Path, tree: Table, environment: Mapping[str, str]
) -> Iterator[str]:
    table = find(tree, path)
    masked = table is not None and is_masked(table)
    for key in section.keys:
        leaf = find(tree, (*path, key.name))
        if isinstance(leaf, Leaf):
            yield f"{key.name} = {_with_origin(leaf)}"
        elif not (masked or section.not_built or key.not_built):
            yield from _default_line(key, environment)


def _default_line(key: Key, environment: Mapping[str, str]) -> Iterator[str]:
    default = key.default
    if isinstance(default, Computed):
        default = default.compute(environment)
    if default not in (REQUIRED, UNSET, None):
        yield f"{quote_key(key.name)} = {written(default)}  # default"


def _with_origin(leaf: Leaf) -> str:
    return f"{written(leaf.value)}  # {leaf.where}"
