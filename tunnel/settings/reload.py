"""What a reload would change, as a value made of two sets of settings. Pure: nothing is read.

Applying it is for the rooms of the two programs.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from tunnel.errors import SettingsError
from tunnel.settings.schema import ANY
from tunnel.settings.tree import KeyPath, dotted
from tunnel.settings.values import ClientSettings, ListenerSettings, RelaySettings
from tunnel.stream import Address

S = TypeVar("S", RelaySettings, ClientSettings)
Settings = RelaySettings | ClientSettings

Keys = tuple[str, ...]
Socket = tuple[str, Address, str]  # udp | tcp, the address, and of port 0 and metrics whose it is


def _keys(section: str, names: str) -> frozenset[KeyPath]:
    return frozenset((*section.split(), *name.split(".")) for name in names.split())


_SHARED = (
    _keys("acme", "directory email ca account_file renew_before preflight eab.kid eab.key_file")
    | _keys("flow", "stream_window stream_window_max connection_window parked_max")
    | _keys("quic", "engine congestion")
    | _keys("admin", "socket metrics")
    | _keys("log", "level format")
)

LIVE: Mapping[type, frozenset[KeyPath]] = {
    RelaySettings: _SHARED
    | _keys("relay", "name drain_timeout")
    | _keys("certificate", "mode chain_file key_file names keep_key")
    | _keys("listeners *", "enabled kind listen transports proxy_protocol_from")
    | _keys("suffixes *", "enabled access id_bits public_port certificates_per_week")
    | _keys("clients *", "enabled fingerprint suffixes names")
    | _keys("clients *", "limits.streams limits.connections limits.rate")
    | _keys("limits", "connections half_open visitors_per_address buffer_total")
    | _keys("timeouts", "client_hello register open_stream visitor_hold linger")
    | _keys("timeouts", "idle_visitor heartbeat"),
    ClientSettings: _SHARED
    | _keys("client", "transport pool_size drain_timeout probe_interval direct")
    | _keys("servers *", "enabled address server_name ca pin insecure transport pool_size proxy")
    | _keys("keypairs *", "enabled file id_bits")
    | _keys("endpoints *", "enabled keypair suffix target certificate chain_file key_file")
    | _keys("endpoints *", "before_certificate seed_file alpn certificate_extension_hex names")
    | _keys("endpoints *", "servers proxy_protocol allow deny visitor_ca")
    | _keys("limits", "buffer_total")
    | _keys("timeouts", "register linger heartbeat"),
}
"""The keys that take effect in a running program; every other one needs a restart."""

_PROCESS = {RelaySettings: "relay", ClientSettings: "client"}  # tables of what stands at the top
_WRITTEN_AS = {"certificate_extension": "certificate_extension_hex"}
_TABLES_BELOW = frozenset({"eab", "limits"})  # of a table; whatever else is a value is one key's


@dataclass(frozen=True, slots=True)
class TableChanges:
    """What becomes of tables whose names the operator chose; `changed` has the keys of each."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: Mapping[str, Keys] = field(default_factory=lambda: MappingProxyType({}))

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


@dataclass(frozen=True, slots=True)
class ReloadPlan:
    """What is different in new settings.

    `tables` are those with names below them (`listeners`), `keys` those of all other tables; what
    has not changed is in neither. Where `restart_required` names a key, nothing may be applied.
    """

    tables: Mapping[str, TableChanges] = field(default_factory=lambda: MappingProxyType({}))
    keys: Mapping[str, Keys] = field(default_factory=lambda: MappingProxyType({}))
    restart_required: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.tables or self.keys)

    def __str__(self) -> str:
        return said_of(self.to_json())

    def touches(self, table: str) -> bool:
        """Say whether anything of a table, or of a group of tables, is different."""
        return table in self.keys or table in self.tables

    def to_json(self) -> dict[str, object]:
        """Return the same as JSON objects and arrays, every table and key in order."""
        return {
            "tables": {
                group: {
                    "added": list(changes.added),
                    "removed": list(changes.removed),
                    "changed": {name: list(keys) for name, keys in changes.changed.items()},
                }
                for group, changes in self.tables.items()
            },
            "keys": {table: list(keys) for table, keys in self.keys.items()},
            "restart_required": list(self.restart_required),
        }


def said_of(plan: Mapping[str, Any]) -> str:
    """Return in one line what a plan, as it is in JSON, changes."""
    return ", ".join(_words(plan)) or "nothing"


def _words(plan: Mapping[str, Any]) -> Iterator[str]:
    for group, changes in plan["tables"].items():
        for sign, names in (("+", changes["added"]), ("-", changes["removed"])):
            yield from (sign + dotted((group, name)) for name in names)
        for name, keys in changes["changed"].items():
            yield from (f"{dotted((group, name))}.{key}" for key in keys)
    for table, keys in plan["keys"].items():
        yield from (f"{table}.{key}" for key in keys)


