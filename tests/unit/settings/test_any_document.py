"""Whatever a document says at known places, nothing but SettingsError comes out."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnel.errors import SettingsError
from tunnel.settings.client_schema import CLIENT
from tunnel.settings.documents import parse_document
from tunnel.settings.load import read_client, read_relay
from tunnel.settings.reader import Circumstances
from tunnel.settings.relay_schema import RELAY
from tunnel.settings.schema import Schema
from tunnel.settings.tree import Leaf, Node, Table, Where

WHERE = Where("any.toml", Path("/nonexistent"), 1)

WORDS = st.sampled_from(
    [
        "",
        "a",
        "t.example.org",
        "off",
        "5m",
        "8MiB",
        "9" * 5000 + "s",
        "[::1]:0",
        "127.0.0.1:443",
        "0.0.0.0:443",
        "http://a b:1",
        "http://[${HOME}]:1",
        "http://u:p@h:1",
        "socks5://[:1",
        "${HOME}",
        "${NO_SUCH}",
        "$${",
        "sha256:" + "0" * 64,
        "~nobody/x",
        "~",
        "unix:/" + "x" * 5000,
        "10.0.0.0/99",
        "files",
        "self-signed",
        "passthrough",
        "acme",
        "zerossl",
        "https://[${HOME}/x",
        "https://u:p@h/" + "d" * 5000,
        "ops@example.org",
        "*.example.org",
        "public",
        "shared",
        "\ud7ff\x00",
    ]
)
PLAIN = st.one_of(
    WORDS,
    st.text(max_size=20),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, -1, 0, 64, 443, 4433]),
    st.floats(),
)
VALUES = st.one_of(PLAIN, st.lists(PLAIN, max_size=3), st.lists(st.just({"a": 1}), max_size=1))
NAMES = st.sampled_from(["one", "two", "t.example.org", "${X}", "", "a b"])


@st.composite
def trees(draw: st.DrawFn, schema: Schema) -> Table:
    """Draw a document with some of the schema's keys and any values."""
    root: dict[str, Any] = {}
    for section in schema.sections:
        if draw(st.booleans()):
            continue
        table = root
        for part in section.path:
            table = table.setdefault(draw(NAMES) if part == "*" else part, {})
        known = st.sampled_from([key.name for key in section.keys] + ["unknown"])
        table.update(draw(st.dictionaries(known, VALUES, max_size=6)))
    return plant(root)


def plant(document: dict[str, Any]) -> Table:
    entries: dict[str, Node] = {}
    for name, value in document.items():
        entries[name] = plant(value) if isinstance(value, dict) else Leaf(value, WHERE)
    return Table(WHERE, entries)


@pytest.mark.parametrize("is_check", [True, False])
@settings(max_examples=150)
@given(trees(RELAY))
def test_a_relay_takes_or_refuses_any_values(is_check: bool, tree: Table) -> None:
    with suppress(SettingsError):
        read_relay(tree, Circumstances(os.environ, is_check=is_check))


@pytest.mark.parametrize("is_check", [True, False])
@settings(max_examples=150)
@given(trees(CLIENT))
def test_a_client_takes_or_refuses_any_values(is_check: bool, tree: Table) -> None:
    with suppress(SettingsError):
        read_client(tree, Circumstances(os.environ, is_check=is_check))


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
def test_any_bytes_are_a_document_or_a_fault(content: bytes) -> None:
    with suppress(SettingsError):
        parse_document(content, WHERE)


def test_a_key_file_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "client.key")
    tree = plant({"keypairs": {"one": {"file": str(tmp_path / "client.key")}}})
    with pytest.raises(SettingsError, match=r"client\.key is not a regular file"):
        read_client(tree, Circumstances({"STATE_DIRECTORY": str(tmp_path)}))
