"""The commented settings that `init` writes, drawn from the schema."""

import textwrap
from collections.abc import Iterator, Mapping

from tunnel.settings.kinds import written
from tunnel.settings.schema import ANY, REQUIRED, UNSET, Computed, Key, Schema, Section
from tunnel.settings.tree import KeyPath, header

_WIDTH = 96
_HEAD = """\
# Settings of {program}.pyz: start it with -c and this file.
# {program}.toml.d/*.toml add to it or change it; every key is explained in docs/config.md.
# A key after "#" without a space shows its default, or an example where it has none.
"""


def commented_settings(schema: Schema) -> str:
    """Return a complete settings file: what must be chosen is filled in, the rest commented."""
    blocks = [_HEAD.format(program=schema.program)]
    for section in schema.sections:
        blocks += _section(schema, section)
    return "\n".join(blocks)


def _section(schema: Schema, section: Section) -> Iterator[str]:
    """Yield one block per sample table of a section."""
    comment = _comment(section.meaning)
    if ANY not in section.path:
        yield _block(section, section.path, {}, comment)
        return
    if not section.samples:
        parent = next(s for s in schema.sections if s.path == section.path[:2])
        yield _block(section, _instance(section.path, next(iter(parent.samples))), {}, comment)
    for number, (name, values) in enumerate(section.samples.items()):
        path = _instance(section.path, name)
        yield _block(section, path, values, comment) if number == 0 else _brief(path, values)


def _instance(pattern: KeyPath, name: str) -> KeyPath:
    return tuple(name if part == ANY else part for part in pattern)


def _comment(text: str) -> str:
    lines = textwrap.wrap(text, _WIDTH, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


def _block(section: Section, path: KeyPath, values: Mapping[str, object], comment: str) -> str:
    """Return a table with every key of its section."""
    is_comment = section.is_only_example or len(path) > 2
    off = "#" if is_comment else ""
    lines = [comment, f"{off}{header(path)}\n"]
    for key in section.keys:
        value = values.get(key.name)
        lines.append(_comment(_explain(key)))
        mark = "#" if value is None else off
        lines.append(f"{mark}{key.name} = {written(_example(key) if value is None else value)}\n")
    return "".join(lines)


def _brief(path: KeyPath, values: Mapping[str, object]) -> str:
    """Return a further table of a section, with nothing but what it needs."""
    lines = [f"{key} = {written(value)}\n" for key, value in values.items()]
    return "".join([f"{header(path)}\n", *lines])


def _explain(key: Key) -> str:
    text = f"{key.meaning[0].upper()}{key.meaning[1:]}."
    if isinstance(key.default, Computed):
        return f"{text} Default: {key.default.words}."
    if key.default is UNSET:
        return f"{text} Default: none."
    if key.default == []:
        return f"{text} Default: []."
    return text


def _example(key: Key) -> object:
    """Return what the commented line shows: an example, or else the default."""
    if key.sample is not None:
        return key.sample
    if key.default in (REQUIRED, UNSET) or isinstance(key.default, Computed):
        raise LookupError(f"the schema has no example of {key.name}")
    return key.default
