"""What good files load to: defaults, and every key that changes them."""

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.unit.settings.documents import CLIENT, FINGERPRINT, RELAY, client, relay, write
from tunnel.settings.client_schema import CLIENT as CLIENT_SCHEMA
from tunnel.settings.load import load_client, load_relay
from tunnel.settings.relay_schema import RELAY as RELAY_SCHEMA
from tunnel.settings.schema import Schema
from tunnel.settings.values import (
    AcmeSettings,
    ClientLimits,
    ClientSettings,
    ClientTimeouts,
    EabSettings,
    EndpointSettings,
    FlowSettings,
    InheritedAddress,
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

CLIENTS = f'[clients.shop]\nfingerprint = "{FINGERPRINT}"\n'

# Section, line, where it shows in the value, what it is there.
RELAY_KEYS: list[tuple[str, str, str, Any]] = [
    ("relay", 'name = "eu1"', "name", "eu1"),
    ("relay", 'state_dir = "/state"', "state_dir", Path("/state")),
    ("relay", 'drain_timeout = "2m"', "drain_timeout", 120.0),
    ("relay", "workers = 1", "workers", 1),
    ("limits", "connections = 7", "limits.connections", 7),
    ("limits", "half_open = 7", "limits.half_open", 7),
    ("limits", "visitors_per_address = 7", "limits.visitors_per_address", 7),
    ("limits", 'buffer_total = "2GiB"', "limits.buffer_total", 2 << 30),
    ("flow", 'stream_window = "128KiB"', "flow.stream_window", 128 << 10),
    ("flow", "stream_window_max = 1048576", "flow.stream_window_max", 1 << 20),
    ("flow", 'connection_window = "8MiB"', "flow.connection_window", 8 << 20),
    ("flow", 'parked_max = "32MiB"', "flow.parked_max", 32 << 20),
    ("quic", 'engine = "stock"', "quic.engine", "stock"),
    ("quic", 'congestion = "reno"', "quic.congestion", "reno"),
    ("timeouts", 'client_hello = "500ms"', "timeouts.client_hello", 0.5),
    ("timeouts", "register = 7", "timeouts.register", 7.0),
    ("timeouts", "open_stream = 7.5", "timeouts.open_stream", 7.5),
    ("timeouts", "visitor_hold = 0", "timeouts.visitor_hold", 0.0),
    ("timeouts", 'linger = "1h"', "timeouts.linger", 3600.0),
    ("timeouts", 'idle_visitor = "1d"', "timeouts.idle_visitor", 86400.0),
    ("timeouts", 'heartbeat = "60s"', "timeouts.heartbeat", 60.0),
    ("admin", 'socket = "/run/tunnel/a.sock"', "admin.socket", Path("/run/tunnel/a.sock")),
    ("admin", 'metrics = "[::1]:9601"', "admin.metrics", Address("::1", 9601)),
    ("log", 'level = "debug"', "log.level", "debug"),
    ("log", 'format = "json"', "log.format", "json"),
]

LISTENER = '[listeners.x]\nkind = "shared"\nlisten = ["[::1]:0"]\n'
ORDER = '[certificate]\nmode = "acme"\nnames = ["relay.example.com"]\n'

NAMED_RELAY_KEYS: list[tuple[str, str, str, Any]] = [
    (ORDER, "", "certificate.mode", "acme"),
    (ORDER, "", "certificate.names", ("relay.example.com",)),
    (ORDER, "", "certificate.keep_key", True),
    (ORDER, "keep_key = false", "certificate.keep_key", False),
    (f"{ORDER}[acme]\n", 'renew_before = "30d"', "acme.renew_before", 2_592_000.0),
    (LISTENER, "", "listeners.x.kind", "shared"),
    (LISTENER, "", "listeners.x.listen", (Address("::1", 0),)),
    (LISTENER, 'transports = ["h2"]', "listeners.x.transports", ("h2",)),
    (LISTENER, 'transports = ["h2", "direct"]', "listeners.x.transports", ("h2", "direct")),
    (
        LISTENER,
        'proxy_protocol_from = ["10.0.0.0/8"]',
        "listeners.x.proxy_protocol_from",
        (ip_network("10.0.0.0/8"),),
    ),
    ("[suffixes.u]\n", 'access = "open"', "suffixes.u.access", "open"),
    ("[suffixes.u]\n", "id_bits = [128]", "suffixes.u.id_bits", (128,)),
    ("[suffixes.u]\n", "public_port = 8443", "suffixes.u.public_port", 8443),
    ("[suffixes.u]\n", "certificates_per_week = 7", "suffixes.u.certificates_per_week", 7),
    (CLIENTS, "", "clients.shop.fingerprint", b"\xab" * 32),
    (CLIENTS, 'suffixes = ["t.example.org"]', "clients.shop.suffixes", ("t.example.org",)),
    (CLIENTS, 'names = ["*.a.example.com"]', "clients.shop.names", ("*.a.example.com",)),
    (CLIENTS, "limits.streams = 7", "clients.shop.limits.streams", 7),
    (CLIENTS, "limits.connections = 7", "clients.shop.limits.connections", 7),
    (CLIENTS, 'limits.rate = "20MiB/s"', "clients.shop.limits.rate", 20 << 20),
    (CLIENTS, "enabled = false", "clients.shop.enabled", False),
]

CLIENT_KEYS: list[tuple[str, str, str, Any]] = [
    ("client", 'state_dir = "/state"', "state_dir", Path("/state")),
    ("client", 'transport = "h2"', "servers.eu.transport", "h2"),
    ("client", "pool_size = 7", "servers.eu.pool_size", 7),
    ("client", "drain_timeout = 7", "drain_timeout", 7.0),
    ("client", 'probe_interval = "15m"', "probe_interval", 900.0),
    ("client", 'direct = "on"', "direct", "on"),
    ("limits", 'buffer_total = "2GiB"', "limits.buffer_total", 2 << 30),
    ("timeouts", "register = 7", "timeouts.register", 7.0),
    ("timeouts", "linger = 7", "timeouts.linger", 7.0),
    ("timeouts", "heartbeat = 7", "timeouts.heartbeat", 7.0),
    ("flow", 'stream_window = "128KiB"', "flow.stream_window", 128 << 10),
    ("quic", 'congestion = "reno"', "quic.congestion", "reno"),
    ("log", 'level = "error"', "log.level", "error"),
]

SERVER = '[servers.us]\naddress = "us.example.org:1"\n'
# A keypair needs an endpoint that refers to it.
TWO_KEYS = (
    '[endpoints.two]\nkeypair = "two"\nsuffix = "t.example.org"\ntarget = 3001\n'
    '[keypairs.two]\nfile = "two.key"\n'
)

ORDERED = 'certificate = "acme"\n'
IN_ACME = f"{ORDERED}[acme]\n"

NAMED_CLIENT_KEYS: list[tuple[str, str, str, Any]] = [
    (SERVER, "", "servers.us.address", Address("us.example.org", 1)),
    (SERVER, "", "servers.us.server_name", "us.example.org"),
    (SERVER, 'server_name = "x.example.org"', "servers.us.server_name", "x.example.org"),
    (SERVER, 'ca = "client.toml"', "servers.us.ca", "client.toml"),
    (SERVER, f'pin = "{FINGERPRINT}"', "servers.us.pin", b"\xab" * 32),
    (SERVER, "insecure = true", "servers.us.insecure", True),
    (SERVER, 'transport = "quic"', "servers.us.transport", "quic"),
    (SERVER, "pool_size = 7", "servers.us.pool_size", 7),
    (SERVER, 'proxy = "http://proxy:3128"', "servers.us.proxy", "http://proxy:3128"),
    (TWO_KEYS, "", "keypairs.two.file", "two.key"),
    (TWO_KEYS, "id_bits = 64", "keypairs.two.id_bits", 64),
    ("", "", "endpoints.web.keypair", "primary"),
    ("", "", "endpoints.web.suffix", "t.example.org"),
    ("", "", "endpoints.web.target", Target(Address("127.0.0.1", 3000))),
    ("", 'certificate = "passthrough"', "endpoints.web.certificate", "passthrough"),
    (ORDERED, "", "endpoints.web.certificate", "acme"),
    (ORDERED, "", "endpoints.web.before_certificate", "self-signed"),
    (ORDERED, 'before_certificate = "refuse"', "endpoints.web.before_certificate", "refuse"),
    (ORDERED, 'seed_file = "secret.key"', "endpoints.web.seed_file", "secret.key"),
    (ORDERED, 'alpn = ["h2"]', "endpoints.web.alpn", ("h2",)),
    (IN_ACME, 'directory = "letsencrypt-staging"', "acme.directory", "letsencrypt-staging"),
    (IN_ACME, 'directory = "https://ca:14000/dir"', "acme.directory", "https://ca:14000/dir"),
    (IN_ACME, 'email = "ops@example.org"', "acme.email", "ops@example.org"),
    (IN_ACME, 'ca = "client.toml"', "acme.ca", "client.toml"),
    (IN_ACME, 'account_file = "new.json"', "acme.account_file", "new.json"),
    (IN_ACME, 'renew_before = "12h"', "acme.renew_before", 43_200.0),
    (IN_ACME, 'preflight = "off"', "acme.preflight", "off"),
    ("", 'alpn = ["h2", "http/1.1"]', "endpoints.web.alpn", ("h2", "http/1.1")),
    (
        "",
        'certificate_extension_hex = "deadbeef"',
        "endpoints.web.certificate_extension",
        b"\xde\xad\xbe\xef",
    ),
    ("", 'names = ["a.example.com"]', "endpoints.web.names", ("a.example.com",)),
    ("", "", "endpoints.web.servers", ("eu",)),
    ("", 'servers = ["eu"]', "endpoints.web.servers", ("eu",)),
    ("", 'proxy_protocol = "v2"', "endpoints.web.proxy_protocol", "v2"),
    ("", 'allow = ["10.0.0.0/8"]', "endpoints.web.allow", (ip_network("10.0.0.0/8"),)),
    ("", 'deny = ["2001:db8::/32"]', "endpoints.web.deny", (ip_network("2001:db8::/32"),)),
    ("", 'visitor_ca = "client.toml"', "endpoints.web.visitor_ca", "client.toml"),
]

# Two files that exist only where a test makes them.
FROM_FILES = 'chain_file = "chain.pem"\nkey_file = "key.pem"\n'


def at(value: Any, path: str) -> Any:
    for part in path.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value


def settled(expected: Any, path: str, folder: Path) -> Any:
    """Return the expected value; a plain name where a path is due is one in the folder."""
    is_path = path.rsplit(".", 1)[-1] in ("ca", "file", "visitor_ca", "seed_file", "account_file")
    return folder / expected if is_path else expected


@pytest.mark.parametrize(("section", "line", "path", "expected"), RELAY_KEYS)
def test_a_relays_key_shows_in_its_value(
    tmp_path: Path, section: str, line: str, path: str, expected: Any
) -> None:
    assert at(relay(tmp_path, f"[{section}]\n{line}\n"), path) == expected


@pytest.mark.parametrize(("table", "line", "path", "expected"), NAMED_RELAY_KEYS)
def test_a_key_of_a_relays_named_table_shows_in_its_value(
    tmp_path: Path, table: str, line: str, path: str, expected: Any
) -> None:
    assert at(relay(tmp_path, f"{table}{line}\n"), path) == expected


@pytest.mark.parametrize(("section", "line", "path", "expected"), CLIENT_KEYS)
def test_a_clients_key_shows_in_its_value(
    tmp_path: Path, section: str, line: str, path: str, expected: Any
) -> None:
    assert at(client(tmp_path, f"[{section}]\n{line}\n"), path) == expected


@pytest.mark.parametrize(("table", "line", "path", "expected"), NAMED_CLIENT_KEYS)
def test_a_key_of_a_clients_named_table_shows_in_its_value(
    tmp_path: Path, table: str, line: str, path: str, expected: Any
) -> None:
    write(tmp_path, "secret.key", "").chmod(0o600)
    value = at(client(tmp_path, f"{table}{line}\n"), path)
    assert value == settled(expected, path, tmp_path)


@pytest.mark.parametrize("program", ["relay", "client"])
def test_a_certificate_from_files(tmp_path: Path, program: str) -> None:
    write(tmp_path, "chain.pem", "")
    write(tmp_path, "key.pem", "").chmod(0o600)
    if program == "relay":
        certificate: Any = relay(
            tmp_path, f'[certificate]\nmode = "files"\n{FROM_FILES}'
        ).certificate
    else:
        certificate = client(tmp_path, f'certificate = "files"\n{FROM_FILES}').endpoints["web"]
    assert certificate.chain_file == tmp_path / "chain.pem"
    assert certificate.key_file == tmp_path / "key.pem"


BINDINGS = [
    'eab = { kid = "kid-1", key_file = "secret.key" }',
    '[acme.eab]\nkid = "kid-1"\nkey_file = "secret.key"',
]


@pytest.mark.parametrize("text", BINDINGS)
def test_a_binding_is_an_inline_table_or_a_section(tmp_path: Path, text: str) -> None:
    key_file = write(tmp_path, "secret.key", "")
    key_file.chmod(0o600)
    settings = client(tmp_path, f'{IN_ACME}directory = "zerossl"\n{text}\n')
    assert settings.acme == AcmeSettings("zerossl", eab=EabSettings("kid-1", key_file))


def known_keys(schema: Schema) -> set[str]:
    """Return the last two words of every key, `enabled` aside."""
    return {
        f"{[part for part in section.path if part != '*'][-1]}.{key.name}"
        for section in schema.sections
        for key in section.keys
        if key.name != "enabled"
    }


INSTANCES = {"x", "u", "shop", "us", "two", "web"}  # names of tables above
TESTED_APART = {
    *(f"{t}.{k}" for t in ("certificate", "endpoints") for k in ("chain_file", "key_file")),
    *("eab.kid", "eab.key_file"),
}
SHARED = ("flow", "quic", "admin", "log", "acme")  # sections of both programs, told once


def told(rows: list[tuple[str, str, str, Any]]) -> set[str]:
    """Return the keys of a table above, as `known_keys` does."""
    keys = set()
    for section, line, path, _ in rows:
        words = [part for part in path.split(".") if part not in INSTANCES]
        key = line.partition(" =")[0].rpartition(".")[2] or words[-1]
        is_named = "\n" in section or not section
        keys.add(f"{words[-2] if is_named else section}.{key}")
    return keys


def test_no_key_is_left_out_of_these_tables() -> None:
    relay_keys = told(RELAY_KEYS) | told(NAMED_RELAY_KEYS) | TESTED_APART
    client_keys = told(CLIENT_KEYS) | told(NAMED_CLIENT_KEYS) | TESTED_APART
    shared = {key for key in relay_keys | client_keys if key.split(".")[0] in SHARED}
    assert known_keys(RELAY_SCHEMA) - relay_keys - shared == set()
    assert known_keys(CLIENT_SCHEMA) - client_keys - shared == set()


def test_the_defaults_of_a_relay_are_those_of_the_values(tmp_path: Path) -> None:
    settings = load_relay(write(tmp_path, "relay.toml", RELAY), {"STATE_DIRECTORY": "/state"})
    assert settings == RelaySettings(
        name=settings.name,
        state_dir=Path("/state"),
        listeners={
            "agents": ListenerSettings("agents", "agents", (Address("127.0.0.1", 4433),)),
            "public": ListenerSettings("public", "public", (Address("127.0.0.1", 8443),)),
        },
        suffixes={"t.example.org": SuffixSettings("t.example.org")},
        certificate=RelayCertificate(),
        limits=RelayLimits(),
        flow=FlowSettings(),
        quic=QuicSettings(),
        timeouts=RelayTimeouts(),
        log=LogSettings(),
    )


def test_the_defaults_of_a_client_are_those_of_the_values(tmp_path: Path) -> None:
    settings = load_client(write(tmp_path, "client.toml", CLIENT), {"STATE_DIRECTORY": "/state"})
    target = Target(Address("127.0.0.1", 3000))
    host = "eu.example.org"
    assert settings == ClientSettings(
        state_dir=Path("/state"),
        servers={"eu": ServerSettings("eu", Address(host, 4433), host)},
        keypairs={"primary": KeypairSettings("primary", tmp_path / "client.key")},
        endpoints={
            "web": EndpointSettings("web", "primary", "t.example.org", target, servers=("eu",))
        },
        limits=ClientLimits(),
        flow=FlowSettings(),
        quic=QuicSettings(),
        timeouts=ClientTimeouts(),
        log=LogSettings(),
    )


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"STATE_DIRECTORY": "/a:/b", "XDG_STATE_HOME": "/x"}, Path("/a")),
        ({"XDG_STATE_HOME": "/x"}, Path("/x/tunnel-relay")),
        ({}, Path.home() / ".local/state/tunnel-relay"),
    ],
)
def test_the_state_directory_follows_the_environment(
    tmp_path: Path, environment: dict[str, str], expected: Path
) -> None:
    path = write(tmp_path, "relay.toml", RELAY)
    assert load_relay(path, environment).state_dir == expected