@dataclass(frozen=True, slots=True)
class ReloadOutcome:
    """What came of a reload: `faults` are why nothing was changed, one ready line each.

    Where it `is_applied` nevertheless, they are what went wrong once all else was in force.
    `plan` is None where the settings could not even be read.
    """

    plan: ReloadPlan | None = None
    faults: tuple[str, ...] = ()
    is_applied: bool = False

    def to_json(self) -> dict[str, object]:
        """Return the same as JSON objects and arrays."""
        return {
            "applied": self.is_applied,
            "faults": list(self.faults),
            "plan": None if self.plan is None else self.plan.to_json(),
        }


def plan_reload(old: S, new: S) -> ReloadPlan:
    """Return what is different in `new`, and what of it cannot be applied to a running program."""
    kind: type = type(old)
    tables: dict[str, TableChanges] = {}
    keys: dict[str, Keys] = {}
    for each in fields(old):
        before, after = getattr(old, each.name), getattr(new, each.name)
        if isinstance(before, Mapping):
            tables[each.name] = _table_changes(before, after)
        elif is_dataclass(before):
            keys[each.name] = _changed_keys(before, after)
        elif before != after:
            keys[_PROCESS[kind]] = tuple(sorted((*keys.get(_PROCESS[kind], ()), each.name)))
    changed_tables = {group: changes for group, changes in tables.items() if changes}
    changed_keys = {table: names for table, names in keys.items() if names}
    restart = set(_not_live(LIVE[kind], changed_tables, changed_keys))
    restart.update(_overlapping(old, new))
    return ReloadPlan(
        MappingProxyType(changed_tables), MappingProxyType(changed_keys), tuple(sorted(restart))
    )


def check_live(old: S, new: S) -> ReloadPlan:
    """Return the plan; raises SettingsError if it needs a restart."""
    plan = plan_reload(old, new)
    if plan.restart_required:
        raise SettingsError([f"{key}: needs a restart" for key in plan.restart_required])
    return plan


def _table_changes(before: Mapping[str, object], after: Mapping[str, object]) -> TableChanges:
    both = sorted(before.keys() & after.keys())
    changed = {name: _changed_keys(before[name], after[name]) for name in both}
    return TableChanges(
        tuple(sorted(after.keys() - before.keys())),
        tuple(sorted(before.keys() - after.keys())),
        MappingProxyType({name: keys for name, keys in changed.items() if keys}),
    )


def _changed_keys(before: object, after: object) -> Keys:
    one, other = dict(_flat(before)), dict(_flat(after))
    return tuple(sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key)))


def _flat(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield each key below a value with what it holds; what holds nothing is left out."""
    for each in fields(value) if is_dataclass(value) else ():
        name, held = _WRITTEN_AS.get(each.name, each.name), getattr(value, each.name)
        if is_dataclass(held) and name in _TABLES_BELOW:
            yield from _flat(held, f"{prefix}{name}.")
        elif held is not None:
            yield prefix + name, held


def _not_live(
    live: frozenset[KeyPath], tables: Mapping[str, TableChanges], keys: Mapping[str, Keys]
) -> Iterator[str]:
    for group, changes in tables.items():
        for name, names in changes.changed.items():
            for key in names:
                if (group, ANY, *key.split(".")) not in live:
                    yield f"{dotted((group, name))}.{key}"
    for table, names in keys.items():
        for key in names:
            if (table, *key.split(".")) not in live:
                yield f"{table}.{key}"


# -- sockets


def sockets_of(listeners: Iterable[ListenerSettings]) -> dict[Socket, ListenerSettings]:
    """Return every socket that listeners need, and which of them it is for."""
    return {
        (layer, address, "" if address.port else listener.name): listener
        for listener in listeners
        for address in listener.listen
        for layer in _layers(listener)
    }


def _layers(listener: ListenerSettings) -> Iterator[str]:
    if listener.kind != "agents" or not {"h2", "direct"}.isdisjoint(listener.transports):
        yield "tcp"
    if listener.kind != "public" and "quic" in listener.transports:
        yield "udp"


def _overlapping(old: Settings, new: Settings) -> Iterator[str]:
    """Yield the keys of addresses that cannot be bound as long as another one still is.

    Between `0.0.0.0` and an address of this machine no socket can be opened before the other is
    closed: visitors would be refused in between, and there would be no way back. Nor can listeners
    and the metrics address take over each other's.
    """
    before, after = _all_sockets(old), _all_sockets(new)
    for socket, key in after.items():
        if socket not in before and any(_overlap(socket, other) for other in before):
            yield dotted(key)


def _all_sockets(settings: Settings) -> dict[Socket, KeyPath]:
    """Return every socket that settings have bound, and which key says so."""
    sockets: dict[Socket, KeyPath] = {}
    if isinstance(settings, RelaySettings):
        listeners = sockets_of(settings.listeners.values()).items()
        sockets = {socket: ("listeners", each.name, "listen") for socket, each in listeners}
    if settings.admin.metrics is not None:
        sockets["tcp", settings.admin.metrics, "metrics"] = ("admin", "metrics")
    return sockets


def _overlap(one: Socket, other: Socket) -> bool:
    (layer, address, _), (also, second, _) = one, other
    return layer == also and address.overlaps(second)
