"""Where settings say that the control socket is, whatever else is wrong with them.

A verb asks the program that runs: what was written since, well or badly, is not its matter. It has
to answer at once, too, so that only these two keys are read, and no schema is loaded.
"""

import os
from pathlib import Path

from tunnel.errors import SettingsError
from tunnel.settings.documents import Sources, read_documents
from tunnel.settings.file_kinds import PATH, SOCKET
from tunnel.settings.kinds import Kind, Misfit
from tunnel.settings.reader import expand
from tunnel.settings.tree import KeyPath, Leaf, Table, dotted, find


def socket_in_settings(program: str, config: Path) -> tuple[Path | None, Path | None]:
    """Return `admin.socket` and `state_dir`, None where they are not written.

    Raises SettingsError for what is no TOML or no path, OSError for a file that cannot be read.
    """
    tree = read_documents(Sources(config))
    return _path_at(tree, ("admin", "socket"), SOCKET), _path_at(tree, (program, "state_dir"), PATH)


def _path_at(tree: Table, path: KeyPath, kind: Kind) -> Path | None:
    leaf = find(tree, path)
    if not isinstance(leaf, Leaf):
        return None
    try:
        value = kind.convert(expand(leaf.value, os.environ), leaf.where.folder)
    except Misfit as misfit:
        raise SettingsError([f"{leaf.where}: {dotted(path)}: {misfit}"]) from None
    return value if isinstance(value, Path) else None
