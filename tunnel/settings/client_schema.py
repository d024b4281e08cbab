"""Every section and key of client.toml."""

from dataclasses import replace

from tunnel.settings.file_kinds import IDENTITY_FILE, PUBLIC_FILE, SECRET_FILE
from tunnel.settings.kinds import FLAG, array, choice, duration, text, whole
from tunnel.settings.network_kinds import (
    ALPN,
    CUSTOM_NAME,
    DOMAIN,
    FINGERPRINT,
    HEX,
    HOST,
    ID_BITS,
    NETWORK,
    PROXY,
    SERVER,
    TARGET,
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
    state_dir_key,
)

_TRANSPORT = choice("auto", "quic", "h2")
_POOL_SIZE = whole(1, 64)

_TLS_ENDED = ("certificate", ("self-signed", "files", "acme"))  # visitors' TLS ends here
_ORDERED = ("certificate", ("acme",))

_CLIENT = Section(
    ("client",),
    "The process as a whole.",
    (
        state_dir_key("client", "where its certificates are kept"),
        Key(
            "transport",
            _TRANSPORT,
            "`auto`: QUIC first, HTTP/2 when UDP does not pass, back when it does; or only one of "
            "them",
            "auto",
        ),
        Key("pool_size", _POOL_SIZE, "HTTP/2 connections per relay", 4),
        DRAIN_TIMEOUT,
        Key(
            "probe_interval",
            duration(1, 900),
            "on HTTP/2 in `auto`: how often QUIC is tried (doubles to 15 min while it fails)",
            "60s",
        ),
        Key(
            "direct",
            choice("auto", "on", "off"),
            "TCP connections that carry one visitor each, past all framing, where the relay offers "
            "them: `auto` while the path loses under 0.1 % or TCP has BBR",
            "auto",
        ),
    ),
)

_SERVERS = Section(
    ("servers", ANY),
    "Relays; all of them are used in parallel.",
    (
        ENABLED,
        Key("address", SERVER, "host, or host:port (port 4433 unless given)", REQUIRED),
        Key(
            "server_name",
            HOST,
            "the name that its certificate must have",
            Computed("the host of `address`", lambda _environment: None),
            "relay.example.org",
        ),
        Key("ca", PUBLIC_FILE, "trust these certificates instead of the system's", sample="ca.pem"),
        Key(
            "pin",
            FINGERPRINT,
            "trust the one key whose SubjectPublicKeyInfo has this SHA-256 (the relay prints it)",
            sample="sha256:" + "0" * 64,
        ),
        Key("insecure", FLAG, "trust anyone; warns at every start", default=False),
        Key(
            "transport",
            _TRANSPORT,
            "as in `[client]`, for this relay",
            Computed("that of `[client]`", lambda _environment: None),
            "h2",
        ),
        Key(
            "pool_size",
            _POOL_SIZE,
            "as in `[client]`, for this relay",
            Computed("that of `[client]`", lambda _environment: None),
            8,
        ),
        Key(
            "proxy",
            PROXY,
            "reach it by TCP through this proxy (QUIC goes past it); credentials by `${VARIABLE}`",
            sample="http://proxy.example.net:3128",
        ),
    ),
    TABLE_NAME,
    {"eu": {"address": "eu.example.org"}},
)

_KEYPAIRS = Section(
    ("keypairs", ANY),
    "Identity keys.",
    (
        ENABLED,
        Key("file", IDENTITY_FILE, "PKCS#8, PEM or DER; made (0600) if missing", REQUIRED),
        Key("id_bits", ID_BITS, "length of the id (64 keeps what the original made)", 128),
    ),
    TABLE_NAME,
    {"primary": {"file": "client.key"}},
)

_ENDPOINTS = Section(
    ("endpoints", ANY),
    "Names that are served: `{id}.{suffix}` → target.",
    (
        ENABLED,
        Key("keypair", text(64, "the name of a [keypairs.*] table"), "whose id it is", REQUIRED),
        Key("suffix", DOMAIN, "the relay's suffix", REQUIRED),
        Key("target", TARGET, "the service: `3000`, `host:port` or `unix:/run/app.sock`", REQUIRED),
        Key(
            "certificate",
            choice("self-signed", "files", "acme", "passthrough"),
            "what visitors see: `self-signed`, `files`, `acme` (from a certificate authority, see "
            "`[acme]`), or `passthrough` (the target speaks TLS itself)",
            "self-signed",
        ),
        *certificate_files("certificate"),
        Key(
            "before_certificate",
            choice("self-signed", "refuse"),
            "what visitors meet until the first certificate is there (only with `acme`)",
            "self-signed",
            only_with=_ORDERED,
        ),
        Key(
            "seed_file",
            SECRET_FILE,
            "key and certificate chain, PEM, to begin with where none is kept yet, such as the "
            "original wrote (only with `acme`)",
            sample="acme_cert.pem",
            only_with=_ORDERED,
        ),
        Key(
            "alpn",
            array(ALPN),
            'protocols offered to visitors; add `"h2"` if the target speaks cleartext HTTP/2 '
            "(not with `passthrough`)",
            ["http/1.1"],
            only_with=_TLS_ENDED,
        ),
        Key(
            "certificate_extension_hex",
            HEX,
            "OID 1.3.6.1.4.1.65535.1 in the self-signed certificate (with `acme`: the one before "
            "the first), and sent to the relay's authorisation",
            sample="deadbeef",
        ),
        Key(
            "names",
            array(CUSTOM_NAME, maximum=63),
            "custom names, if the relay grants them",
            [],
            ["shop.example.com"],
        ),
        Key(
            "servers",
            array(text(64, "the name of a [servers.*] table"), minimum=1),
            "relays to serve through",
            Computed("all of them", lambda _environment: None),
            ["eu"],
        ),
        Key(
            "proxy_protocol",
            choice("v1", "v2"),
            "tell the target the visitor's address in such a header",
            sample="v2",
        ),
        Key("allow", array(NETWORK), "only these visitors", [], ["203.0.113.0/24"]),
        Key("deny", array(NETWORK), "not these visitors; beats `allow`", [], ["203.0.113.7/32"]),
        Key(
            "visitor_ca",
            PUBLIC_FILE,
            "require a certificate of visitors, issued by these (not with `passthrough`)",
            sample="people.pem",
            only_with=_TLS_ENDED,
        ),
    ),
    TABLE_NAME,
    {"web": {"keypair": "primary", "suffix": "t.example.org", "target": "127.0.0.1:3000"}},
)

_HEARTBEAT = replace(
    HEARTBEAT, meaning=f"{HEARTBEAT.meaning}, unless the relay announces a longer one"
)

_TIMEOUTS = Section(("timeouts",), "Deadlines.", (REGISTER, LINGER, _HEARTBEAT))

_LIMITS = Section(("limits",), "Caps of the process.", (BUFFER_TOTAL,))

CLIENT = Schema(
    "client",
    (
        _CLIENT,
        _SERVERS,
        _KEYPAIRS,
        _ENDPOINTS,
        ACME,
        EAB,
        _LIMITS,
        FLOW,
        QUIC,
        _TIMEOUTS,
        ADMIN,
        LOG,
    ),
)
