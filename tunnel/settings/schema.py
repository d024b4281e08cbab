"""The vocabulary of a settings file: sections, keys, their kinds, defaults and meanings.

Reading, suggestions, --show-config, the commented files and the docs' tables all come from here.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from tunnel.settings.kinds import Kind
from tunnel.settings.tree import KeyPath, Table, find, is_masked

ANY = "*"  # in a section's path: the name that the operator gives to a table


class Absent(Enum):
    """What holds where a key is not written and has no plain default."""

    REQUIRED = "required"
    UNSET = "unset"


REQUIRED, UNSET = Absent.REQUIRED, Absent.UNSET


@dataclass(frozen=True, slots=True)
class Computed:
    """A default that depends on where the program runs; `words` say on what."""

    words: str
    compute: Callable[[Mapping[str, str]], object]


@dataclass(frozen=True, slots=True)
class Key:
    """One key: `default` is written as in TOML; `sample` is what the commented file shows.

    `only_with` is another key of the table and the words of it with which this one has a meaning.
    """

    name: str
    kind: Kind
    meaning: str
    default: object = UNSET
    sample: object = None
    only_with: tuple[str, tuple[str, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """A table of keys; `path` has ANY where the operator picks the name.

    `names` is the Kind that such names must be of, `samples` the tables of the commented file:
    by name, the keys that are written there with their values. A masked table that has the key
    `kept_when_masked` stays in force with that key alone, and `enabled = False`.
    The samples of an `is_only_example` section are commented out.
    """

    path: KeyPath
    meaning: str
    keys: tuple[Key, ...]
    names: Kind | None = None
    samples: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    kept_when_masked: str = ""
    is_only_example: bool = False

    def key(self, name: str) -> Key | None:
        """Return the key of that name, or None."""
        return next((key for key in self.keys if key.name == name), None)


@dataclass(frozen=True, slots=True)
class Schema:
    """Everything that one program's settings may say."""

    program: str  # relay | client
    sections: tuple[Section, ...]

    def section(self, path: KeyPath) -> Section | None:
        """Return the section at a pattern path such as ``("listeners", ANY)``, or None."""
        return next((section for section in self.sections if section.path == path), None)

    def children(self, path: KeyPath) -> tuple[str, ...]:
        """Return the names (or ANY) of the tables that may stand directly below `path`."""
        depth = len(path)
        below = [s.path[depth] for s in self.sections if s.path[:depth] == path and s.path != path]
        return tuple(dict.fromkeys(below))


def instances(pattern: KeyPath, tree: Table, done: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the paths that a section's pattern stands for in a tree, masked tables included.

    Below a masked table there are none.
    """
    if not pattern:
        yield done
    elif pattern[0] != ANY:
        yield from instances(pattern[1:], tree, (*done, pattern[0]))
    else:
        node = find(tree, done)
        for name, below in node.entries.items() if isinstance(node, Table) else ():
            if isinstance(below, Table) and not (is_masked(below) and pattern[1:]):
                yield from instances(pattern[1:], tree, (*done, name))
