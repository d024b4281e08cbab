"""Every section and key of relay.toml."""

import socket

from tunnel.settings.kinds import FLAG, RATE, array, choice, duration, text, whole
from tunnel.settings.network_kinds import (
    CUSTOM_NAME,
    DOMAIN,
    FINGERPRINT,
    GRANT,
    ID_BITS,
    LISTENER,
    NETWORK,
)
from tunnel.settings.schema import ANY, REQUIRED, Computed, Key, Schema, Section
from tunnel.settings.shared_sections import (
    ACME,
    ADMIN,
    BUFFER_TOTAL,
    DRAIN_TIMEOUT,
    EAB,
    ENABLED,
    FLOW,
    HEARTBEAT,
    LINGER,
    LOG,
    QUIC,
    REGISTER,
    TABLE_NAME,
    certificate_files,
    deadline,
    state_dir_key,
)

_RELAY = Section(
    ("relay",),
    "The process as a whole.",
    (
        Key(
            "name",
            text(64, "a word such as eu1"),
            "how it is called in logs and towards clients",
            Computed("the host name", lambda _environment: socket.gethostname()[:64] or "relay"),
            "eu1",
        ),
        state_dir_key(
            "relay", "where its certificate, known keys and stateless-reset key are kept"
        ),
        DRAIN_TIMEOUT,
        Key(
            "workers",
            whole(1, 64),
            "processes that share the listeners, for machines with as many cores to spare",
            1,
        ),
    ),
)

_ORDERED = ("mode", ("acme",))

_CERTIFICATE = Section(
    ("certificate",),
    "What clients see on the agents listeners.",
    (
        Key(
            "mode",
            choice("self-signed", "files", "acme"),
            "`self-signed` (kept in `state_dir`, its pin is printed), `files`, or `acme` (from a "
            "certificate authority, see `[acme]`)",
            "self-signed",
        ),
        *certificate_files("mode"),
        Key(
            "names",
            array(CUSTOM_NAME, minimum=1, maximum=100),
            "the relay's own names, all in one certificate (only with `acme`)",
            sample=["relay.example.org"],
            only_with=_ORDERED,
        ),
        Key(
            "keep_key",
            FLAG,
            "renewals certify the same key, so that pins hold (only with `acme`)",
            default=True,
            only_with=_ORDERED,
        ),
    ),
)

_LISTENERS = Section(
    ("listeners", ANY),
    "Where the relay listens.",
    (
        ENABLED,
        Key(
            "kind",
            choice("agents", "public", "shared"),
            "`agents`: clients connect here; `public`: visitors do; `shared`: both, on one port",
            REQUIRED,
        ),
        Key(
            "listen",
            array(LISTENER, minimum=1),
            'IP addresses and ports; `"fd:0.0.0.0:443"`: sockets that systemd has bound there',
            REQUIRED,
        ),
        Key(
            "transports",
            array(choice("quic", "h2", "direct"), minimum=1),
            "what clients may use: `quic` on UDP, `h2` on TCP, and besides one of them `direct`: "
            "connections on TCP that carry one visitor each (only `agents` and `shared`)",
            ["quic", "h2"],
            only_with=("kind", ("agents", "shared")),
        ),
        Key(
            "proxy_protocol_from",
            array(NETWORK),
            "balancers: a PROXY v1/v2 header is required from these and refused from others "
            "(only `public` and `shared`)",
            [],
            ["10.0.0.0/8"],
            only_with=("kind", ("public", "shared")),
        ),
    ),
    TABLE_NAME,
    {
        "agents": {"kind": "agents", "listen": ["0.0.0.0:4433", "[::]:4433"]},
        "public": {"kind": "public", "listen": ["0.0.0.0:8443", "[::]:8443"]},
    },
)

_SUFFIXES = Section(
    ("suffixes", ANY),
    "Domains under which clients get names: one table each, its name quoted.",
    (
        ENABLED,
        Key(
            "access",
            choice("listed", "open"),
            "`listed`: keys in `[clients.*]` only; `open`: anyone with a key",
            "listed",
        ),
        Key(
            "id_bits",
            array(ID_BITS, minimum=1),
            "accepted lengths of ids (64: made with the original)",
            [64, 128],
        ),
        Key("public_port", whole(1, 65535), "the port that URLs show", 443),
        Key(
            "certificates_per_week",
            whole(1, 1_000_000),
            "new certificates that clients may order through this relay in 7 days, all names under "
            "the suffix's registered domain together",
            45,
        ),
    ),
    DOMAIN,
    {"t.example.org": {"public_port": 8443}},
)

_CLIENTS = Section(
    ("clients", ANY),
    "Keys and what they may serve; usually one drop-in each.",
    (
        Key("enabled", FLAG, "`false`: the key is revoked, also under open suffixes", default=True),
        Key(
            "fingerprint", FINGERPRINT, "of the client's key (`client.pyz id` prints it)", REQUIRED
        ),
        Key("suffixes", array(DOMAIN), "suffixes under which its id is granted", []),
        Key("names", array(GRANT), "custom names granted, also `*.shop.example.com`", []),
    ),
    TABLE_NAME,
    {
        "shop": {
            "fingerprint": "sha256:" + "0" * 64,
            "suffixes": ["t.example.org"],
            "names": ["shop.example.com"],
        }
    },
    kept_when_masked="fingerprint",
    is_only_example=True,
)

_CLIENT_LIMITS = Section(
    ("clients", ANY, "limits"),
    "What one client may use.",
    (
        Key("streams", whole(1, 1000), "streams at once, over all its connections", 1000),
        Key("connections", whole(1, 1000), "connections at once", 16),
        Key("rate", RATE, "bytes per second, both directions together", sample="20MiB/s"),
    ),
)

_LIMITS = Section(
    ("limits",),
    "Caps of the relay as a whole.",
    (
        Key("connections", whole(1, 10_000_000), "connections of clients", 20000),
        Key("half_open", whole(1, 1_000_000), "unfinished handshakes; above: QUIC Retry", 100),
        Key(
            "visitors_per_address",
            whole(1, 1_000_000),
            "visitors at once from one address (IPv6: one /64)",
            256,
        ),
        BUFFER_TOTAL,
    ),
)

_TIMEOUTS = Section(
    ("timeouts",),
    "Deadlines.",
    (
        deadline("client_hello", "a visitor's whole ClientHello"),
        REGISTER,
        deadline("open_stream", "opening a stream to a client"),
        Key(
            "visitor_hold",
            duration(0, 60),
            "how long a visitor waits for a client that is away, if its name is listed or was "
            "served in the last 10 min",
            "5s",
        ),
        LINGER,
        Key(
            "idle_visitor",
            duration(1, 604800, may_be_off=True),
            "a visitor without a byte either way (off: TCP keepalive only)",
            "off",
        ),
        HEARTBEAT,
    ),
)

RELAY = Schema(
    "relay",
    (
        _RELAY,
        _CERTIFICATE,
        ACME,
        EAB,
        _LISTENERS,
        _SUFFIXES,
        _CLIENTS,
        _CLIENT_LIMITS,
        _LIMITS,
        FLOW,
        QUIC,
        _TIMEOUTS,
        ADMIN,
        LOG,
    ),
)