def test_an_address_behind_fd_is_one_that_systemd_has_bound(tmp_path: Path) -> None:
    listen = 'listen = ["fd:0.0.0.0:443", "fd:[2001:DB8:0:0::1]:443"]'
    path = write(tmp_path, "relay.toml", f'{RELAY}[listeners.x]\nkind = "public"\n{listen}\n')
    one, other = load_relay(path, {}).listeners["x"].listen
    assert (one, other) == (
        InheritedAddress("0.0.0.0", 443),  # noqa: S104 - what is tested
        InheritedAddress("2001:db8::1", 443),
    )
    assert (str(one), str(other)) == ("fd:0.0.0.0:443", "fd:[2001:db8::1]:443")


def test_an_address_that_systemd_has_bound_is_not_the_same_as_one_to_bind() -> None:
    inherited, plain = InheritedAddress("127.0.0.1", 443), Address("127.0.0.1", 443)
    assert inherited != plain
    assert plain != inherited
    assert len({inherited, plain}) == 2


def test_an_ipv6_address_is_as_the_kernel_writes_it(tmp_path: Path) -> None:
    text = RELAY.replace("127.0.0.1:8443", "[0:0:0:0::1]:8443")
    listener = load_relay(write(tmp_path, "relay.toml", text), {}).listeners["public"]
    assert listener.listen == (Address("::1", 8443),)


