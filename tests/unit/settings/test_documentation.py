"""docs/config.md and the commented files say what the schema says: all of it, and no more."""

import re
from pathlib import Path

import pytest
import tomli

from tests.unit.settings.documents import write
from tunnel.cli.template import commented_settings
from tunnel.settings.client_schema import CLIENT
from tunnel.settings.kinds import written
from tunnel.settings.load import load_client, load_relay
from tunnel.settings.relay_schema import RELAY
from tunnel.settings.reload import LIVE
from tunnel.settings.schema import REQUIRED, UNSET, Computed, Key, Schema, Section
from tunnel.settings.values import ClientSettings, RelaySettings

ROOT = Path(__file__).parents[3]
SCHEMAS = [RELAY, CLIENT]
NAMES = ["relay", "client"]

SETTINGS = {RELAY.program: RelaySettings, CLIENT.program: ClientSettings}


def default_of(key: Key) -> str:
    if isinstance(key.default, Computed):
        return key.default.words
    if key.default is REQUIRED:
        return "required"
    return "none" if key.default is UNSET else f"`{written(key.default)}`"


def reload_of(schema: Schema, section: Section, key: Key) -> str:
    """Return what a change of the key takes."""
    live = LIVE[SETTINGS[schema.program]]
    return "reload" if (*section.path, key.name) in live else "restart"


def row(schema: Schema, section: Section, key: Key) -> str:
    """Return the line of docs/config.md about a key."""
    change = reload_of(schema, section, key)
    cells = [f"`{key.name}`", key.kind.words, default_of(key), f"{key.meaning}.", change]
    return f"| {' | '.join(cells)} |"


def heading(section: Section) -> str:
    return f"### `[{'.'.join('NAME' if part == '*' else part for part in section.path)}]`"


def documented(program: str) -> str:
    """Return the part of docs/config.md about one program's file."""
    text = (ROOT / "docs" / "config.md").read_text()
    return text.partition(f"\n## {program}.toml\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("schema", SCHEMAS, ids=NAMES)
def test_every_key_has_its_line_in_the_docs(schema: Schema) -> None:
    text = documented(schema.program)
    for section in schema.sections:
        part = text.partition(f"{heading(section)}\n")[2].partition("\n### ")[0]
        assert [line for line in part.splitlines() if line.startswith("| `")] == [
            row(schema, section, key) for key in section.keys
        ]


@pytest.mark.parametrize("schema", SCHEMAS, ids=NAMES)
def test_the_docs_know_no_other_table(schema: Schema) -> None:
    found = re.findall(r"^### .*$", documented(schema.program), re.MULTILINE)
    assert found == [heading(section) for section in schema.sections]


@pytest.mark.parametrize("schema", SCHEMAS, ids=NAMES)
def test_the_commented_file_is_what_init_writes(schema: Schema) -> None:
    assert (ROOT / "config" / f"{schema.program}.toml").read_text() == commented_settings(schema)


@pytest.mark.parametrize("schema", SCHEMAS, ids=NAMES)
def test_the_commented_file_has_every_key(schema: Schema) -> None:
    document = tomli.loads(uncommented(schema))
    for section in schema.sections:
        table = document
        for part in section.path:
            table = table[part] if part != "*" else next(iter(table.values()))
        assert {key.name for key in section.keys} <= set(table)


def uncommented(schema: Schema) -> str:
    text = (ROOT / "config" / f"{schema.program}.toml").read_text()
    return re.sub(r"^#(?! )", "", text, flags=re.MULTILINE)


def test_the_commented_files_load(tmp_path: Path) -> None:
    relay = (ROOT / "config" / "relay.toml").read_text()
    client = (ROOT / "config" / "client.toml").read_text()
    assert set(load_relay(write(tmp_path, "relay.toml", relay), {}).listeners) == {
        "agents",
        "public",
    }
    assert set(load_client(write(tmp_path, "client.toml", client), {}).endpoints) == {"web"}
