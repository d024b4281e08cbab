"""Rules over several keys of client.toml."""

from itertools import combinations
from typing import Any

from tunnel.protocol.names import has_id_shape
from tunnel.settings.acme_rules import check_acme, check_public
from tunnel.settings.reader import Reading
from tunnel.settings.schema import ANY
from tunnel.settings.shared_rules import (
    FILES,
    check_flow,
    check_needs,
    check_references,
    check_switches,
    in_force,
    value_at,
)
from tunnel.settings.tree import KeyPath, Leaf, find


def check_client(reading: Reading) -> None:
    """Note every fault that shows only when several keys are looked at together."""
    check_flow(reading)
    check_switches(reading)
    check_acme(reading, ("endpoints", ANY, "certificate"))
    for group, purpose in (("servers", "to connect to"), ("endpoints", "to serve")):
        if not in_force(reading, group) and find(reading.tree, (group,)) is None:
            reading.fault((group,), f"none {purpose} (expected a table such as [{group}.NAME])")
    for name in in_force(reading, "servers"):
        _check_trust(reading, name)
        _check_proxy(reading, name)
    for name, endpoint in in_force(reading, "endpoints").items():
        _check_endpoint(reading, name, endpoint)
    _check_transports(reading)
    _check_keypairs(reading)
    _check_extensions(reading)
    _check_names(reading)


def _check_trust(reading: Reading, server: str) -> None:
    """At most one of `ca`, `pin` and `insecure` decides whether a relay is trusted."""
    path = ("servers", server)
    table = reading.values["servers"][server]
    chosen = [key for key in ("ca", "pin", "insecure") if table.get(key)]
    for key in chosen[1:]:
        reading.fault((*path, key), f"excludes {chosen[0]} (expected one of ca, pin, insecure)")


def _check_proxy(reading: Reading, server: str) -> None:
    table = reading.values["servers"][server]
    if table.get("proxy") and _transport(reading, server) == "quic":
        reading.fault(("servers", server, "proxy"), 'carries no UDP, but transport is "quic"')


def _transport(reading: Reading, server: str) -> str | None:
    """Return how a relay is reached, or None where what says so has a fault."""
    own = ("servers", server, "transport")
    written = own if find(reading.tree, own) is not None else ("client", "transport")
    word: str | None = value_at(reading, written)
    return word


def _check_transports(reading: Reading) -> None:
    """Fault each key about a transport that no relay is reached by.

    Those of `[client]` have a meaning as long as one relay gives it to them.
    """
    used = {server: _transport(reading, server) for server in in_force(reading, "servers")}
    for server, transport in used.items():
        _check_use(reading, ("servers", server, "pool_size"), ("auto", "h2"), {transport})
    _check_use(reading, ("client", "pool_size"), ("auto", "h2"), {*used.values()})
    _check_use(reading, ("client", "probe_interval"), ("auto",), {*used.values()})


def _check_use(
    reading: Reading, path: KeyPath, allowed: tuple[str, ...], used: set[str | None]
) -> None:
    """Fault the key at `path` if it is written in a file and none of `used` is `allowed`.

    Flags override files: neither they nor what they leave without a meaning are faults.
    """
    if find(reading.tree, path) is None or not used or None in used or used & {*allowed}:
        return
    if _is_flag(reading, path) or _is_flag(reading, ("client", "transport")):
        return
    wanted = " or ".join(f'transport = "{word}"' for word in allowed)
    found = " and ".join(sorted(f'"{word}"' for word in used))
    reading.fault(path, f"belongs to {wanted}, but {found} is in force")


def _is_flag(reading: Reading, path: KeyPath) -> bool:
    """Say whether a value is from the command line: what stands in a file has its line."""
    node = find(reading.tree, path)
    return isinstance(node, Leaf) and node.where.line is None


def _check_keypairs(reading: Reading) -> None:
    """Fault each keypair that no endpoint refers to; a masked one counts, for it may come back."""
    endpoints, keypairs = (find(reading.tree, (group,)) for group in ("endpoints", "keypairs"))
    wanted = {_keypair(reading, name) for name in getattr(endpoints, "entries", ())}
    if not wanted <= {*getattr(keypairs, "entries", ())}:
        return  # a reference that is misspelt, or not understood, may be the one to it
    for name in in_force(reading, "keypairs"):
        if name not in wanted:
            reading.fault(("keypairs", name), "no endpoint refers to it")


def _keypair(reading: Reading, endpoint: str) -> str | None:
    """Return the keypair that an endpoint names, or None where that is not understood."""
    path = ("endpoints", endpoint, "keypair")
    understood: str | None = value_at(reading, path)
    node = find(reading.tree, path)
    if understood is not None or not isinstance(node, Leaf):
        return understood
    return node.value if isinstance(node.value, str) and "${" not in node.value else None


def _check_endpoint(reading: Reading, name: str, endpoint: dict[str, Any]) -> None:
    path = ("endpoints", name)
    check_needs(reading, path, "certificate", {"files": FILES})
    if endpoint.get("certificate") == "acme":
        for key in ("suffix", "names"):
            check_public(reading, (*path, key))
    if keypair := endpoint.get("keypair"):
        check_references(reading, (*path, "keypair"), (keypair,), "keypairs")
    check_references(reading, (*path, "servers"), endpoint.get("servers", ()), "servers")
    suffix = endpoint.get("suffix", "")
    for custom in endpoint.get("names", ()):
        if has_id_shape(custom, suffix):
            message = f'"{custom}" has the shape of an id (a custom name must not)'
            reading.fault((*path, "names"), message)


def _check_extensions(reading: Reading) -> None:
    """A connection proves one key and sends one extension, so a keypair can have only one."""
    first: dict[str, tuple[str, bytes]] = {}
    for name, endpoint in in_force(reading, "endpoints").items():
        extension = endpoint.get("certificate_extension_hex")
        keypair = endpoint.get("keypair")
        if extension is None or keypair is None:
            continue
        other, expected = first.setdefault(keypair, (name, extension))
        if extension != expected:
            reading.fault(
                ("endpoints", name, "certificate_extension_hex"),
                f"differs from that of endpoints.{other}, which has the same keypair",
            )


def _check_names(reading: Reading) -> None:
    """Two endpoints must not serve one name at one relay."""
    for one, other in combinations(in_force(reading, "endpoints").items(), 2):
        if not _servers(reading, one[1]) & _servers(reading, other[1]):
            continue
        id_name = _id_name(reading, other[1])
        if id_name is not None and id_name == _id_name(reading, one[1]):
            reading.fault(("endpoints", other[0]), f"has the same name as endpoints.{one[0]}")
        for name in other[1].get("names", ()):
            if name in one[1].get("names", ()):
                message = f'"{name}" is a name of endpoints.{one[0]} already'
                reading.fault(("endpoints", other[0], "names"), message)


def _servers(reading: Reading, endpoint: dict[str, Any]) -> set[str]:
    return set(endpoint.get("servers") or in_force(reading, "servers"))


def _id_name(reading: Reading, endpoint: dict[str, Any]) -> tuple[Any, ...] | None:
    """Return what the endpoint's id and suffix come from, or None where that has faults."""
    keypair = value_at(reading, ("keypairs", endpoint.get("keypair", "")))
    if not keypair or "file" not in keypair or "suffix" not in endpoint:
        return None
    return keypair["file"], keypair.get("id_bits"), endpoint["suffix"]
