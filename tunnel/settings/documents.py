"""From files to one merged tree: the main file, its drop-ins, and files that stand in for them."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import tomli

from tunnel.errors import SettingsError
from tunnel.settings.positions import ItemPath, locate
from tunnel.settings.tree import Leaf, Node, Table, Where, merge

SIZE_LIMIT = 4 << 20  # bytes of one file; more is not a settings file
DEPTH_LIMIT = 32  # of tables and arrays; all that read a tree may recurse as deep as it is

_IGNORED = (".*", "*~", "*.dpkg-*", "*.bak")


@dataclass(frozen=True, slots=True)
class Sources:
    """Which files make the settings: `main` and the `*.toml` in the folder `main` + ".d".

    Where `content` is given, that file is read in the place of `stands_for`, which is either
    `main` or a drop-in that may not exist yet.
    """

    main: Path
    content: Path | None = None
    stands_for: Path | None = None


def read_documents(sources: Sources) -> Table:
    """Return all files as one tree, later ones over earlier ones.

    Raises OSError where a file cannot be read, SettingsError with every file's syntax fault.
    """
    tree: Table | None = None
    faults: list[str] = []
    for rank, (name, path) in enumerate(_files(sources)):
        try:
            table = _read_file(path, name, rank)
        except SettingsError as error:
            faults += error.faults
            continue
        tree = table if tree is None else merge(tree, table)
    if faults or tree is None:
        raise SettingsError(faults)
    return tree


def _files(sources: Sources) -> list[tuple[Path, Path]]:
    """Return (name shown, file read) of the main file and then of the drop-ins by name."""
    folder = drop_in_folder(sources.main)
    names = {path for path in _list(folder) if is_drop_in(path.name)}
    if sources.stands_for is not None and not _is_same(sources.stands_for, sources.main):
        names.add(folder / sources.stands_for.name)
    return [(path, _content_of(path, sources)) for path in (sources.main, *sorted(names))]


def drop_in_folder(main: Path) -> Path:
    """Return the folder of a settings file's drop-ins."""
    return main.with_name(f"{main.name}.d")


def is_drop_in(name: str) -> bool:
    """Say whether a file of that name in the drop-in folder counts."""
    ignored = any(fnmatchcase(name, pattern) for pattern in _IGNORED)
    return name.endswith(".toml") and not ignored


def _list(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _content_of(path: Path, sources: Sources) -> Path:
    if sources.content and sources.stands_for and _is_same(path, sources.stands_for):
        return sources.content
    return path


def _is_same(one: Path, other: Path) -> bool:
    return os.path.normpath(one.absolute()) == os.path.normpath(other.absolute())


def _read_file(path: Path, name: Path, rank: int) -> Table:
    where = Where(str(name), name.absolute().parent, rank=rank)
    is_found = rank > 0 and path == name  # a file that was named to us may be a pipe
    if is_found and not stat.S_ISREG(path.stat().st_mode):
        raise SettingsError([f"{name}: is not a regular file (nor is it ignored, by its name)"])
    with path.open("rb") as file:
        content = file.read(SIZE_LIMIT + 1)
    if len(content) > SIZE_LIMIT:
        raise SettingsError([f"{name}: is larger than {SIZE_LIMIT >> 20} MiB"])
    return parse_document(content, where)


def parse_document(content: bytes, where: Where) -> Table:
    """Return a file's content as a tree; raises SettingsError on bad syntax."""
    try:
        text = content.decode("utf-8")
        document = tomli.loads(text)
        lines = locate(text)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError([f"{where.source}:{line}: is not UTF-8"]) from error
    except tomli.TOMLDecodeError as error:
        fault = f"{where.source}:{error.lineno}: {error.msg} (column {error.colno})"
        raise SettingsError([fault]) from error
    except RecursionError as error:
        raise SettingsError([f"{where.source}: is nested too deeply"]) from error
    except ValueError as error:  # an integer beyond what Python reads (4300 digits)
        raise SettingsError([f"{where.source}: holds a number that is too long"]) from error
    deep = min((line for path, line in lines.items() if len(path) > DEPTH_LIMIT), default=None)
    if deep is not None:
        raise SettingsError([f"{where.source}:{deep}: is nested too deeply"])
    return _plant(document, lines, (), where)


def _plant(
    document: Mapping[str, object], lines: Mapping[ItemPath, int], path: ItemPath, where: Where
) -> Table:
    """Return a table of the document as a tree; `where` tells its own place."""
    entries: dict[str, Node] = {}
    for name, value in document.items():
        below = (*path, name)
        place = Where(where.source, where.folder, lines[below], where.rank)
        if isinstance(value, Mapping):
            entries[name] = _plant(value, lines, below, place)
        else:
            entries[name] = Leaf(value, place)
    return Table(where, entries)
