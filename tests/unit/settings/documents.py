"""Good documents that tests start from, and how a test loads a changed one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from tunnel.errors import SettingsError
from tunnel.settings.load import load_client, load_relay
from tunnel.settings.values import ClientSettings, RelaySettings

T = TypeVar("T")

FINGERPRINT = "sha256:" + "ab" * 32
OTHER_FINGERPRINT = "sha256:" + "cd" * 32

RELAY = """\
[listeners.agents]
kind = "agents"
listen = ["127.0.0.1:4433"]
[listeners.public]
kind = "public"
listen = ["127.0.0.1:8443"]
[suffixes."t.example.org"]
"""

CLIENT = """\
[servers.eu]
address = "eu.example.org"
[keypairs.primary]
file = "client.key"
[endpoints.web]
keypair = "primary"
suffix = "t.example.org"
target = 3000
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def relay(folder: Path, more: str = "", base: str = RELAY) -> RelaySettings:
    """Load a relay.toml: `more` follows the good base, so its first line is the 8th."""
    return load_relay(write(folder, "relay.toml", base + more), {})


def client(folder: Path, more: str = "", base: str = CLIENT) -> ClientSettings:
    """Load a client.toml: `more` follows the good base, so its first line is the 9th."""
    return load_client(write(folder, "client.toml", base + more), {})


def faults(
    load: Callable[[Path, Mapping[str, str]], object], path: Path, **environment: str
) -> list[str]:
    """Return the faults of a file, without its folder."""
    try:
        load(path, environment)
    except SettingsError as error:
        return [fault.replace(f"{path.parent}/", "") for fault in error.faults]
    return []
