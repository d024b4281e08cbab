"""What a reload would change, told from two sets of settings."""

import json
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import Any

import pytest

from tunnel.settings.client_schema import CLIENT
from tunnel.settings.relay_schema import RELAY
from tunnel.settings.reload import LIVE, ReloadOutcome, ReloadPlan, TableChanges, plan_reload
from tunnel.settings.schema import ANY, Schema
from tunnel.settings.tree import KeyPath, dotted
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
    Target,
)
from tunnel.stream import Address

HERE = Path("/srv")
FILE = HERE / "file"
NETWORKS = (ip_network("10.0.0.0/8"),)

RESTART = {
    RELAY.program: {("relay", "state_dir"), ("relay", "workers")},
    CLIENT.program: {("client", "state_dir")},
}
SETTINGS = {RELAY.program: RelaySettings, CLIENT.program: ClientSettings}

RELAY_SETTINGS = RelaySettings(
    name="eu1",
    state_dir=HERE,
    listeners={"public": ListenerSettings("public", "public", (Address("127.0.0.1", 443),))},
    suffixes={"t.test": SuffixSettings("t.test")},
    clients={"shop": ClientGrant("shop", b"s" * 32)},
)
CLIENT_SETTINGS = ClientSettings(
    state_dir=HERE,
    servers={"eu": ServerSettings("eu", Address("eu.test", 4433), "eu.test")},
    keypairs={"primary": KeypairSettings("primary", HERE / "client.key")},
    endpoints={"web": EndpointSettings("web", "primary", "t.test", Target(Address("::1", 3000)))},
)


# -- every key is known


def schema_keys(schema: Schema) -> Iterator[KeyPath]:
    """Yield every key that settings may have, ANY in the place of names."""
    for section in schema.sections:
        yield from ((*section.path, key.name) for key in section.keys)


@pytest.mark.parametrize("schema", [RELAY, CLIENT], ids=lambda schema: schema.program)
def test_every_key_either_is_live_or_needs_a_restart(schema: Schema) -> None:
    live, restart = LIVE[SETTINGS[schema.program]], RESTART[schema.program]
    assert not live & restart
    assert set(schema_keys(schema)) - live - restart == set()
    assert live - set(schema_keys(schema)) == set()


# -- every key is told


OTHERS: dict[type, Callable[[Any], Any]] = {
    bool: lambda value: not value,
    int: lambda value: value + 1,
    float: lambda value: value + 1,
    bytes: lambda _: b"o" * 32,
    str: lambda value: f"{value}-other",
    type(HERE): lambda value: value / "other",
    IPv4Network: lambda _: ip_network("::/0"),
    Target: lambda _: Target(path=FILE),
    Address: lambda _: Address("other.test", 9),
    type(None): lambda _: FILE,
    tuple: lambda value: (*value, other(value[0]) if value else "other"),
}


def other(value: object) -> Any:
    """Return another value of the same kind."""
    return OTHERS[type(value)](value)


FILLED: dict[type, Any] = {
    RelaySettings: replace(
        RELAY_SETTINGS,
        certificate=RelayCertificate("files", FILE, FILE, ("a.test",)),
        listeners={
            "public": ListenerSettings(
                "public", "shared", (Address("127.0.0.1", 443),), ("quic",), NETWORKS
            )
        },
        clients={
            "shop": ClientGrant("shop", b"s" * 32, ("t.test",), ("a.test",), GrantLimits(rate=9))
        },
        acme=AcmeSettings("url", "e", FILE, EabSettings("kid", FILE), FILE, 9.0),
        admin=AdminSettings(FILE, Address("127.0.0.1", 9)),
        timeouts=RelayTimeouts(idle_visitor=9.0),
    ),
    ClientSettings: replace(
        CLIENT_SETTINGS,
        servers={
            "eu": ServerSettings(
                "eu", Address("eu.test", 4433), "eu.test", FILE, b"p" * 32, proxy="http://p"
            )
        },
        endpoints={
            "web": EndpointSettings(
                "web",
                "primary",
                "t.test",
                Target(Address("::1", 3000)),
                seed_file=FILE,
                chain_file=FILE,
                key_file=FILE,
                certificate_extension=b"e",
                names=("a.test",),
                servers=("eu",),
                proxy_protocol="v1",
                allow=NETWORKS,
                deny=NETWORKS,
                visitor_ca=FILE,
            )
        },
        acme=AcmeSettings("url", "e", FILE, EabSettings("kid", FILE), FILE, 9.0),
        admin=AdminSettings(FILE, Address("127.0.0.1", 9)),
    ),
}


