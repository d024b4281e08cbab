"""Rules about certificates from an authority that hold in both programs' settings."""

from collections.abc import Iterator

from tunnel.settings.acme_kinds import BOUND_DIRECTORIES, NAMED_DIRECTORIES
from tunnel.settings.file_kinds import may_exist
from tunnel.settings.reader import Reading
from tunnel.settings.schema import ANY, instances
from tunnel.settings.shared_rules import value_at
from tunnel.settings.tree import KeyPath, Leaf, Table, find

_ELSEWHERE = ("self-signed", "files", "passthrough")  # where a certificate is not ordered

# Last labels that no public authority vouches for: RFC 6761 §6, RFC 6762 §3, RFC 7686, RFC 9476,
# and what ICANN keeps for private use.
_NOT_PUBLIC = ("alt", "example", "internal", "invalid", "local", "localhost", "onion", "test")


def check_acme(reading: Reading, switch: KeyPath) -> None:
    """Check `[acme]`; `switch` is the pattern of the key that says where a certificate is from."""
    _check_use(reading, switch)
    _check_eab(reading)
    _check_account(reading)


def _check_use(reading: Reading, switch: KeyPath) -> None:
    """Fault an `[acme]` that says more than its defaults where nothing is ordered."""
    if not any(_says(reading)) or any(_orders(reading, switch)):
        return
    name = ".".join("NAME" if part == ANY else part for part in switch)
    reading.fault(("acme",), f'nothing orders a certificate (expected {name} = "acme")')


def _says(reading: Reading) -> Iterator[bool]:
    """Yield for each entry of `[acme]` whether it is another than its default."""
    section = reading.schema.section(("acme",))
    table = find(reading.tree, ("acme",))
    if section is None or not isinstance(table, Table):
        return
    for name, node in table.entries.items():
        key = section.key(name)
        yield not (key and isinstance(node, Leaf) and node.value == key.default)


def _orders(reading: Reading, switch: KeyPath) -> Iterator[bool]:
    """Yield for each certificate whether it may be ordered.

    One that is masked counts, for it may come back; so does one that is not understood.
    """
    for path in instances(switch[:-1], reading.tree):
        leaf = find(reading.tree, (*path, switch[-1]))
        yield isinstance(leaf, Leaf) and leaf.value not in _ELSEWHERE


def _check_eab(reading: Reading) -> None:
    """A binding takes both of its keys."""
    path = ("acme", "eab")
    table = find(reading.tree, path)
    if isinstance(table, Table):
        for key in ("kid", "key_file"):
            if key not in table.entries:
                reading.fault((*path, key), "missing (a binding has kid and key_file)")


def _check_account(reading: Reading) -> None:
    """An authority that wants to know its customers needs a binding, once, to make the account."""
    directory = value_at(reading, ("acme", "directory"))
    if directory not in BOUND_DIRECTORIES or find(reading.tree, ("acme", "eab")) is not None:
        return
    account = value_at(reading, ("acme", "account_file"))
    if account is None and find(reading.tree, ("acme", "account_file")) is not None:
        return  # its own fault comes first
    if account is None or not may_exist(account):
        reading.fault(
            ("acme", "directory"),
            f'"{directory}" makes no account without a binding '
            "(expected [acme.eab], or an account_file that exists)",
        )


def check_public(reading: Reading, path: KeyPath) -> None:
    """Fault each name at `path` that a public authority issues nothing for, or below.

    One that is known by its URL alone may be the operator's own: it issues what it likes.
    """
    directory = value_at(reading, ("acme", "directory"))
    if directory not in NAMED_DIRECTORIES:
        return
    written = value_at(reading, path) or ()
    for name in (written,) if isinstance(written, str) else written:
        if "." not in name or name.rpartition(".")[2] in _NOT_PUBLIC:
            reading.fault(
                path,
                f'"{name}" is no public name: {directory} issues nothing for it '
                "(expected a public one, or the URL of an own authority in acme.directory)",
            )
