"""Flags as settings: the same tree that a file gives, so that one schema judges both."""

from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from tunnel.settings.tree import KeyPath, Leaf, Node, Table, Where, merge

_LAST = 1 << 30  # rank: flags come after every file


@dataclass(frozen=True, slots=True)
class Setting:
    """A value at a key, and the flag that gave it (empty: it is implied by the quick start)."""

    path: KeyPath
    value: object
    flag: str = ""


def plant(settings: Iterable[Setting]) -> Table:
    """Return settings as a tree; those whose value is None are left out."""
    root = Table(_where("quick start"))
    return reduce(merge, (_branch(s) for s in settings if s.value is not None), root)


def _where(source: str) -> Where:
    return Where(source, Path.cwd(), rank=_LAST)


def _branch(setting: Setting) -> Table:
    where = _where(setting.flag or "quick start")
    node: Node = Leaf(setting.value, where)
    for name in reversed(setting.path):
        node = Table(where, {name: node})
    if isinstance(node, Leaf):
        raise TypeError("a setting needs a path")
    return node


def log_settings(arguments: Namespace) -> list[Setting]:
    """Return what -v, -q and --log-format say."""
    loudness = {"debug": "-v", "warning": "-q"}.get(arguments.log_level, "")
    return [
        Setting(("log", "level"), arguments.log_level, loudness),
        Setting(("log", "format"), arguments.log_format, "--log-format"),
    ]


def acme_settings(arguments: Namespace) -> list[Setting]:
    """Return what the --acme flags of both programs say of the authority."""
    staging = "letsencrypt-staging" if arguments.acme_staging else None
    table = ("acme",)
    return [
        Setting((*table, "email"), arguments.acme_email, "--acme-email"),
        Setting((*table, "account_file"), arguments.acme_creds_path, "--acme-creds-path"),
        Setting((*table, "directory"), staging, "--acme-staging"),
        Setting((*table, "directory"), arguments.acme_directory, "--acme-directory"),
        Setting((*table, "ca"), arguments.acme_ca, "--acme-ca"),
    ]


def client_overrides(arguments: Namespace, servers: Iterable[str]) -> list[Setting]:
    """Return what --force-h2 and --pool-size say, for the client and for each of its servers."""
    transport = "h2" if arguments.force_h2 else None
    places = [("client",), *(("servers", name) for name in servers)]
    return [
        setting
        for place in places
        for setting in (
            Setting((*place, "transport"), transport, "--force-h2"),
            Setting((*place, "pool_size"), arguments.pool_size, "--pool-size"),
        )
    ]
