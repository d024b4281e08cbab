"""From a command line to one merged tree of settings: files and flags."""

from argparse import Namespace

from tunnel.cli.flags import client_overrides, log_settings, plant
from tunnel.cli.quickstart import client_quick_start, relay_quick_start
from tunnel.settings.documents import Sources, drop_in_folder, is_drop_in, read_documents
from tunnel.settings.tree import Table, find, merge


class MisplacedStandIn(ValueError):  # noqa: N818 - names what is wrong with --as
    """`--as` names a file that is not one of those that `-c` reads."""


def relay_tree(arguments: Namespace) -> Table:
    """Return a relay's settings; raises SettingsError, OSError, MisplacedStandIn."""
    if arguments.config is None:
        return plant(relay_quick_start(arguments))
    tree = read_documents(_sources(arguments))
    return merge(tree, plant(log_settings(arguments)))


def client_tree(arguments: Namespace) -> Table:
    """Return a client's settings; raises as `relay_tree` does."""
    if arguments.config is None:
        return plant(client_quick_start(arguments))
    tree = read_documents(_sources(arguments))
    servers = find(tree, ("servers",))
    names = list(servers.entries) if isinstance(servers, Table) else []
    return merge(tree, plant([*log_settings(arguments), *client_overrides(arguments, names)]))


def _sources(arguments: Namespace) -> Sources:
    """Return which files are read, with the one that --as names replaced."""
    if arguments.stands_for is None:
        return Sources(arguments.config)
    if arguments.content is None:
        main = arguments.stands_for
        return Sources(main, content=arguments.config, stands_for=main)
    drop_in = arguments.stands_for
    folder = drop_in_folder(arguments.config)
    if drop_in.absolute().parent != folder.absolute() or not is_drop_in(drop_in.name):
        raise MisplacedStandIn(f"--as {drop_in} is none of {folder}/*.toml: it would not be read")
    return Sources(arguments.config, content=arguments.content, stands_for=drop_in)