def variations(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield each key below a value of the settings, with the same value but for that key."""
    for each in fields(value):
        held, here = getattr(value, each.name), (*path, each.name)
        if isinstance(held, dict):
            for name, table in held.items():
                for key, changed in variations(table, (*here, name)):
                    yield key, replace(value, **{each.name: {**held, name: changed}})
        elif is_dataclass(held) and not isinstance(held, Target):
            for key, changed in variations(held, here):
                yield key, replace(value, **{each.name: changed})
        elif each.name != "name" or not path:  # that of a table is how it is found
            yield here, replace(value, **{each.name: other(held)})


def in_file(kind: type, path: KeyPath) -> KeyPath:
    """Return where a key of the values stands in a file."""
    process = "relay" if kind is RelaySettings else "client"
    *tables, key = path
    key = "certificate_extension_hex" if key == "certificate_extension" else key
    return (*(tables or (process,)), key)


@pytest.mark.parametrize("kind", FILLED, ids=lambda kind: kind.__name__)
def test_each_key_is_told_and_no_other(kind: type) -> None:
    old = FILLED[kind]
    told = {path: str(plan_reload(old, new)) for path, new in variations(old)}
    assert told == {path: dotted(in_file(kind, path)) for path in told}


def pattern(kind: type, path: KeyPath) -> KeyPath:
    """Return where a key stands in a file, ANY in the place of a name."""
    group, *rest = in_file(kind, path)
    is_named = isinstance(getattr(FILLED[kind], group, None), dict)
    return (group, ANY, *rest[1:]) if is_named else (group, *rest)


@pytest.mark.parametrize("schema", [RELAY, CLIENT], ids=lambda schema: schema.program)
def test_no_key_is_left_out_of_these_tests(schema: Schema) -> None:
    kind = SETTINGS[schema.program]
    in_values = set(schema_keys(schema))
    in_values -= {("client", "transport"), ("client", "pool_size")}  # resolved into servers
    switches = {path for path in in_values if path[-1] == "enabled" and path[0] != "clients"}
    varied = {pattern(kind, path) for path, _ in variations(FILLED[kind])}
    assert varied == in_values - switches


# -- what is told


CASES: dict[str, tuple[Any, Callable[[Any], Any], ReloadPlan]] = {
    "nothing": (RELAY_SETTINGS, replace, ReloadPlan()),
    "a listener added": (
        RELAY_SETTINGS,
        lambda old: replace(
            old,
            listeners={
                **old.listeners,
                "agents": ListenerSettings("agents", "agents", (Address("::", 4433),)),
            },
        ),
        ReloadPlan({"listeners": TableChanges(added=("agents",))}),
    ),
    "a suffix removed": (
        RELAY_SETTINGS,
        lambda old: replace(old, suffixes={}),
        ReloadPlan({"suffixes": TableChanges(removed=("t.test",))}),
    ),
    "a client revoked": (
        RELAY_SETTINGS,
        lambda old: replace(old, clients={"shop": replace(old.clients["shop"], enabled=False)}),
        ReloadPlan({"clients": TableChanges(changed={"shop": ("enabled",)})}),
    ),
    "a client's rate": (
        RELAY_SETTINGS,
        lambda old: replace(
            old, clients={"shop": replace(old.clients["shop"], limits=GrantLimits(9, 9, 9))}
        ),
        ReloadPlan(
            {
                "clients": TableChanges(
                    changed={"shop": ("limits.connections", "limits.rate", "limits.streams")}
                )
            }
        ),
    ),
    "several tables": (
        RELAY_SETTINGS,
        lambda old: replace(
            old,
            name="eu2",
            drain_timeout=1.0,
            limits=RelayLimits(half_open=1),
            log=LogSettings("debug"),
        ),
        ReloadPlan(
            keys={"relay": ("drain_timeout", "name"), "limits": ("half_open",), "log": ("level",)}
        ),
    ),
    "an authority's account": (
        CLIENT_SETTINGS,
        lambda old: replace(old, acme=AcmeSettings(eab=EabSettings("kid", FILE))),
        ReloadPlan(keys={"acme": ("eab.key_file", "eab.kid")}),
    ),
    "a server in the place of another": (
        CLIENT_SETTINGS,
        lambda old: replace(old, servers={"us": replace(old.servers["eu"], name="us")}),
        ReloadPlan({"servers": TableChanges(added=("us",), removed=("eu",))}),
    ),
    "a target": (
        CLIENT_SETTINGS,
        lambda old: replace(
            old, endpoints={"web": replace(old.endpoints["web"], target=Target(path=FILE))}
        ),
        ReloadPlan({"endpoints": TableChanges(changed={"web": ("target",)})}),
    ),
    "deadlines and windows": (
        CLIENT_SETTINGS,
        lambda old: replace(
            old,
            timeouts=ClientTimeouts(1.0),
            flow=FlowSettings(1),
            quic=QuicSettings(congestion="reno"),
            limits=ClientLimits(1),
        ),
        ReloadPlan(
            keys={
                "limits": ("buffer_total",),
                "flow": ("stream_window",),
                "quic": ("congestion",),
                "timeouts": ("register",),
            }
        ),
    ),
}


@pytest.mark.parametrize(("old", "change", "plan"), CASES.values(), ids=CASES)
def test_a_plan_tells_what_is_different(
    old: Any, change: Callable[[Any], Any], plan: ReloadPlan
) -> None:
    made = plan_reload(old, change(old))
    assert made == plan
    assert bool(made) == (plan != ReloadPlan())


def test_a_plan_shows_names_and_keys() -> None:
    new = replace(RELAY_SETTINGS, name="eu2", clients={}, suffixes={"x": SuffixSettings("x")})
    plan = plan_reload(RELAY_SETTINGS, new)
    assert str(plan) == '+suffixes.x, -suffixes."t.test", -clients.shop, relay.name'
    assert str(plan_reload(new, new)) == "nothing"
    assert (plan.touches("suffixes"), plan.touches("relay")) == (True, True)
    assert not plan.touches("listeners")


# -- what needs a restart


@pytest.mark.parametrize(
    ("old", "changes", "keys"),
    [
        (RELAY_SETTINGS, {"state_dir": FILE}, ("relay.state_dir",)),
        (
            RELAY_SETTINGS,
            {"workers": 2, "state_dir": FILE, "name": "x"},
            ("relay.state_dir", "relay.workers"),
        ),
        (CLIENT_SETTINGS, {"state_dir": FILE}, ("client.state_dir",)),
    ],
)
def test_what_holds_for_the_whole_life_of_a_process_needs_a_restart(
    old: Any, changes: dict[str, Any], keys: tuple[str, ...]
) -> None:
    assert plan_reload(old, replace(old, **changes)).restart_required == keys


@pytest.mark.parametrize(
    ("before", "after", "is_possible"),
    [
        (("127.0.0.1", 443), ("0.0.0.0", 443), False),  # noqa: S104 - never bound
        (("0.0.0.0", 443), ("127.0.0.1", 443), False),  # noqa: S104 - never bound
        (("::", 443), ("::1", 443), False),
        (("::", 443), ("127.0.0.1", 443), True),
        (("127.0.0.1", 443), ("127.0.0.2", 443), True),
        (("0.0.0.0", 443), ("0.0.0.0", 8443), True),  # noqa: S104 - never bound
    ],
)
def test_an_address_that_cannot_be_bound_beside_the_old_one_needs_a_restart(
    before: tuple[str, int], after: tuple[str, int], is_possible: bool
) -> None:
    old, new = (
        replace(
            RELAY_SETTINGS,
            listeners={"public": ListenerSettings("public", "public", (Address(*address),))},
        )
        for address in (before, after)
    )
    expected = () if is_possible else ("listeners.public.listen",)
    assert plan_reload(old, new).restart_required == expected


METRICS = AdminSettings(metrics=Address("127.0.0.1", 9601))


@pytest.mark.parametrize(
    ("old", "new", "keys"),
    [
        (CLIENT_SETTINGS, METRICS, ()),
        (replace(CLIENT_SETTINGS, admin=METRICS), AdminSettings(FILE), ()),
        (
            replace(CLIENT_SETTINGS, admin=METRICS),
            AdminSettings(metrics=Address("0.0.0.0", 9601)),  # noqa: S104 - never bound
            ("admin.metrics",),
        ),
        (RELAY_SETTINGS, AdminSettings(metrics=Address("127.0.0.1", 443)), ("admin.metrics",)),
    ],
)
def test_a_metrics_address_is_live_unless_another_one_is_in_its_way(
    old: Any, new: AdminSettings, keys: tuple[str, ...]
) -> None:
    assert plan_reload(old, replace(old, admin=new)).restart_required == keys


def test_a_listener_cannot_take_the_metrics_address_over() -> None:
    old = replace(RELAY_SETTINGS, admin=METRICS)
    listener = ListenerSettings("more", "public", (Address("127.0.0.1", 9601),))
    new = replace(RELAY_SETTINGS, listeners={**old.listeners, "more": listener})
    assert plan_reload(old, new).restart_required == ("listeners.more.listen",)


# -- as JSON


def test_an_outcome_is_json() -> None:
    plan = plan_reload(RELAY_SETTINGS, replace(RELAY_SETTINGS, workers=2, clients={}))
    outcome = ReloadOutcome(plan, ("a.toml:1: no",))
    assert json.loads(json.dumps(outcome.to_json())) == {
        "applied": False,
        "faults": ["a.toml:1: no"],
        "plan": {
            "tables": {"clients": {"added": [], "removed": ["shop"], "changed": {}}},
            "keys": {"relay": ["workers"]},
            "restart_required": ["relay.workers"],
        },
    }
    assert ReloadOutcome(None, ("x",)).to_json()["plan"] is None
