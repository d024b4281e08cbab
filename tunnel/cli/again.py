"""The settings of a running daemon, read again as its command line says."""

import os
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunnel.cli.arguments import parse_client, parse_relay
from tunnel.cli.sources import client_tree, relay_tree
from tunnel.errors import SettingsError
from tunnel.settings.load import read_client, read_relay
from tunnel.settings.places import Found, found
from tunnel.settings.reader import Circumstances

if TYPE_CHECKING:
    from tunnel.settings.values import ClientSettings, RelaySettings


def relay_settings(argv: Sequence[str]) -> "Found[RelaySettings]":
    """Return what the files and flags of a relay's command line say now.

    Raises SettingsError, OSError where a file cannot be read.
    """
    tree = relay_tree(_checked(parse_relay(argv)))
    return found(read_relay(tree, Circumstances(os.environ)), tree)


def client_settings(argv: Sequence[str]) -> "Found[ClientSettings]":
    """Return what the files and flags of a client's command line say now; raises likewise."""
    tree = client_tree(_checked(parse_client(argv)))
    return found(read_client(tree, Circumstances(os.environ)), tree)


def _checked(arguments: Namespace) -> Namespace:
    """Return arguments whose file can be read more than once; raises SettingsError."""
    path = arguments.config
    if path is not None and path.exists() and not path.is_file():
        raise SettingsError([f"{path}: is not a regular file: it cannot be read again"])
    return arguments
