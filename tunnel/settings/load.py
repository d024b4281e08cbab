"""The way in: settings files to frozen values."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tunnel.settings.client_rules import check_client
from tunnel.settings.client_schema import CLIENT
from tunnel.settings.documents import Sources, read_documents
from tunnel.settings.reader import Circumstances, Reading
from tunnel.settings.relay_rules import check_relay
from tunnel.settings.relay_schema import RELAY
from tunnel.settings.tree import Table
from tunnel.settings.values import (
    AcmeSettings,
    AdminSettings,
    ClientGrant,
    ClientLimits,
    ClientSettings,
    ClientTimeouts,
    EabSettings,
    EndpointSettings,
    FlowSettings,
    GrantLimits,
    KeypairSettings,
    ListenerSettings,
    LogSettings,
    QuicSettings,
    RelayCertificate,
    RelayLimits,
    RelaySettings,
    RelayTimeouts,
    ServerSettings,
    SuffixSettings,
)

T = TypeVar("T")
Values = dict[str, Any]


def load_relay(path: Path, environment: Mapping[str, str] | None = None) -> RelaySettings:
    """Return the settings in a relay.toml and its drop-ins.

    Raises SettingsError with every fault, OSError where a file cannot be read.
    """
    tree = read_documents(Sources(path))
    return read_relay(tree, Circumstances(os.environ if environment is None else environment))


def load_client(path: Path, environment: Mapping[str, str] | None = None) -> ClientSettings:
    """Return the settings in a client.toml and its drop-ins; raises as `load_relay` does."""
    tree = read_documents(Sources(path))
    return read_client(tree, Circumstances(os.environ if environment is None else environment))


def read_relay(tree: Table, circumstances: Circumstances) -> RelaySettings:
    """Return what a merged tree says to a relay; raises SettingsError with every fault."""
    reading = Reading(RELAY, tree, circumstances)
    check_relay(reading)
    reading.raise_faults()
    values = reading.values
    return RelaySettings(
        **values["relay"],
        certificate=RelayCertificate(**values["certificate"]),
        listeners=_named(ListenerSettings, values["listeners"]),
        suffixes=_named(SuffixSettings, values["suffixes"]),
        clients={name: _grant(name, table) for name, table in values["clients"].items()},
        limits=RelayLimits(**values["limits"]),
        timeouts=RelayTimeouts(**values["timeouts"]),
        **_shared(values),
    )


def read_client(tree: Table, circumstances: Circumstances) -> ClientSettings:
    """Return what a merged tree says to a client; raises SettingsError with every fault."""
    reading = Reading(CLIENT, tree, circumstances)
    check_client(reading)
    reading.raise_faults()
    values = reading.values
    common = {key: values["client"].pop(key) for key in ("transport", "pool_size")}
    servers = {name: _server(name, common | t) for name, t in values["servers"].items()}
    endpoints = values["endpoints"].items()
    return ClientSettings(
        **values["client"],
        servers=servers,
        keypairs=_named(KeypairSettings, values["keypairs"]),
        endpoints={name: _endpoint(name, table, tuple(servers)) for name, table in endpoints},
        limits=ClientLimits(**values["limits"]),
        timeouts=ClientTimeouts(**values["timeouts"]),
        **_shared(values),
    )


def _shared(values: Values) -> Values:
    return {
        "acme": _acme(values["acme"]),
        "admin": AdminSettings(**values["admin"]),
        "flow": FlowSettings(**values["flow"]),
        "quic": QuicSettings(**values["quic"]),
        "log": LogSettings(**values["log"]),
    }


def _acme(table: Values) -> AcmeSettings:
    eab = EabSettings(**table["eab"]) if table["eab"] else None
    return AcmeSettings(**{**table, "eab": eab})


def _named(cls: Callable[..., T], tables: Mapping[str, Values]) -> dict[str, T]:
    return {name: cls(name=name, **_in_force(table)) for name, table in tables.items()}


def _in_force(table: Values) -> Values:
    """Return a table without its switch: one that is off has no value at all."""
    return {key: value for key, value in table.items() if key != "enabled"}


def _grant(name: str, table: Values) -> ClientGrant:
    limits = GrantLimits(**table.get("limits", {}))
    return ClientGrant(name=name, **{**table, "limits": limits})


def _server(name: str, table: Values) -> ServerSettings:
    return ServerSettings(name=name, **{"server_name": table["address"].host, **_in_force(table)})


def _endpoint(name: str, table: Values, servers: tuple[str, ...]) -> EndpointSettings:
    extension = table.pop("certificate_extension_hex", None)
    every = {"servers": servers, **_in_force(table)}
    return EndpointSettings(name=name, certificate_extension=extension, **every)