def test_paths_may_lead_into_the_directory_of_systemds_credentials(tmp_path: Path) -> None:
    text = CLIENT.replace('"client.key"', '"${CREDENTIALS_DIRECTORY}/client.key"')
    path = write(tmp_path, "client.toml", text)
    environment = {"CREDENTIALS_DIRECTORY": "/run/credentials/tunnel-client.service"}
    keypair = load_client(path, environment).keypairs["primary"]
    assert keypair.file == Path("/run/credentials/tunnel-client.service/client.key")


def test_udp_and_tcp_may_share_a_port(tmp_path: Path) -> None:
    text = RELAY.replace("4433", "443").replace("8443", "443")
    text = text.replace("[listeners.public]", 'transports = ["quic"]\n[listeners.public]')
    assert len(relay(tmp_path, base=text).listeners) == 2


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ('"3000"', Target(Address("127.0.0.1", 3000))),
        ('"db.internal:5432"', Target(Address("db.internal", 5432))),
        ('"[::1]:80"', Target(Address("::1", 80))),
        ('"unix:/run/app.sock"', Target(path=Path("/run/app.sock"))),
    ],
)
def test_targets(tmp_path: Path, target: str, expected: Target) -> None:
    settings = client(tmp_path, base=CLIENT.replace("3000", target))
    assert settings.endpoints["web"].target == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("eu", Address("eu", 4433)),
        ("192.0.2.1", Address("192.0.2.1", 4433)),
        ("2001:db8::1", Address("2001:db8::1", 4433)),
        ("[2001:db8::1]:5", Address("2001:db8::1", 5)),
        ("EU.example.org:5", Address("eu.example.org", 5)),
    ],
)
def test_addresses_of_servers(tmp_path: Path, address: str, expected: Address) -> None:
    settings = client(tmp_path, base=CLIENT.replace("eu.example.org", address))
    assert settings.servers["eu"].address == expected


def test_what_logs_in_to_a_proxy_is_never_shown() -> None:
    server = ServerSettings("eu", Address("eu", 4433), "eu", proxy="http://me:secret@proxy:3128")
    assert "secret" not in repr(server)
