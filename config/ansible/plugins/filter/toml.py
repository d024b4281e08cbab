"""Settings as the programs read them: TOML from YAML's mappings, lists, texts and numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible.errors import (  # type: ignore[import-not-found] # where Ansible runs
    AnsibleFilterError,
)

DOCUMENTATION = """
name: toml
short_description: Write a mapping as TOML
version_added: 0.1.0
author: The quic-tunnel authors
description:
  - Tables become tables, quoted where their names need it.
  - Mappings inside lists become inline tables.
  - Values of other sorts, such as null and dates, are faults.
options:
  _input:
    description: The mapping.
    type: dict
    required: true
"""

EXAMPLES = """
settings: "{{ {'suffixes': {'t.example.org': {'access': 'listed'}}} | quic_tunnel.tunnel.toml }}"
"""

RETURN = """
_value:
  description: The text of a TOML file.
  type: str
"""

BARE = re.compile(r"[A-Za-z0-9_-]+")


def key(name: str) -> str:
    """Return a key, quoted unless it may stand bare."""
    return name if BARE.fullmatch(name) else quoted(name)


def quoted(text: str) -> str:
    """Return a basic string: JSON's, but that TOML escapes DEL, too."""
    return json.dumps(str(text), ensure_ascii=False).replace("\x7f", "\\u007f")


def value(node: object, path: tuple[str, ...]) -> str:
    """Return what stands right of `=`, or in an array."""
    if isinstance(node, bool):
        return "true" if node else "false"
    if isinstance(node, (int, float)):
        return repr(node)
    if isinstance(node, str):
        return quoted(node)
    if isinstance(node, dict):
        inner = ", ".join(f"{key(str(name))} = {value(each, path)}" for name, each in node.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(node, (list, tuple)):
        return f"[{', '.join(value(each, path) for each in node)}]"
    sort = "nothing (null)" if node is None else f"a {type(node).__name__}"
    raise AnsibleFilterError(f"{'.'.join(path)}: {sort} is no value that settings know")


def lines(table: Mapping[Any, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Yield the lines of a table: its values, then the tables in it."""
    below = {str(name): node for name, node in table.items() if isinstance(node, dict)}
    own = {str(name): node for name, node in table.items() if not isinstance(node, dict)}
    if path and (own or not below):
        yield ""
        yield f"[{'.'.join(map(key, path))}]"
    for name, node in own.items():
        yield f"{key(name)} = {value(node, (*path, name))}"
    for name, node in below.items():
        yield from lines(node, (*path, name))


def toml(settings: object) -> str:
    """Return a mapping as TOML, without a last newline; raises AnsibleFilterError."""
    if not isinstance(settings, dict):
        raise AnsibleFilterError(f"settings are a mapping of tables, not {settings!r}")
    return "\n".join(lines(settings, ())).lstrip("\n")


class FilterModule:
    """What Ansible asks for filters."""

    def filters(self) -> dict[str, Callable[..., object]]:
        """Return the filters by name."""
        return {"toml": toml}
