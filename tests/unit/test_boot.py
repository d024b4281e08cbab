"""Where a zipapp would unpack itself."""

import ast
import os
from pathlib import Path

from tunnel import boot
from tunnel.boot import prefixes


def test_what_the_operator_says_comes_before_what_systemd_says_and_home() -> None:
    environment = {
        "SHIV_ROOT": "/srv/shiv",
        "CACHE_DIRECTORY": "/var/cache/relay:/var/cache/other",
        "XDG_CACHE_HOME": "/home/alice/cache",
    }
    assert list(prefixes(environment))[:3] == [
        "/srv/shiv/quic-tunnel-",
        "/var/cache/relay/quic-tunnel-",
        "/home/alice/cache/quic-tunnel-",
    ]


def test_users_do_not_meet_in_shared_directories() -> None:
    last = list(prefixes({"TMPDIR": "/scratch"}))[-3:]
    user = os.geteuid()
    assert last == [f"{root}/quic-tunnel-{user}-" for root in ("/scratch", "/tmp", "/var/tmp")]  # noqa: S108 - what is tested


def test_an_old_python_can_read_the_sentence_that_refuses_it() -> None:
    source = Path(boot.__file__).read_text()
    tree = ast.parse(source, feature_version=(3, 6))
    refusal = next(each for each in tree.body if isinstance(each, ast.If))
    assert not [each for each in tree.body[: tree.body.index(refusal)] if _imports_more(each)]
    assert "needs Python 3.11 or newer" in ast.unparse(refusal)


def _imports_more(statement: ast.stmt) -> bool:
    """Say whether a statement needs anything but `sys`, which every Python has."""
    if isinstance(statement, ast.Import):
        return [name.name for name in statement.names] != ["sys"]
    return isinstance(statement, ast.ImportFrom)
