"""Where settings were written, for the faults that only a comparison with others shows.

What is wrong in settings themselves has its place from the reading.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Generic

from tunnel.settings.reload import LIVE, S
from tunnel.settings.schema import ANY
from tunnel.settings.tree import KeyPath, Leaf, Table, dotted, leaves

Sources = Mapping[str, str]
"""Key, as TOML writes it, to the file or flag that had it."""

NOTHING: Sources = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Found(Generic[S]):
    """Settings with the tree that they were read from; `fixed` are the keys no reload can change.

    Made by `found`, in the thread that reads: there may be ten thousand keys.
    """

    settings: S
    tree: Table = field(repr=False)
    fixed: Sources

    def restart_faults(self, keys: Iterable[str], before: Sources) -> Iterator[str]:
        """Yield one ready line for each of these keys, which take a restart.

        One that is not written any more has no line: the file is named that had it `before`.
        """
        written = self._written()
        for key in keys:
            if key in written:
                yield f"{written[key].where}: {key}: needs a restart"
            elif key in before:
                yield f"{before[key]}: {key}: was removed, which needs a restart"
            else:
                yield f"{key}: needs a restart"

    def placed(self, key: str, message: str) -> str:
        """Return a message about a key as a ready line."""
        leaf = self._written().get(key)
        return message if leaf is None else f"{leaf.where}: {message}"

    def _written(self) -> dict[str, Leaf]:
        return {dotted(path): leaf for path, leaf in leaves(self.tree)}


def found(settings: S, tree: Table) -> Found[S]:
    """Return settings with the places of their keys."""
    live = LIVE[type(settings)]
    fixed = {
        dotted(path): leaf.where.source
        for path, leaf in leaves(tree)
        if path not in live and _pattern(path) not in live
    }
    return Found(settings, tree, fixed)


def _pattern(path: KeyPath) -> KeyPath:
    """Return the path of a key in a table whose name the operator chose, ANY in its place."""
    return (path[0], ANY, *path[2:])
