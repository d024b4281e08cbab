"""Rules over several keys of relay.toml."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from tunnel.protocol.names import has_id_shape
from tunnel.settings.acme_rules import check_acme, check_public
from tunnel.settings.reader import Reading
from tunnel.settings.shared_rules import (
    FILES,
    check_flow,
    check_needs,
    check_references,
    check_switches,
    in_force,
    value_at,
)
from tunnel.stream import Address


def check_relay(reading: Reading) -> None:
    """Note every fault that shows only when several keys are looked at together."""
    check_flow(reading)
    check_switches(reading)
    check_needs(reading, ("certificate",), "mode", {"files": FILES, "acme": ("names",)})
    check_acme(reading, ("certificate", "mode"))
    _check_listeners(reading)
    _check_addresses(reading)
    _check_suffixes(reading)
    _check_fingerprints(reading)
    _check_names(reading)
    _check_own_names(reading)


def _check_listeners(reading: Reading) -> None:
    """Clients and visitors both need a way in."""
    listeners = in_force(reading, "listeners")
    if any("kind" not in listener for listener in listeners.values()):
        return  # its own fault comes first
    for name, listener in listeners.items():
        if set(listener.get("transports", ())) == {"direct"}:
            path = ("listeners", name, "transports")
            reading.fault(path, 'nobody registers by "direct" alone (expected "quic" or "h2" too)')
    kinds = {listener["kind"] for listener in listeners.values()}
    for kind, who in (("agents", "clients"), ("public", "visitors")):
        if not kinds & {kind, "shared"}:
            reading.fault(
                ("listeners",), f'none for {who} (expected one with kind = "{kind}" or "shared")'
            )


def _sockets(listener: dict[str, Any]) -> Iterator[tuple[str, Address]]:
    """Yield (udp or tcp, address) of each socket that a listener binds."""
    kind = listener.get("kind")
    transports = listener.get("transports", ())
    for address in listener.get("listen", ()):
        if kind in ("agents", "shared") and "quic" in transports:
            yield "udp", address
        if kind in ("public", "shared") or not {"h2", "direct"}.isdisjoint(transports):
            yield "tcp", address


def _check_addresses(reading: Reading) -> None:
    bound = [
        (name, layer, address)
        for name, listener in in_force(reading, "listeners").items()
        for layer, address in _sockets(listener)
    ]
    seen: set[tuple[str, str, Address, Address]] = set()
    for (one, layer, first), (other, also, second) in combinations(bound, 2):
        clash = (one, other, first, second)
        if layer == also and first.overlaps(second) and clash not in seen:
            seen.add(clash)
            reading.fault(
                ("listeners", other, "listen"),
                f'"{second}" is taken by listeners.{one} ("{first}")',
            )


def _check_suffixes(reading: Reading) -> None:
    for name, client in in_force(reading, "clients").items():
        path = ("clients", name, "suffixes")
        check_references(reading, path, client.get("suffixes", ()), "suffixes")


def _check_fingerprints(reading: Reading) -> None:
    owners: dict[bytes, str] = {}
    for name, client in reading.values["clients"].items():
        fingerprint = client.get("fingerprint")
        if fingerprint in owners:
            message = f"is that of clients.{owners[fingerprint]} already"
            reading.fault(("clients", name, "fingerprint"), message)
        elif fingerprint is not None:
            owners[fingerprint] = name


def _check_names(reading: Reading) -> None:
    """A custom name has one owner and is no id of somebody's key."""
    suffixes = list(in_force(reading, "suffixes"))
    owners: dict[str, str] = {}
    for client, table in in_force(reading, "clients").items():
        path = ("clients", client, "names")
        for name in table.get("names", ()):
            if any(has_id_shape(name, suffix) for suffix in suffixes):
                reading.fault(path, f'"{name}" has the shape of an id (a custom name must not)')
            elif name in suffixes:
                reading.fault(path, f'"{name}" is a suffix (a custom name must not be one)')
            if name in owners:
                reading.fault(path, f'"{name}" is granted to clients.{owners[name]} already')
            owners.setdefault(name, client)


def _check_own_names(reading: Reading) -> None:
    """What the relay orders for itself is never a client's; wildcards that are granted exclude it.

    So they are no faults (docs/protocol.md).
    """
    if value_at(reading, ("certificate", "mode")) != "acme":
        return
    path = ("certificate", "names")
    check_public(reading, path)
    suffixes = list(in_force(reading, "suffixes"))
    grants = {
        name: client
        for client, table in in_force(reading, "clients").items()
        for name in table.get("names", ())
    }
    for name in value_at(reading, path) or ():
        if any(has_id_shape(name, suffix) for suffix in suffixes):
            reading.fault(path, f'"{name}" has the shape of an id (a name of the relay must not)')
        if name in grants:
            reading.fault(path, f'"{name}" is granted to clients.{grants[name]}')
